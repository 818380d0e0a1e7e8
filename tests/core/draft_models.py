"""Tiny draft models that read inner values of a target of architecture llama: EAGLE-3, DFlash and DSpark."""

from __future__ import annotations

from pathlib import Path

from llamacore.testing.models import _tokenizer_keys, write_gguf
from llamacore.testing.vocabularies import KINDS
from llamacore.testing.weights import Weights

WIDTH, HEADS, HEADS_KV, INNER, BLOCK = 64, 4, 2, 128, 4  # as tiny_model("llama")


def _keys(arch: str, layers: list[int]) -> dict[str, object]:
    keys: dict[str, object] = {
        "context_length": 512, "embedding_length": WIDTH, "block_count": 1, "feed_forward_length": INNER,
        "attention.head_count": HEADS, "attention.head_count_kv": HEADS_KV, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0, "target_layers": layers,
    }  # fmt: skip
    return {f"{arch}.{key}": value for key, value in keys.items()} | {"general.type": "model"}


def _write(path: Path, arch: str, keys: dict[str, object], weights: Weights) -> Path:
    return write_gguf(path, arch, keys | _tokenizer_keys(KINDS["spm"](None), None), weights)  # type: ignore[arg-type]


def _layer(weights: Weights, n_in: int) -> None:
    n_kv = WIDTH // HEADS * HEADS_KV
    weights.norm("blk.0.attn_norm.weight", WIDTH)
    for name, width in (("q", WIDTH), ("k", n_kv), ("v", n_kv)):
        weights.matrix(f"blk.0.attn_{name}.weight", n_in, width)
    weights.matrix("blk.0.attn_output.weight", WIDTH, WIDTH)
    weights.norm("blk.0.ffn_norm.weight", WIDTH)
    weights.matrix("blk.0.ffn_gate.weight", WIDTH, INNER)
    weights.matrix("blk.0.ffn_up.weight", WIDTH, INNER)
    weights.matrix("blk.0.ffn_down.weight", INNER, WIDTH)
    weights.norm("output_norm.weight", WIDTH)


def eagle3(path: Path, layers: list[int]) -> Path:
    """An EAGLE-3 model that reads these three layers and shares the target's embeddings and output."""
    weights = Weights(1, "f32")
    weights.matrix("fc.weight", 3 * WIDTH, WIDTH)
    weights.norm("blk.0.attn_norm_2.weight", WIDTH)
    _layer(weights, 2 * WIDTH)
    return _write(path, "eagle3", _keys("eagle3", layers) | {"eagle3.target_hidden_size": WIDTH}, weights)


def dflash(path: Path, layers: list[int], *, markov: bool = False) -> Path:
    """A DFlash model of blocks of four tokens; with `markov` it is a DSpark model."""
    weights = Weights(2, "f32")
    weights.matrix("fc.weight", len(layers) * WIDTH, WIDTH)
    weights.norm("enc.output_norm.weight", WIDTH)
    weights.norm("blk.0.attn_q_norm.weight", WIDTH // HEADS)
    weights.norm("blk.0.attn_k_norm.weight", WIDTH // HEADS)
    _layer(weights, WIDTH)
    vocabulary = KINDS["spm"](None)
    if markov:
        weights.matrix("markov_w1.weight", 16, len(vocabulary.tokens))
        weights.matrix("markov_w2.weight", 16, len(vocabulary.tokens))
    keys = _keys("dflash", layers) | {"dflash.block_size": BLOCK, "tokenizer.ggml.mask_token_id": 7}
    return _write(path, "dflash", keys, weights)
