"""Messages as objects and as dicts."""

from __future__ import annotations

from typing import Any

import pytest

from llamacore.chat.message import ChatMessage, ToolCall, message_dict
from llamacore.errors import InvalidArgumentError

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_there_and_back() -> None:
    for data in (
        {"role": "user", "content": "Hello"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "call_1", "name": "f"},
    ):
        assert ChatMessage.from_dict(data).to_dict() == data
        assert message_dict(ChatMessage.from_dict(data)) == data


def test_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]
    assert ChatMessage("user", parts).text == "ab"
    assert ChatMessage("assistant").text == ""
    assert ChatMessage("user", "x").text == "x"


def test_arguments() -> None:
    assert ToolCall("1", "f", '{"a": [1]}').parsed == {"a": [1]}
    for wrong in ("", "[1]", '{"a"', "3", "[" * 100_000):
        assert ToolCall("1", "f", wrong).parsed is None
    assert ToolCall.from_dict({"function": {"name": "f", "arguments": {"ä": 1}}}) == ToolCall("", "f", '{"ä": 1}')
    assert ChatMessage("assistant", tool_calls=(CALL,)).tool_calls == (ToolCall("call_1", "f", '{"a": 1}'),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        None, "text", [], {}, {"content": "a"}, {"role": ""}, {"role": 1}, {"role": "user", "content": 1},
        {"role": "user", "content": ["a"]}, {"role": "user", "colour": "red"}, {"role": "user", "name": 1},
        {"role": "assistant", "tool_calls": "f"}, {"role": "assistant", "tool_calls": [1]},
        {"role": "assistant", "tool_calls": [{"function": {}}]}, {"role": "assistant", "tool_calls": CALL},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": object()}}]},
    ],
)  # fmt: skip
def test_misuse(data: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        ChatMessage.from_dict(data)


def test_fields_that_are_none_are_left_out() -> None:
    data = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None}
    assert ChatMessage.from_dict(data) == ChatMessage("assistant", "a")
