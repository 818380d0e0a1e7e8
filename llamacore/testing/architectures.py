"""The metadata and the tensors that each supported architecture has in a GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidArgumentError
from .weights import Weights

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]
POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}


@dataclass(frozen=True)
class Shape:
    """What the builders need to know; see `tiny_model` for the meaning of each."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    n_expert: int
    n_expert_used: int
    n_nextn: int
    full_attention_interval: int
    n_swa: int
    tied: bool
    pooling: str
    labels: tuple[str, ...]

    @property
    def head_dim(self) -> int:
        """Size of an attention head."""
        return self.n_embd // self.n_head


def _attention_keys(shape: Shape) -> dict[str, Value]:
    return {
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "block_count": shape.n_layer + shape.n_nextn,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }


def _attention(weights: Weights, prefix: str, shape: Shape, *, q: int = 1, out: str = "attn_output") -> None:
    n_kv = shape.head_dim * shape.n_head_kv
    weights.matrix(f"{prefix}attn_q.weight", shape.n_embd, shape.n_embd * q)
    weights.matrix(f"{prefix}attn_k.weight", shape.n_embd, n_kv)
    weights.matrix(f"{prefix}attn_v.weight", shape.n_embd, n_kv)
    weights.matrix(f"{prefix}{out}.weight", shape.n_embd, shape.n_embd)


def _gated_ffn(weights: Weights, prefix: str, shape: Shape) -> None:
    weights.matrix(f"{prefix}ffn_gate.weight", shape.n_embd, shape.n_ff)
    weights.matrix(f"{prefix}ffn_up.weight", shape.n_embd, shape.n_ff)
    weights.matrix(f"{prefix}ffn_down.weight", shape.n_ff, shape.n_embd)


def _embeddings(weights: Weights, shape: Shape, *, norm: str = "output_norm.weight") -> None:
    weights.matrix("token_embd.weight", shape.n_embd, shape.n_vocab, std=1.0 if not shape.tied else None)
    weights.norm(norm, shape.n_embd)
    if not shape.tied:
        weights.matrix("output.weight", shape.n_embd, shape.n_vocab)


def llama(weights: Weights, shape: Shape) -> dict[str, Value]:
    """Dense attention, with `n_expert` a mixture of experts."""
    _embeddings(weights, shape)
    for layer in range(shape.n_layer):
        prefix = f"blk.{layer}."
        weights.norm(f"{prefix}attn_norm.weight", shape.n_embd)
        _attention(weights, prefix, shape)
        weights.norm(f"{prefix}ffn_norm.weight", shape.n_embd)
        if not shape.n_expert:
            _gated_ffn(weights, prefix, shape)
            continue
        weights.normal(f"{prefix}ffn_gate_inp.weight", shape.n_embd, shape.n_expert, std=shape.n_embd**-0.5)
        weights.matrix(f"{prefix}ffn_gate_exps.weight", shape.n_embd, shape.n_ff, shape.n_expert)
        weights.matrix(f"{prefix}ffn_up_exps.weight", shape.n_embd, shape.n_ff, shape.n_expert)
        weights.matrix(f"{prefix}ffn_down_exps.weight", shape.n_ff, shape.n_embd, shape.n_expert)
    keys = _attention_keys(shape) | {"rope.dimension_count": shape.head_dim, "vocab_size": shape.n_vocab}
    if shape.n_expert:
        keys |= {"expert_count": shape.n_expert, "expert_used_count": shape.n_expert_used}
    return keys


def gemma3(weights: Weights, shape: Shape) -> dict[str, Value]:
    """Sliding-window attention on the even layers, full attention on the odd ones."""
    _embeddings(weights, shape)
    for layer in range(shape.n_layer):
        prefix = f"blk.{layer}."
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            weights.norm(f"{prefix}{name}.weight", shape.n_embd)
        _attention(weights, prefix, shape)
        weights.norm(f"{prefix}attn_q_norm.weight", shape.head_dim)
        weights.norm(f"{prefix}attn_k_norm.weight", shape.head_dim)
        _gated_ffn(weights, prefix, shape)
    return _attention_keys(shape) | {
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.sliding_window": shape.n_swa,
        "attention.sliding_window_pattern": [layer % 2 == 0 for layer in range(shape.n_layer)],
    }


def qwen35(weights: Weights, shape: Shape) -> dict[str, Value]:
    """Gated delta nets, full attention on every `full_attention_interval`-th layer, and NextN (MTP) blocks."""
    d_state, n_group, n_value_heads, d_conv = shape.head_dim, shape.n_head_kv, shape.n_head, 4
    value_dim = d_state * n_value_heads
    conv_dim = 2 * d_state * n_group + value_dim
    interval = shape.full_attention_interval
    recurrent = [(layer + 1) % interval != 0 for layer in range(shape.n_layer)] + [False] * shape.n_nextn
    _embeddings(weights, shape)
    for layer, is_recurrent in enumerate(recurrent):
        prefix = f"blk.{layer}."
        weights.norm(f"{prefix}attn_norm.weight", shape.n_embd)
        weights.norm(f"{prefix}post_attention_norm.weight", shape.n_embd)
        if is_recurrent:
            weights.matrix(f"{prefix}attn_qkv.weight", shape.n_embd, conv_dim)
            weights.matrix(f"{prefix}attn_gate.weight", shape.n_embd, value_dim)
            weights.normal(f"{prefix}ssm_conv1d.weight", d_conv, conv_dim, std=0.3)
            weights.normal(f"{prefix}ssm_dt.bias", n_value_heads, mean=-3.0, std=0.5)
            weights.put(f"{prefix}ssm_a", -np.linspace(1.0, 4.0, n_value_heads, dtype=np.float32))
            weights.matrix(f"{prefix}ssm_beta.weight", shape.n_embd, n_value_heads)
            weights.matrix(f"{prefix}ssm_alpha.weight", shape.n_embd, n_value_heads)
            weights.norm(f"{prefix}ssm_norm.weight", d_state)
            weights.matrix(f"{prefix}ssm_out.weight", value_dim, shape.n_embd)
        else:
            _attention(weights, prefix, shape, q=2)  # the query projection carries the output gate as well
            weights.norm(f"{prefix}attn_q_norm.weight", shape.head_dim)
            weights.norm(f"{prefix}attn_k_norm.weight", shape.head_dim)
        _gated_ffn(weights, prefix, shape)
        if layer >= shape.n_layer:
            weights.matrix(f"{prefix}nextn.eh_proj.weight", 2 * shape.n_embd, shape.n_embd)
            for name in ("enorm", "hnorm", "shared_head_norm"):
                weights.norm(f"{prefix}nextn.{name}.weight", shape.n_embd)
    n_pairs = shape.head_dim // 2
    keys = _attention_keys(shape) | {
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.recurrent_layers": recurrent,
        "full_attention_interval": interval,
        "rope.dimension_count": shape.head_dim,
        "rope.dimension_sections": [n_pairs - 2 * (n_pairs // 3), n_pairs // 3, n_pairs // 3, 0],
        "ssm.conv_kernel": d_conv,
        "ssm.state_size": d_state,
        "ssm.group_count": n_group,
        "ssm.time_step_rank": n_value_heads,
        "ssm.inner_size": value_dim,
    }
    return keys | ({"nextn_predict_layers": shape.n_nextn} if shape.n_nextn else {})


def mamba(weights: Weights, shape: Shape) -> dict[str, Value]:
    """Selective state spaces only: a purely recurrent memory."""
    d_inner, d_state, d_conv, dt_rank = 2 * shape.n_embd, 16, 4, max(1, shape.n_embd // 16)
    _embeddings(weights, shape)
    for layer in range(shape.n_layer):
        prefix = f"blk.{layer}."
        weights.norm(f"{prefix}attn_norm.weight", shape.n_embd)
        weights.matrix(f"{prefix}ssm_in.weight", shape.n_embd, 2 * d_inner)
        weights.normal(f"{prefix}ssm_conv1d.weight", d_conv, d_inner, std=0.3)
        weights.normal(f"{prefix}ssm_conv1d.bias", d_inner)
        weights.matrix(f"{prefix}ssm_x.weight", d_inner, dt_rank + 2 * d_state)
        weights.matrix(f"{prefix}ssm_dt.weight", dt_rank, d_inner)
        weights.normal(f"{prefix}ssm_dt.bias", d_inner, mean=-3.0, std=0.5)
        weights.put(f"{prefix}ssm_a", -np.tile(np.arange(1, d_state + 1, dtype=np.float32), (d_inner, 1)))
        weights.norm(f"{prefix}ssm_d", d_inner)
        weights.matrix(f"{prefix}ssm_out.weight", d_inner, shape.n_embd)
    return {
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": shape.n_layer,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": d_conv,
        "ssm.inner_size": d_inner,
        "ssm.state_size": d_state,
        "ssm.time_step_rank": dt_rank,
    }


def bert(weights: Weights, shape: Shape) -> dict[str, Value]:
    """Encoder with pooled embeddings; with pooling "rank" a classifier of `labels`, or a reranker without."""
    weights.matrix("token_embd.weight", shape.n_embd, shape.n_vocab, std=1.0)
    weights.normal("token_types.weight", shape.n_embd, 2)
    weights.normal("position_embd.weight", shape.n_embd, shape.n_ctx_train)
    weights.norm("token_embd_norm.weight", shape.n_embd)
    weights.normal("token_embd_norm.bias", shape.n_embd)
    for layer in range(shape.n_layer):
        prefix = f"blk.{layer}."
        _attention(weights, prefix, shape)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_down", "attn_output_norm", "layer_output_norm"):
            weights.normal(f"{prefix}{name}.bias", shape.n_embd)
        weights.norm(f"{prefix}attn_output_norm.weight", shape.n_embd)
        weights.norm(f"{prefix}layer_output_norm.weight", shape.n_embd)
        weights.matrix(f"{prefix}ffn_up.weight", shape.n_embd, shape.n_ff)
        weights.normal(f"{prefix}ffn_up.bias", shape.n_ff)
        weights.matrix(f"{prefix}ffn_down.weight", shape.n_ff, shape.n_embd)
    keys: dict[str, Value] = {
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff,
        "block_count": shape.n_layer,
        "attention.head_count": shape.n_head,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "pooling_type": POOLING[shape.pooling],
    }
    if shape.pooling == "rank":
        n_labels = max(1, len(shape.labels))
        weights.matrix("cls.weight", shape.n_embd, shape.n_embd)
        weights.normal("cls.bias", shape.n_embd)
        weights.matrix("cls.output.weight", shape.n_embd, n_labels)
        weights.normal("cls.output.bias", n_labels)
        if shape.labels:
            keys["classifier.output_labels"] = list(shape.labels)
    return keys


def t5(weights: Weights, shape: Shape) -> dict[str, Value]:
    """Encoder and decoder of `n_layer` layers each, with relative position buckets."""
    n_buckets = 32
    weights.matrix("token_embd.weight", shape.n_embd, shape.n_vocab, std=1.0)
    weights.norm("enc.output_norm.weight", shape.n_embd)
    weights.norm("dec.output_norm.weight", shape.n_embd)
    if not shape.tied:
        weights.matrix("output.weight", shape.n_embd, shape.n_vocab)
    for half in ("enc", "dec"):
        for layer in range(shape.n_layer):
            prefix = f"{half}.blk.{layer}."
            weights.norm(f"{prefix}attn_norm.weight", shape.n_embd)
            _attention(weights, prefix, shape, out="attn_o")
            if layer == 0:
                weights.normal(f"{prefix}attn_rel_b.weight", shape.n_head, n_buckets, std=0.5)
            if half == "dec":
                weights.norm(f"{prefix}cross_attn_norm.weight", shape.n_embd)
                _attention(weights, f"{prefix}cross_", shape, out="attn_o")
            weights.norm(f"{prefix}ffn_norm.weight", shape.n_embd)
            _gated_ffn(weights, prefix, shape)
    keys = _attention_keys(shape)
    del keys["rope.freq_base"]
    return keys | {
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_epsilon": 1e-6,
        "attention.relative_buckets_count": n_buckets,
        "decoder_start_token_id": 0,
    }


@dataclass(frozen=True)
class Architecture:
    """How a model of one architecture is built.

    Attributes:
        build: Fills the weights and returns the metadata below `<architecture>.`.
        vocabulary: The kind it usually has.
        grouped: Whether there may be fewer key and value heads than query heads.
        options: The keyword arguments of `tiny_model` that only some architectures know and this one does.
    """

    build: Callable[[Weights, Shape], dict[str, Value]]
    vocabulary: str
    grouped: bool = True
    options: frozenset[str] = frozenset()


ARCHITECTURES = {
    "llama": Architecture(llama, "bpe", options=frozenset({"n_expert", "n_expert_used", "tied"})),
    "gemma3": Architecture(gemma3, "spm", options=frozenset({"n_swa", "tied"})),
    "qwen35": Architecture(qwen35, "bpe", options=frozenset({"n_nextn", "full_attention_interval", "tied"})),
    "mamba": Architecture(mamba, "bpe", options=frozenset({"tied"})),
    "bert": Architecture(bert, "wpm", grouped=False, options=frozenset({"pooling", "labels"})),
    "t5": Architecture(t5, "ugm", grouped=False, options=frozenset({"tied"})),
}


def architecture(name: str) -> Architecture:
    """Return the architecture of that name."""
    if name not in ARCHITECTURES:
        raise InvalidArgumentError(
            f"there is no tiny model of architecture {name!r}", hint=f"use one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
