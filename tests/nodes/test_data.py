"""Envelopes: what they hold, and that they come back from JSON and from the wire as they were."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacore.errors import InvalidArgumentError
from llamacore.nodes import Binary, ControlMessage, File, Json, Tensor, Text, from_dict, to_dict

words = st.text(max_size=20)
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
metadata = st.dictionaries(words, values, max_size=2)
envelopes = st.one_of(
    st.builds(Text, words, words, metadata),
    st.builds(Json, values, metadata),
    st.builds(lambda data, about: Tensor(data * 4, metadata=about), st.binary(max_size=8), metadata),
    st.builds(lambda sizes: Tensor(np.zeros(sizes, np.int32)), st.lists(st.integers(0, 3), max_size=3)),
    st.builds(Binary, st.binary(max_size=8), metadata),
    st.builds(ControlMessage, st.just("BatchHint"), st.just({"suggested_batch_size": 4}), st.none() | words),
    st.builds(File, words, st.none() | words, size=st.none() | st.integers(0, 9), metadata=metadata),
)


@given(envelopes)
def test_every_envelope_comes_back_from_json(envelope: Any):
    assert from_dict(json.loads(json.dumps(to_dict(envelope)))) == envelope


@given(words, words)
def test_text_comes_back_from_the_wire(text: str, channel: str):
    sent = Text(text, channel)
    raw = sent.to_wire()
    if sent.channel != "tts":
        assert raw[0] == 0
        assert raw[2 : 2 + raw[1]].decode() == sent.channel
        assert Text.from_wire(raw) == sent
    elif not text.startswith("\0"):  # which would be a header
        assert raw == text.encode()
        assert Text.from_wire(raw) == sent


def test_the_header_of_a_channel():
    assert Text("hi").to_wire() == Text("hi", "").to_wire() == b"hi"
    assert Text("hi", "ui").to_wire() == b"\0\x02uihi"
    assert Text.from_wire(b"\0\0hi") == Text("hi")
    long = Text("hi", "ä" * 200).to_wire()
    assert long[1] == 254  # 127 whole characters
    assert Text.from_wire(long).channel == "ä" * 127
    for cut in (b"\0", b"\0\x05abc", b"\xff\xfe"):
        with pytest.raises(InvalidArgumentError):
            Text.from_wire(cut)


def test_the_sentinel_is_untagged():
    assert Text("<|text_end|>").is_end
    assert not Text("<|text_end|>", "ui").is_end
    assert not Text("<|text_end|>\n").is_end


def test_tensors_take_arrays_and_bytes():
    made = Tensor(np.arange(6, dtype=np.float64).reshape(2, 3))
    assert (made.shape, made.dtype, len(made.data)) == ((2, 3), "f32", 24)
    assert made.array.dtype == np.float32
    assert made.array.tolist() == [[0, 1, 2], [3, 4, 5]]
    made.array[0, 0] = 7  # a copy
    assert made.array[0, 0] == 0
    whole = Tensor(np.array([1, 2], np.int64))
    assert (whole.dtype, whole.array.tolist(), to_dict(whole)["dtype"]) == ("i32", [1, 2], 1)
    assert Tensor(whole.data, [2], 1) == whole
    assert Tensor(made.data).shape == (6,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tensor(b"123"), "with 3 bytes"),
        (lambda: Tensor(b"1234", [2]), "shape"),
        (lambda: Tensor(b"1234", [-1]), "shape"),
        (lambda: Tensor(b"1234", 1), "shape=1"),
        (lambda: Tensor(b"1234", dtype="f16"), "dtype='f16'"),
        (lambda: Tensor(b"1234", dtype=True), "dtype=True"),
        (lambda: Tensor(["a"]), "tensor of"),
        (lambda: Tensor(b"1234", metadata=3), "metadata is a int"),
        (lambda: Text(3), "text is a int"),
        (lambda: Text("a", None), "channel is a NoneType"),
        (lambda: Json({1, 2}), "no JSON"),
        (lambda: Json(float("nan")), "no JSON"),
        (lambda: Binary("a"), "data is a str"),
        (lambda: ControlMessage("Stop"), "'Stop'"),
        (lambda: ControlMessage("BatchHint", {"deadline_us": 3}), "BatchHint has no 'deadline_us'"),
        (lambda: ControlMessage("BatchHint", {"suggested_batch_size": "3"}), "suggested_batch_size is a str"),
        (lambda: File(3), "path is a int"),
        (lambda: File("a", size="3"), "size is a str"),
        (lambda: from_dict("text"), "no envelope"),
        (lambda: from_dict({"data_type": "video"}), "no envelope"),
        (lambda: from_dict({"data_type": "text"}), "a text envelope"),
        (lambda: from_dict({"data_type": "text", "text": "a", "speed": 2}), "speed"),
        (lambda: from_dict({"data_type": "tensor", "shape": [1]}), "no base64"),
        (lambda: from_dict({"data_type": "binary", "data": "?"}), "no base64"),
    ],
)
def test_what_is_wrong_is_named(make: Any, message: str):
    with pytest.raises(InvalidArgumentError, match=message):
        make()
