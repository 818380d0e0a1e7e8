"""What llama.cpp 0.5.0 takes for granted about models, by architecture and by tensor.

Drawn from src/llama-arch.cpp (which operation a tensor is used in), src/llama-model.cpp (`llama_model_rope_type`) and
the graphs in src/models, and confirmed by damaging a model of every architecture that upstream can make for its tests.
"""

from __future__ import annotations

# LLAMA_ROPE_TYPE_NONE: the rope keys of these are not used
_NO_ROPE = """
    clip gpt2 gptj mpt refact bloom mamba mamba2 jamba jina-bert-v2 t5 t5encoder jais rwkv6 rwkv6qwen2 rwkv7 arwkv7
    wavtokenizer-dec nemotron_h nemotron_h_moe kimi-linear kimi-k3 glm5-next
"""
NO_ROPE = frozenset(_NO_ROPE.split())

# always LLAMA_ROPE_TYPE_MROPE or IMROPE: a position is split in sections, and there must be some
SECTIONED_ROPE = frozenset({"qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp"})

# storage types that no matrix multiplication and no row look-up has a kernel for
NOT_FOR_WEIGHTS = frozenset({"i8", "i16", "i32", "i64", "f64", "q8_1", "q8_K"})

# tables of token ids, which are stored as i32
ID_TABLES = frozenset({"ffn_gate_tid2eid"})

# tensors that are added, multiplied, divided by, scanned or convolved with: the CPU knows these operations in F32 only,
# and fails them in a worker thread, where nothing can be caught
_ELEMENTWISE = """
    altup_correct_scale altup_router_norm attn_compressor_norm attn_conv_base attn_k_norm attn_kv_a_norm attn_norm
    attn_norm_2 attn_output_norm attn_q_a_norm attn_q_norm attn_res_score attn_sinks attn_sub_norm channel_mix_lerp_k
    channel_mix_lerp_r cls.norm cross_attn_norm exp_probs_b exp_probs_b_vl ffn.act ffn_conv_base ffn_norm ffn_norm_exps
    ffn_res_score ffn_routed_norm ffn_sub_norm gamma hc_attn_base hc_attn_norm hc_attn_scale hc_ffn_base hc_ffn_norm
    hc_ffn_scale hrm.z_l_init indexer.k_norm indexer.q_norm indexer_compressor_norm laurel_post_norm layer_output_norm
    layer_output_scale nextn.enorm nextn.hnorm nextn.shared_head_norm norm norm1 norm2 output_hc_base output_hc_norm
    output_hc_scale output_norm output_res_score per_layer_proj_norm ple_conv1d ple_norm_conv ple_norm_key
    ple_norm_query post_attention_norm post_ffw_norm post_ffw_norm_1 post_ffw_norm_2 post_norm pre_ffw_norm_2
    rope_factors_long rope_factors_short rope_freqs shortconv.conv ssm_a ssm_b_norm ssm_c_norm ssm_conv1d ssm_conv1d_k
    ssm_conv1d_q ssm_conv1d_v ssm_d ssm_dt_norm ssm_norm time_mix_a0 time_mix_decay time_mix_first time_mix_k_a
    time_mix_k_k time_mix_lerp_fused time_mix_lerp_g time_mix_lerp_k time_mix_lerp_r time_mix_lerp_v time_mix_lerp_w
    time_mix_lerp_x time_mix_ln time_mix_r_k time_mix_v0 time_mix_w0 token_embd_norm token_types
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())


# within a block, without `.weight`: when the first tensors are there, one of each group must be. The loader takes them
# for optional and the graph reads them without looking
_Companion = tuple[tuple[str, ...], list[tuple[str, ...]]]
_HYBRID: _Companion = (("ssm_conv1d",), [("ssm_conv1d.bias",)])
_DELTA_NET: _Companion = (("ssm_out",), [("attn_qkv",), ("attn_gate",)])
_ATTENTION: _Companion = (("attn_output",), [("attn_q", "attn_qkv"), ("attn_k", "attn_qkv"), ("attn_v", "attn_qkv")])
_INDEXER: list[tuple[str, ...]] = [("indexer.attn_k",), ("indexer.attn_q_b",), ("indexer.proj",)]
COMPANIONS: dict[str, list[_Companion]] = {
    "falcon-h1": [_HYBRID],
    "glm-dsa": [(name, _INDEXER) for name in _INDEXER],
    "granitehybrid": [_HYBRID],
    "hy_v3": [
        (
            ("ffn_gate_inp",),
            [("ffn_gate_up_exps", "ffn_gate_exps"), ("ffn_gate_up_exps", "ffn_up_exps"), ("ffn_down_exps",)],
        )
    ],
    "kimi-k3": [(("ffn_gate_shexp",), [("ffn_up_shexp",), ("ffn_down_shexp",)])],
    "mimo2": [(("ffn_gate_inp",), [("ffn_up_exps",), ("ffn_down_exps",)])],
    "nemotron_h": [_HYBRID],
    "nemotron_h_moe": [_HYBRID],
    "phi3": [_ATTENTION],
    "pockettts": [_ATTENTION],
    "qwen35": [_DELTA_NET],
    "qwen35moe": [_DELTA_NET],
    "qwen3next": [(("ssm_out",), [("attn_qkv", "ssm_in")]), (("ssm_out", "attn_qkv"), [("attn_gate",)])],
}

# tensors that the graph reads without looking in every model of the architecture
NEEDED: dict[str, tuple[str, ...]] = {
    "t5": ("enc.blk.0.attn_rel_b.weight", "dec.blk.0.attn_rel_b.weight"),
    "t5encoder": ("enc.blk.0.attn_rel_b.weight",),
}

# keys below the architecture's name that must be there and above zero: upstream divides by the number of heads, and
# without a window it makes another memory than the graph expects
NEEDED_KEYS: dict[str, tuple[str, ...]] = {
    "afmoe": ("attention.sliding_window",),
    "deepseek2-ocr": ("attention.head_count",),
    "olmo2": ("attention.head_count",),
    "phimoe": ("attention.head_count",),
}

# keys that upstream divides by without looking; missing ones have a default or are reported
DIVISORS: dict[str, tuple[str, ...]] = {
    "arwkv7": ("wkv.head_size",),
    "deepseek4": ("attention.output_group_count",),
    "grovemoe": ("experts_per_group",),
    "minimax-01": ("full_attention_interval",),
    "minimax-m3": ("attention.indexer.block_size",),
    "qwen35": ("full_attention_interval",),
    "qwen35moe": ("full_attention_interval",),
    "qwen3next": ("full_attention_interval",),
    "qwen4exp": ("ple.head_vocab_sizes",),
    "rwkv6": ("wkv.head_size",),
    "rwkv6qwen2": ("wkv.head_size",),
    "rwkv7": ("wkv.head_size",),
}

# without a size for experts, upstream divides the feed-forward length by the number of experts used
EXPERTS_SHARE_FFN = frozenset(
    {
        *("glm4moe", "grovemoe", "llada-moe", "mellum", "qwen2moe", "qwen35moe", "qwen3moe"),
        *("qwen3next", "qwen3vlmoe", "qwen4exp", "rnd1"),
    }
)
