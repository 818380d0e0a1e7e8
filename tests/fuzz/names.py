"""Names that llama.cpp 0.5.0 knows (src/llama-arch.cpp, src/llama-vocab.cpp): the vocabulary of the fuzzer."""

from __future__ import annotations

TOKENIZERS = tuple(b"gpt2 llama bert t5 rwkv plamo2 gemma4 none no_vocab hybriddna whitespace test".split())
ARCHITECTURES = tuple(
    b"""
    clip llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert
    nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2moe
    qwen2vl qwen3 qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp phi2 phi3 phimoe plamo plamo2
    plamo3 codeshell orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma4-assistant
    gemma-embedding starcoder2 mamba mamba2 maple jamba falcon-h1 xverse command-r cohere2 cohere2moe dbrx olmo
    olmo2 olmoe muse-glimmer openelm arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 chatglm glm4
    glm4moe glm-dsa bitnet t5 t5encoder jais jais2 nemotron nemotron_h nemotron_h_moe exaone exaone4 exaone-moe
    rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe granitehybrid graniteswitch granite_swa chameleon
    wavtokenizer-dec plm bailingmoe bailingmoe2 bailingmoe3 dots1 dots3note arcee afmoe laguna ernie4_5
    ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl hy_v3 hy_v4 smollm3 gpt-oss lfm2 lfm2moe dream smallthinker
    llada llada-moe seed_oss grovemoe apertus minimax-01 hrm_text minimax-m2 minimax-m3 cogvlm rnd1
    pangu-embedded mistral3 eagle3 dflash mistral4 paddleocr mimo2 step35 spark2_5 llama-embed maincoder
    kimi-linear kimi-k3 glm5-next talkie mellum nanbeige qwen3tts pockettts
    """.split()
)
PRE_TOKENIZERS = tuple(
    b"""
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling
    granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de
    jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna
    lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5 minimax-m2
    modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder smaug-bpe
    smollm solar-open spark2_5 stablelm2 starcoder superbpe talkie tekken tiny_aya trillion ufakzeka viking
    whitespace youtu
    """.split()
)
# below the architecture's name, whole numbers
INTEGER_KEYS = tuple(
    b"""
    vocab_size context_length embedding_length embedding_length_out embedding_length_per_layer_input
    features_length block_count leading_dense_block_count attn_res.block_size feed_forward_length
    expert_feed_forward_length expert_shared_feed_forward_length expert_chunk_feed_forward_length expert_count
    expert_used_count expert_shared_count expert_group_count expert_group_used_count expert_latent_length
    expert_gating_func experts_per_group moe_every_n_layers moe_latent_size nextn_predict_layers
    n_deepstack_layers pooling_type decoder_start_token_id decoder_block_count time_mix_extra_dim
    time_decay_extra_dim adapters.count adapters.lora_rank token_shift_count interleave_moe_layer_step
    full_attention_interval num_loops hrm.layers_per_stack hrm.h_cycles hrm.l_cycles attention.head_count
    attention.head_count_kv attention.key_length attention.value_length attention.group_norm_groups
    attention.q_lora_rank attention.kv_lora_rank attention.decay_lora_rank attention.iclr_lora_rank
    attention.value_residual_mix_lora_rank attention.gate_lora_rank attention.relative_buckets_count
    attention.sliding_window attention.temperature_length attention.key_length_mla attention.value_length_mla
    attention.key_length_swa attention.value_length_swa attention.key_length_mla_swa
    attention.value_length_mla_swa attention.kv_lora_rank_swa attention.indexer.head_count
    attention.indexer.key_length attention.indexer.top_k attention.indexer.block_size
    attention.indexer.local_blocks attention.output_group_count attention.output_lora_rank
    attention.shared_kv_layers hyper_connection.count hyper_connection.sinkhorn_iterations
    hyper_connection.low_rank ple.ngram_size ple.heads_per_ngram ple.conv_kernel ple.eos_token_id
    ple.image_token_id hash_layer_count rope.dimension_count rope.dimension_count_swa
    rope.scaling.original_context_length ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank
    ssm.group_count kda.head_dim wkv.head_size posnet.embedding_length posnet.block_count
    convnext.embedding_length convnext.block_count classifier.pooling_type target_hidden_size block_size
    conv_kernel_size conv_group_size selector_rank selector_top_k shortconv.l_cache dense_2_feat_in
    dense_2_feat_out dense_3_feat_in dense_3_feat_out
    """.split()
)
SPECIAL_KEYS = tuple(
    b"""
    tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.eot_token_id
    tokenizer.ggml.eom_token_id tokenizer.ggml.unknown_token_id tokenizer.ggml.seperator_token_id
    tokenizer.ggml.padding_token_id tokenizer.ggml.cls_token_id tokenizer.ggml.mask_token_id
    tokenizer.ggml.fim_pre_token_id tokenizer.ggml.fim_suf_token_id tokenizer.ggml.fim_mid_token_id
    tokenizer.ggml.fim_pad_token_id tokenizer.ggml.fim_rep_token_id tokenizer.ggml.fim_sep_token_id
    tokenizer.ggml.prefix_token_id tokenizer.ggml.suffix_token_id tokenizer.ggml.middle_token_id
    """.split()
)
# with the type that is expected: 2 and 4 whole numbers, 6 floating point, 7 yes or no, 8 text, 9 array
OTHER_KEYS = tuple(
    (key.encode(), kind)
    for kind, keys in {
        2: """
            split.no split.count
        """,
        4: """
            general.alignment general.file_type general.quantization_version tokenizer.ggml.token_type_count
        """,
        5: """
            split.tensors.count
        """,
        6: """
            %s.activation.situ_beta %s.activation.situ_linear_beta %s.swiglu_clamp_exp %s.swiglu_clamp_shexp
            %s.expert_weights_scale %s.expert_group_scale %s.logit_scale %s.attn_logit_softcapping
            %s.router_logit_softcapping %s.final_logit_softcapping %s.rescale_every_n_layers %s.residual_scale
            %s.embedding_scale %s.adapters.router_gain %s.attention.max_alibi_bias %s.attention.clamp_kqv
            %s.attention.layer_norm_epsilon %s.attention.layer_norm_rms_epsilon %s.attention.group_norm_epsilon
            %s.attention.scale %s.attention.output_scale %s.attention.value_scale %s.attention.temperature_scale
            %s.attention.compress_rope_freq_base %s.hyper_connection.epsilon %s.hyper_connection.magnitude
            %s.rope.freq_base %s.rope.freq_base_swa %s.rope.scale_linear %s.rope.scaling.factor %s.rope.scaling.alpha
            %s.rope.scaling.attn_factor %s.rope.scaling.yarn_log_multiplier %s.rope.scaling.yarn_ext_factor
            %s.rope.scaling.yarn_attn_factor %s.rope.scaling.yarn_beta_fast %s.rope.scaling.yarn_beta_slow
            %s.kda.gate_lower_bound
        """,
        7: """
            %s.use_parallel_residual %s.expert_weights_norm %s.swin_norm %s.skip_loop_final_norm %s.hrm.prefix_lm
            %s.attention.causal %s.rope.scaling.finetuned %s.ssm.dt_b_c_rms %s.kda.safe_gate %s.norm_before_residual
            %s.norm_before_fc tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token tokenizer.ggml.add_sep_token
            tokenizer.ggml.add_space_prefix tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.normalizer.lowercase
        """,
        8: """
            %s.tensor_data_layout %s.hidden_activation %s.rope.scaling.type general.name tokenizer.chat_template
        """,
        9: """
            %s.deepstack_mapping %s.adapters.token_ids_activate %s.adapters.token_ids_substitute
            %s.attention.sliding_window_pattern %s.attention.rope_pattern %s.attention.indexer.types
            %s.attention.indexer.kpool %s.attention.indexer.kpool_select_tail %s.attention.compress_ratios
            %s.attention.recurrent_layers %s.ple.layers %s.ple.layer_multipliers %s.ple.head_offsets
            %s.ple.head_vocab_sizes %s.rope.dimension_sections %s.classifier.output_labels %s.target_layers
            general.tensor_extra.name tokenizer.ggml.scores tokenizer.ggml.merges tokenizer.ggml.tokens
            tokenizer.ggml.token_type tokenizer.ggml.precompiled_charsmap tokenizer.ggml.suppress_tokens
        """,
    }.items()
    for key in keys.split()
)
