"""Names of upstream's enum values, in both directions, taken from the compiled library and never written as numbers."""

from __future__ import annotations

from ..errors import InvalidArgumentError
from ._native import lib, text

_PREFIXES = {
    "split_mode": "LLAMA_SPLIT_MODE_",
    "load_mode": "LLAMA_LOAD_MODE_",
    "lazy_mode": "LLAMA_LAZY_MODE_",
    "ctx_type": "LLAMA_CONTEXT_TYPE_",
    "rope_scaling_type": "LLAMA_ROPE_SCALING_TYPE_",
    "rope_type": "LLAMA_ROPE_TYPE_",
    "pooling_type": "LLAMA_POOLING_TYPE_",
    "attention_type": "LLAMA_ATTENTION_TYPE_",
    "flash_attn": "LLAMA_FLASH_ATTN_TYPE_",
    "vocab_type": "LLAMA_VOCAB_TYPE_",
}
_tables: dict[str, dict[str, int]] = {}


def _table(kind: str) -> dict[str, int]:
    if kind not in _tables:
        prefix = _PREFIXES[kind]
        _tables[kind] = {
            name[len(prefix) :].lower(): int(getattr(lib, name))
            for name in dir(lib)
            if name.startswith(prefix) and not name.endswith("_MAX_VALUE")
        }
    return _tables[kind]


def value(kind: str, name: str) -> int:
    """Return the number of a named value of parameter `kind`."""
    table = _table(kind)
    if name not in table:
        raise InvalidArgumentError(f"{kind}={name!r}", hint="use one of: " + ", ".join(table))
    return table[name]


def name(kind: str, number: int) -> str:
    """Return the name of a number of parameter `kind`."""
    return next((key for key, known in _table(kind).items() if known == number), f"unknown ({number})")


def ggml_type(type_name: str) -> int:
    """Return the number of a ggml data type by its ggml name, case ignored ("f16", "q8_0", "q4_K")."""
    if not _tables.get("ggml_type"):
        _tables["ggml_type"] = {
            text(lib.ggml_type_name(number)).lower(): number
            for number in range(lib.GGML_TYPE_COUNT)
            if lib.ggml_blck_size(number) > 0
        }
    table = _tables["ggml_type"]
    if type_name.lower() not in table:
        raise InvalidArgumentError(f"{type_name!r} is no ggml data type", hint="use one of: " + ", ".join(table))
    return table[type_name.lower()]
