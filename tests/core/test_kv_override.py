from __future__ import annotations

from typing import Any

import pytest

from llamacore.core import kv_override
from llamacore.core._native import ffi, lib
from llamacore.core.model import Model
from llamacore.errors import InvalidArgumentError
from llamacore.hub import demo_model_path


def test_native_values() -> None:
    array, _ = kv_override.native(
        {"a.int": -(2**63), "a.bool": True, "a.float": 0.25, "a.str": "é" * 63 + "x", "k" * 127: 2**63 - 1}
    )
    assert [item.tag for item in array] == [
        lib.LLAMA_KV_OVERRIDE_TYPE_INT,
        lib.LLAMA_KV_OVERRIDE_TYPE_BOOL,
        lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT,
        lib.LLAMA_KV_OVERRIDE_TYPE_STR,
        lib.LLAMA_KV_OVERRIDE_TYPE_INT,
        array[5].tag,
    ]
    assert array[0].val_i64 == -(2**63)
    assert array[1].val_bool
    assert array[2].val_f64 == 0.25
    assert ffi.string(array[3].val_str).decode() == "é" * 63 + "x"
    assert ffi.string(array[4].key) == b"k" * 127
    assert ffi.string(array[5].key) == b""


@pytest.mark.parametrize(
    "bad",
    [
        {"": 1},
        {"k" * 128: 1},
        {"é" * 64: 1},
        {"a\0b": 1},
        {"a": "\0"},
        {"a": "x" * 128},
        {"a": "\ud800"},
        {"a": 2**63},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": None},
        {"a": [1]},
        {"a": b"x"},
    ],
)
def test_values_that_do_not_fit(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        kv_override.native(bad)


def test_a_model_takes_them() -> None:
    overrides = {"general.name": "renamed", "tokenizer.ggml.add_bos_token": True}
    with Model.load(demo_model_path(), vocab_only=True, kv_overrides=overrides) as model:
        assert model.vocab.add_bos
    with Model.load(demo_model_path(), vocab_only=True, kv_overrides={"tokenizer.ggml.add_bos_token": False}) as model:
        assert not model.vocab.add_bos
