"""The filter of a model's text: the same comes out however the text is cut, bytes included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacore.engine.text import TextAssembler
from llamacore.nodes.argument_text import ArgumentText
from llamacore.nodes.stream_filter import RawCall, StreamFilter, ToolText, read_calls

CALL = '<tool_call>\n{"name": "say", "arguments": {"text": "hé <think> 🐈"}}\n</tool_call>'
PARTS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<|text_end|>", "<", "</", "<thi", "nk>", "<tool_", "call>",
    "<|text_", "end|>", CALL, '{"name": "a"}', '{"name": 3}', "hello", " ", "\n", "é", "🐈", "漢字", "\ufffd", "}", '"',
)  # fmt: skip
replies = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=12).map("".join)


SAY_A = '{"name": "say", "arguments": {"text": "a"}}'
SAY_B = '{"name": "say", "arguments": {"text": "b"}}'
TEXTS = {"say": ("text", "content"), "show": ("content",)}


def read(pieces: list[str], *, thinking: bool = False, texts: Any = None) -> list[Any]:
    """What comes of pieces, neighbouring texts joined."""
    reader = StreamFilter(thinking=thinking, texts=texts)
    found: list[Any] = []
    for item in [item for piece in pieces for item in reader.push(piece)] + reader.finish():
        last = found[-1] if found else None
        if isinstance(item, str) and isinstance(last, str):
            found[-1] += item
        elif isinstance(item, ToolText) and isinstance(last, ToolText) and item.name == last.name:
            found[-1] = ToolText(item.name, last.text + item.text)
        else:
            found.append(item)
    return found


def cut(whole: Any, places: list[int]) -> list[Any]:
    """A text or bytes cut at some places."""
    ends = sorted({place % (len(whole) + 1) for place in places})
    return [whole[a:b] for a, b in zip([0, *ends], [*ends, len(whole)], strict=True)]


@settings(max_examples=400)
@given(replies, st.lists(st.integers(0, 10_000), max_size=12), st.booleans(), st.sampled_from([None, TEXTS]))
def test_any_split_of_a_text_gives_the_same(reply: str, places: list[int], thinking: bool, texts: Any):
    whole = read([reply], thinking=thinking, texts=texts)
    assert read(cut(reply, places), thinking=thinking, texts=texts) == whole
    assert read(list(reply), thinking=thinking, texts=texts) == whole


@settings(max_examples=400)
@given(replies, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_the_bytes_of_tokens_gives_the_same(reply: str, places: list[int]):
    raw = reply.encode("utf-8", "replace")
    texts = TextAssembler()
    pieces = [texts.push(piece) for piece in cut(raw, places)] + [texts.finish()]
    assert read(pieces) == read([raw.decode()])


@settings(max_examples=400)
@given(replies, st.lists(st.integers(0, 10_000), max_size=6), st.sampled_from([None, TEXTS]))
def test_no_piece_holds_the_sentinel(reply: str, places: list[int], texts: Any):
    reader = StreamFilter(texts=texts)
    for item in [item for piece in cut(reply, places) for item in reader.push(piece)] + reader.finish():
        assert "<|text_end|>" not in (item if isinstance(item, str) else getattr(item, "text", ""))


@pytest.mark.parametrize(
    "reply",
    [
        "<|text_<|text_end|>end|>",
        "<tool_call><|text_end|></tool_call>",
        "<tool_call><|text_<|text_end|>end|></tool_call>",
    ],
)
def test_a_sentinel_that_dropping_makes_is_in_two_pieces(reply: str):
    for pieces in ([reply], list(reply)):
        reader = StreamFilter()
        found = [item for piece in pieces for item in reader.push(piece)] + reader.finish()
        assert "<|text_end|>" not in found
        assert "".join(map(str, found)) in ("", "<|text_end|>")


@given(st.text(max_size=40))
def test_text_without_tags_stays_as_it_is(reply: str):
    assert "".join(map(str, read([reply.replace("<", "")]))) == reply.replace("<", "")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", []),
        ("hello", ["hello"]),
        ("a<think>b</think>c", ["ac"]),
        ("a<think>b", ["a"]),
        ("a</think>b", ["ab"]),
        ("a<think><tool_call>{}</tool_call></think>b", ["ab"]),
        ("a < b <thin", ["a < b <thin"]),
        ("a<|text_end|>b", ["ab"]),
        ('a<tool_call>{"name": "x"}</tool_call>b', ["a", RawCall("x", "{}"), "b"]),
        ('<tool_call>{"name": "x", "arguments": {"a": "é"}}</tool_call>', [RawCall("x", '{"a": "é"}')]),
        ('<tool_call>{"name": "x", "arguments": "raw"}</tool_call>', [RawCall("x", "raw")]),
        ('<tool_call>{"name": "x", "arguments": null}</tool_call>', [RawCall("x", "{}")]),
        ('<tool_call>{"name": ""}</tool_call>', [RawCall("", "{}")]),
        ('<tool_call>{"name": "x"}, {"name": "y"}</tool_call>', [RawCall("x", "{}"), RawCall("y", "{}")]),
        ('<tool_call>[{"name": "x"}]</tool_call>', [RawCall("x", "{}")]),
        ("<tool_call>not JSON</tool_call>!", ["not JSON!"]),
        ('<tool_call>{"arguments": {}}</tool_call>', ['{"arguments": {}}']),
        ('<tool_call>{"name": 3}</tool_call>', ['{"name": 3}']),
        ("<tool_call></tool_call>", []),
        ("<tool_call>[]</tool_call>", ["[]"]),
        ('a<tool_call>{"name": "x"}', ["a"]),
        ('<tool_call>{"name": "<think>"}</tool_call>', [RawCall("<think>", "{}")]),
        ("<tool_call>" + "[" * 500 + "</tool_call>", ["[" * 500]),
    ],
)
def test_what_a_reply_becomes(reply: str, expected: list[Any]):
    assert read([reply]) == expected
    assert read(list(reply)) == expected


def test_a_prompt_that_opened_a_thought():
    assert read(["well</think>hello"], thinking=True) == ["hello"]
    assert read(["well"], thinking=True) == []


def test_text_that_holds_no_tag_is_given_at_once():
    reader = StreamFilter()
    assert reader.push("hello ") == ["hello "]
    assert reader.push("a <") == ["a "]
    assert reader.push("b") == ["<b"]
    assert reader.push("") == []
    assert reader.finish() == []


def test_a_reply_that_was_cut_off_ends_with_no_beginning_of_a_tag():
    reader = StreamFilter()
    assert reader.push("a <tool_c") == ["a "]
    assert reader.finish(cut_off=True) == []
    reader = StreamFilter()
    assert reader.push("a <b") == ["a <b"]
    assert reader.finish(cut_off=True) == []


@given(
    st.text(max_size=20), st.booleans(), st.sampled_from(["say", "show", "wave"]), st.sampled_from(["text", "content"])
)
def test_the_text_of_a_call_is_given_while_it_is_written(text: str, ascii_only: bool, tool: str, key: str):
    body = json.dumps({"name": tool, "arguments": {key: text, "more": 1}}, ensure_ascii=ascii_only)
    given = text if key in TEXTS.get(tool, ()) else ""
    argument = ArgumentText(TEXTS)
    assert "".join(map(argument.push, body)) == given
    pieces: list[Any] = [ToolText(tool, given)] if given else []
    call = RawCall(tool, json.dumps({key: text, "more": 1}, ensure_ascii=False), given)
    assert read([f"<tool_call>{body}</tool_call>"], texts=TEXTS) == [*pieces, call]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('<tool_call>{"name": "say", "arguments": {"text": "a b', [ToolText("say", "a b")]),
        ('<tool_call>{"name": "say", "arguments": {"text": "a"} oops</tool_call>b', [ToolText("say", "a"), "b"]),
        ('<tool_call>{"arguments": {"text": "a"}, "name": "say"}</tool_call>', [RawCall("say", '{"text": "a"}')]),
        ('<tool_call>{"name": "say", "arguments": "a"}</tool_call>', [RawCall("say", "a")]),
        (
            f"<tool_call>{SAY_A}, {SAY_B}</tool_call>",
            [ToolText("say", "a"), RawCall("say", '{"text": "a"}', "a"), RawCall("say", '{"text": "b"}')],
        ),
    ],
)
def test_texts_of_calls_that_are_cut_off_wrong_or_of_another_form(reply: str, expected: list[Any]):
    assert read([reply], texts=TEXTS) == expected


def test_escapes_in_the_text_of_a_call():
    for raw, text in (
        (r"\ud83d\udc08", "🐈"), (r"\ud83d!", "\ufffd!"), (r"\udc08", "\ufffd"), (r"\ud83d\ud83d\udc08", "\ufffd🐈"),
        (r"\n\t\"\\\/", '\n\t"\\/'), (r"\u00e9", "é"), (r"\uzzzz", "\ufffd"),
    ):  # fmt: skip
        argument = ArgumentText(TEXTS)
        body = '{"name": "say", "arguments": {"text": "' + raw + '"}} and more "'
        assert "".join(map(argument.push, body)) == text


def test_the_name_of_a_call_is_known_before_its_end():
    reader = StreamFilter()
    seen = []
    for char in '<tool_call>{"name": "sa\\u0079", "arguments"':
        reader.push(char)
        seen.append((reader.call_is_open, reader.open_call_name))
    assert seen[9] == (False, None)
    assert seen[10] == (True, None)
    assert seen[-1] == (True, "say")
    reader.push(": {}}</tool_call>")
    assert (reader.call_is_open, reader.open_call_name) == (False, None)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=4))
def test_arguments_of_any_kind_are_json(value: Any):
    calls = read_calls(json.dumps({"name": "x", "arguments": value}))
    assert calls is not None
    text = calls[0].arguments
    assert text == value if isinstance(value, str) else json.loads(text) == ({} if value is None else value)
