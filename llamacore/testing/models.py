"""Random-weight GGUF models that llama.cpp loads and runs, written in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError, UnsupportedError
from .architectures import POOLING, Shape, Value, architecture
from .vocabularies import CHAT_TEMPLATE, CONTROL, KINDS, Vocabulary
from .weights import FILE_TYPES, Weights

# arch, n_layer, n_embd, n_head, n_head_kv, n_ff, n_nextn, full_attention_interval
_BENCH_SHAPES: dict[str, tuple[str, int, int, int, int | None, int, int | None, int | None]] = {
    "0.02b": ("llama", 2, 128, 4, None, 384, None, None),
    "0.04b": ("llama", 14, 192, 6, None, 1152, None, None),
    "0.1b": ("llama", 8, 512, 8, None, 1536, None, None),
    "0.5b": ("llama", 24, 896, 14, 2, 4864, None, None),
    "8b": ("llama", 32, 4096, 32, 8, 14336, None, None),
    "0.1b-mtp": ("qwen35", 8, 512, 8, None, 1536, 1, 4),
    "0.16b-mtp": ("qwen35", 24, 512, 8, None, 1536, 1, 4),
    "0.5b-mtp": ("qwen35", 24, 1024, 8, 2, 3584, 1, 4),
    "8b-mtp": ("qwen35", 32, 4096, 32, 8, 12288, 1, 4),
}
_LARGE = ("0.5b", "8b", "0.5b-mtp", "8b-mtp")  # gigabytes of random numbers would take minutes


def gguf_module() -> Any:
    """Import the `gguf` package from PyPI.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UnsupportedError(
            "llamacore.testing writes models with the gguf package, which is not installed",
            hint="pip install 'llamacore[test]'",
        ) from error
    return gguf


def _tokenizer_keys(vocabulary: Vocabulary, chat_template: str | None) -> dict[str, Value]:
    keys: dict[str, Value] = {"model": vocabulary.model, "tokens": list(vocabulary.tokens)}
    keys["token_type"] = list(vocabulary.types)
    if vocabulary.pre:
        keys["pre"] = vocabulary.pre
    if vocabulary.merges:
        keys["merges"] = list(vocabulary.merges)
    if vocabulary.scores:
        keys["scores"] = list(vocabulary.scores)
    keys |= {f"{role}_token_id": token for role, token in vocabulary.special.items()}
    keys |= vocabulary.flags
    named = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return named | ({"tokenizer.chat_template": chat_template} if chat_template else {})


def write_gguf(path: str | os.PathLike[str], arch: str, metadata: Mapping[str, Value], weights: Weights) -> Path:
    """Write a GGUF file, aside first and then in place.

    Args:
        path: Where to.
        arch: `general.architecture`.
        metadata: Every other key; whole numbers become UINT32, INT32 inside arrays.
        weights: The tensors.
    """
    gguf = gguf_module()
    target = Path(path)
    aside = target.with_name(f"{target.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(aside, arch)
    try:
        for key, value in metadata.items():
            if isinstance(value, list):
                writer.add_array(key, value)
                continue
            kind = gguf.GGUFValueType.UINT32 if type(value) is int else gguf.GGUFValueType.get_type(value)
            writer.add_key_value(key, value, kind)
        for name, (array, kind) in weights.arrays.items():
            writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType(kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(aside, target)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)
    return target


def _check_shape(arch: str, shape: Shape, asked: Mapping[str, object]) -> None:
    known = architecture(arch)
    unknown = sorted(name for name, value in asked.items() if value is not None and name not in known.options)
    if unknown:
        raise InvalidArgumentError(
            f"a tiny {arch} model has no {' or '.join(unknown)}",
            hint=f"its own options are {', '.join(sorted(known.options))}",
        )
    for name in ("n_layer", "n_embd", "n_head", "n_head_kv", "n_ff", "n_ctx_train", "full_attention_interval"):
        if getattr(shape, name) < 1:
            raise InvalidArgumentError(f"{name} is {getattr(shape, name)} and must be at least 1")
    if shape.n_embd % shape.n_head or shape.head_dim % 2:
        raise InvalidArgumentError(f"n_embd {shape.n_embd} is no even multiple of n_head {shape.n_head}")
    if shape.n_head % shape.n_head_kv:
        raise InvalidArgumentError(f"n_head {shape.n_head} is no multiple of n_head_kv {shape.n_head_kv}")
    if shape.pooling not in POOLING:
        raise InvalidArgumentError(f"pooling {shape.pooling!r} is not known", hint=f"use one of {', '.join(POOLING)}")
    if shape.labels and shape.pooling != "rank":
        raise InvalidArgumentError("labels belong to a classifier", hint='set pooling="rank"')


def tiny_model(
    path: str | os.PathLike[str],
    *,
    arch: str = "llama",
    n_layer: int = 2,
    n_embd: int = 64,
    n_head: int = 4,
    n_head_kv: int | None = None,
    n_ff: int = 128,
    n_vocab: int | None = None,
    n_ctx_train: int = 512,
    seed: int = 0,
    vocab: str | None = None,
    dtype: str = "f32",
    chat_template: str | None = CHAT_TEMPLATE,
    tied: bool | None = None,
    n_expert: int | None = None,
    n_expert_used: int | None = None,
    n_nextn: int | None = None,
    full_attention_interval: int | None = None,
    n_swa: int | None = None,
    pooling: str | None = None,
    labels: Sequence[str] | None = None,
    metadata: Mapping[str, Value] | None = None,
    alike: bool = False,
) -> Path:
    """Write a small model with random weights, the same file for the same arguments.

    Args:
        path: The GGUF file to write; an existing one is replaced.
        arch: llama (dense attention), gemma3 (sliding window and full attention), qwen35 (gated delta net and full
            attention, the memory of which is hybrid), mamba (recurrent), bert (embeddings and classification) or t5
            (encoder and decoder).
        n_layer: Layers; t5 has as many in each half.
        n_embd: Embedding size.
        n_head: Attention heads.
        n_head_kv: Key and value heads; None is 2 where there may be fewer of them than query heads, else n_head.
        n_ff: Inner size of the feed-forward block (of each expert).
        n_vocab: Vocabulary size; None is the smallest natural one of the kind.
        n_ctx_train: Context length stated in the file.
        seed: Of the weights.
        vocab: bpe (byte-level, with ChatML, fill-in-the-middle, thinking and tool tokens), spm, wpm or ugm; None is
            what the architecture usually has.
        dtype: Storage of the matrices: f32, f16, q8_0 or q4_0.
        chat_template: `tokenizer.chat_template`, None for a model without.
        tied: Use the token embeddings as output matrix (not bert); the default is False.
        n_expert: Experts of a llama model; the default is 0, a dense model.
        n_expert_used: Experts used for each token; the default is 2.
        n_nextn: NextN (MTP) blocks after the layers of a qwen35 model; the default is 0.
        full_attention_interval: Every so-many-th layer of a qwen35 model is full attention; the default is 2.
        n_swa: Sliding window of a gemma3 model in tokens; the default is 32.
        pooling: none, mean, cls, last or rank, of a bert model; the default is mean.
        labels: Class names of a bert classifier (pooling "rank"); none makes it a reranker with one score.
        metadata: Further keys, or other values for those that the model has.
        alike: Give all matrices of one shape the same numbers, so that a large file is made at the speed of the disk.

    Returns:
        Path: The path given.

    Raises:
        InvalidArgumentError: An argument is out of range, or is not one of this architecture.
        UnsupportedError: The gguf package of the `test` extra is not installed.
    """
    known = architecture(arch)
    vocabulary_kind = vocab or known.vocabulary
    if vocabulary_kind not in KINDS:
        raise InvalidArgumentError(f"vocab {vocab!r} is not known", hint=f"use one of {', '.join(KINDS)}")
    vocabulary = KINDS[vocabulary_kind](n_vocab)
    shape = Shape(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv if n_head_kv is not None else min(2, n_head) if known.grouped else n_head,
        n_ff=n_ff,
        n_vocab=len(vocabulary.tokens),
        n_ctx_train=n_ctx_train,
        n_expert=n_expert or 0,
        n_expert_used=n_expert_used or 2,
        n_nextn=n_nextn or 0,
        full_attention_interval=full_attention_interval if full_attention_interval is not None else 2,
        n_swa=n_swa or 32,
        tied=bool(tied),
        pooling=pooling or "mean",
        labels=tuple(labels or ()),
    )
    options = {
        "tied": tied,
        "n_expert": n_expert,
        "n_expert_used": n_expert_used,
        "n_nextn": n_nextn,
        "full_attention_interval": full_attention_interval,
        "n_swa": n_swa,
        "pooling": pooling,
        "labels": labels,
    }
    _check_shape(arch, shape, options)
    weights = Weights(seed, dtype, alike=alike)
    keys = {f"{arch}.{key}": value for key, value in known.build(weights, shape).items()}
    # a greedy run must not end by chance: tokens that end one are never the most likely
    output = "output.weight" if "output.weight" in weights.arrays else "token_embd.weight"
    weights.quieten(output, [token for token, kind in enumerate(vocabulary.types) if kind == CONTROL])
    about: dict[str, Value] = {
        "general.type": "model",
        "general.name": f"tiny {arch}",
        "general.quantization_version": 2,
        "general.file_type": FILE_TYPES[dtype],
    }
    keys = about | keys | _tokenizer_keys(vocabulary, chat_template) | dict(metadata or {})
    return write_gguf(path, arch, keys, weights)


def bench_model(
    path: str | os.PathLike[str],
    *,
    size: str = "0.04b",
    n_vocab: int = 150_000,
    dtype: str = "q8_0",
    n_ctx_train: int = 4096,
    seed: int = 0,
) -> Path:
    """Write a model with random weights and a large vocabulary, for measuring speed.

    Args:
        path: The GGUF file to write.
        size: "0.02b" (2 layers of 128, to draft for the others), "0.04b" (14 layers of 192) or "0.1b" (8 layers of
            512), all of architecture llama; "0.1b-mtp" and "0.16b-mtp" (qwen35, 8 and 24 layers of 512, every fourth
            of which is full attention, and a NextN block). With 150,000 tokens 19.6, 39.5, 100.9, 106.9 and 159.5
            million parameters, tied embeddings counted once. "0.5b", "8b", "0.5b-mtp" and "8b-mtp" have the shapes of
            well-known models of that size, and the same numbers in all matrices of one shape.
        n_vocab: Vocabulary size, byte-level BPE with as many merges.
        dtype: f32, f16, q8_0 or q4_0.
        n_ctx_train: Context length stated in the file.
        seed: Of the weights.

    Returns:
        Path: The path given.

    Raises:
        InvalidArgumentError: The size or the dtype is not one of those above.
        UnsupportedError: The gguf package of the `test` extra is not installed.
    """
    if size not in _BENCH_SHAPES:
        raise InvalidArgumentError(f"size {size!r} is not known", hint=f"use one of {', '.join(_BENCH_SHAPES)}")
    arch, n_layer, n_embd, n_head, n_head_kv, n_ff, n_nextn, full_attention_interval = _BENCH_SHAPES[size]
    return tiny_model(
        path,
        arch=arch,
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        n_ff=n_ff,
        n_nextn=n_nextn,
        full_attention_interval=full_attention_interval,
        n_vocab=n_vocab,
        alike=size in _LARGE,
        n_ctx_train=n_ctx_train,
        dtype=dtype,
        tied=True,
        seed=seed,
    )
