"""Metadata overrides of a model, from Python values to the array that loading and quantising take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgumentError
from ..params import KvValue
from ._native import ffi, lib

MAX_BYTES = 127  # of a key and of a string value: upstream keeps both in char[128]


def _text(what: str, value: str) -> bytes:
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(f"{what} is not valid Unicode: {value!r}") from exc
    if b"\0" in raw:
        raise InvalidArgumentError(f"{what} contains a NUL character: {value!r}")
    if len(raw) > MAX_BYTES:
        raise InvalidArgumentError(f"{what} has {len(raw)} bytes", hint=f"upstream takes at most {MAX_BYTES}")
    return raw


def _fill(slot: Any, key: Any, value: KvValue) -> None:
    if not isinstance(key, str) or not key:
        raise InvalidArgumentError(f"kv_overrides has the key {key!r}", hint="keys are non-empty strings")
    slot.key = _text("a key of kv_overrides", key)
    what = f"kv_overrides[{key!r}]"
    if isinstance(value, bool):
        slot.tag = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL
        slot.val_bool = value
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgumentError(f"{what} is {value}", hint="whole numbers have 64 bits")
        slot.tag = lib.LLAMA_KV_OVERRIDE_TYPE_INT
        slot.val_i64 = value
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgumentError(f"{what} is {value}", hint="give a finite number")
        slot.tag = lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT
        slot.val_f64 = value
    elif isinstance(value, str):
        slot.tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
        slot.val_str = _text(what, value)
    else:
        raise InvalidArgumentError(f"{what} is a {type(value).__name__}", hint="give an int, float, bool or str")


def native(overrides: Mapping[str, KvValue]) -> tuple[Any, list[Any]]:
    """Build the terminated `llama_model_kv_override` array.

    Args:
        overrides: Metadata key to its new value. The Python type chooses the GGUF type.

    Returns:
        The array, and what must be kept alive with it for as long as C reads it.

    Raises:
        InvalidArgumentError: A key or a string is longer than 127 bytes, or a value does not fit its type.
    """
    array = ffi.new("struct llama_model_kv_override[]", len(overrides) + 1)  # zeroed: an empty key ends it
    for slot, (key, value) in zip(array, overrides.items(), strict=False):
        _fill(slot, key, value)
    return array, [array]
