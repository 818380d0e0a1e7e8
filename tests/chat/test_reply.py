"""Replies of real formats, read at once and in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_cases import CASES, HERMES, HERMES_CALL, HERMES_SUM, OSLO, SUM, Case

from llamacore.chat.message import ChatMessage, Delta, ToolCall, ToolCallDelta
from llamacore.chat.reply import ReplyParser
from llamacore.core.chat import MAX_REPLY_BYTES, ChatParser
from llamacore.errors import ClosedError, InvalidArgumentError

Parsers = Callable[[Case], ChatParser]


@pytest.fixture(scope="module")
def parser_of(upstream_source: Path) -> Parsers:
    """A function that returns the parser of a case, made once."""
    made: dict[int, ChatParser] = {}

    def parser(case: Case) -> ChatParser:
        if id(case) not in made:
            made[id(case)] = case.parser(upstream_source)
        return made[id(case)]

    return parser


def read(parser: ChatParser, text: str, size: int) -> tuple[ChatMessage, list[Delta]]:
    reply = ReplyParser(parser.reply())
    deltas: list[Delta] = []
    for start in range(0, len(text), size):
        deltas += reply.push(text[start : start + size])
    message = reply.finish()
    return message, deltas + reply.last_deltas


def joined(deltas: list[Delta]) -> ChatMessage:
    """What a client makes of the pieces."""
    calls: list[list[str]] = []
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        if piece.name is not None:
            assert piece.index == len(calls)
            assert piece.id is not None
            calls.append([piece.id, piece.name, ""])
        calls[piece.index][2] += piece.arguments
    content = "".join(delta.content or "" for delta in deltas)
    return ChatMessage(
        "assistant",
        content if content or not calls else None,
        "".join(delta.reasoning_content or "" for delta in deltas) or None,
        tuple(ToolCall(*call) for call in calls),
    )


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.template}:{case.text[:12]!r}")
def test_a_reply_is_read(case: Case, size: int, parser_of: Parsers) -> None:
    message, deltas = read(parser_of(case), case.text, size)
    assert message.role == "assistant"
    assert (message.content, message.reasoning_content) == (case.content, case.reasoning)
    assert tuple((call.name, call.parsed) for call in message.tool_calls) == case.calls
    assert joined(deltas) == message
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.template}:{case.text[:12]!r}")
def test_what_was_told_stays(case: Case, parser_of: Parsers) -> None:
    """Wherever a reply is cut off, the pieces add up to the message, and no text of the answer is lost."""
    for end in range(0, len(case.text), 3):
        message, deltas = read(parser_of(case), case.text[:end], 4)
        assert joined(deltas) == message
        if case.content and end > case.text.find(case.content) > -1 and not case.options:
            lossless = case.text[case.text.find(case.content) : end].rstrip() in (message.content or "")
            assert lossless or message.tool_calls


def test_a_call_comes_in_pieces(parser_of: Parsers) -> None:
    parser = parser_of(CASES[1])
    reply = ReplyParser(parser.reply())
    assert reply.push("<tool_call>\n") == []
    deltas = [delta for character in HERMES_CALL[12:] for delta in reply.push(character)]
    first = deltas[0].tool_calls[0]
    assert (first.index, first.name) == (0, "get_weather")
    assert re.fullmatch("call_[A-Za-z0-9]{24}", first.id or "")
    assert all(delta.tool_calls[0].name is None for delta in deltas[1:])
    assert len(deltas) > 10
    assert reply.finish().tool_calls == (ToolCall(first.id or "", "get_weather", '{"city": "Oslo"}'),)


def test_calls_have_ids_of_their_own(parser_of: Parsers) -> None:
    message, _ = read(parser_of(CASES[2]), CASES[2].text, 5)
    assert len({call.id for call in message.tool_calls}) == 2


def test_a_model_that_gives_ids_keeps_them(parser_of: Parsers) -> None:
    case = next(case for case in CASES if "Nemo" in case.template)
    message, _ = read(parser_of(case), case.text, 10_000)
    assert message.tool_calls[0].id == "abcdef123"


def test_an_id_of_nine_characters_where_the_template_insists(parser_of: Parsers) -> None:
    reply = ReplyParser(parser_of(CASES[1]).reply(), call_id_length=9)
    reply.push(HERMES_CALL)
    assert re.fullmatch("[A-Za-z0-9]{9}", reply.finish().tool_calls[0].id)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("a <tool", "a <tool", 0),
        ("a <tool_call> b", "a <tool_call> b", 0),
        ("<tool_call>\n{]", "<tool_call>\n{]", 0),
        ('<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>', None, 0),
        (HERMES_CALL + " and then some", None, 1),
        ("</tool_call>", "</tool_call>", 0),
        ("\x00\x01", "\x00\x01", 0),
        ("\ud800", "?", 0),
        ("", "", 0),
        (" \n", "", 0),
    ],
)
def test_garbage_is_content(text: str, content: str | None, calls: int, parser_of: Parsers) -> None:
    message, deltas = read(parser_of(CASES[1]), text, 3)
    if content is not None:
        assert message.content == content
    else:
        assert message.content
    assert len(message.tool_calls) == calls
    assert joined(deltas) == message


def test_arguments_that_are_cut_off(parser_of: Parsers) -> None:
    message, _ = read(parser_of(CASES[1]), HERMES_CALL[:-30], 4)
    (call,) = message.tool_calls
    assert call.name == "get_weather"
    assert call.parsed is None
    assert '{"city": "Oslo"}'.startswith(call.arguments)


def test_after_the_end(parser_of: Parsers) -> None:
    reply = ReplyParser(parser_of(CASES[0]).reply())
    reply.push("Hello")
    message = reply.finish()
    assert reply.push(" again") == []
    assert reply.finish() is message
    assert message.content == "Hello"


def test_a_closed_reply(parser_of: Parsers) -> None:
    native = parser_of(CASES[0]).reply()
    native.close()
    native.close()
    with pytest.raises(ClosedError):
        native.push(b"a")
    with pytest.raises(ClosedError):
        native.message()


def test_a_reply_outlives_its_parser(upstream_source: Path) -> None:
    parser = CASES[1].parser(upstream_source)
    reply = ReplyParser(parser.reply())
    parser.close()
    with pytest.raises(ClosedError):
        parser.reply()
    reply.push(HERMES_CALL)
    assert reply.finish().tool_calls[0].parsed == OSLO[1]


def test_more_than_fits_is_content(parser_of: Parsers) -> None:
    reply = ReplyParser(parser_of(CASES[0]).reply())
    part = "x" * (1 << 20)
    pushed = sum(len(delta.content or "") for _ in range(20) for delta in reply.push(part))
    assert pushed == 20 * len(part) > MAX_REPLY_BYTES
    assert reply.finish().content == part * 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "opening",
    [
        "[" * 30_000,
        '{"a":' * 30_000,
        "<tool_call>" * 30_000,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": ',
    ],
)
def test_deep_nesting_is_no_crash(opening: str, upstream_source: Path, run_child: Callable[..., str]) -> None:
    code = f"""
        import threading
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from chat_cases import CASES
        from llamacore.chat.reply import ReplyParser
        def read(depth):
            for case in CASES:
                reply = ReplyParser(case.parser(Path(sys.argv[1])).reply())
                hermes = '<tool_call>\\n{{"name": "get_weather", "arguments": {{"city": '
                for text in (hermes, "", "<|tool_call>call:get_weather{{city:"):
                    reply = ReplyParser(case.parser(Path(sys.argv[1])).reply())
                    reply.push(text + sys.argv[2] + "[" * depth)
                    reply.finish()
        read(20_000)
        threading.stack_size(256 * 1024)
        thread = threading.Thread(target=read, args=(60_000,))
        thread.start()
        thread.join()
        print("alive")
    """
    assert run_child(code, upstream_source, opening[:100_000], timeout=300).strip() == "alive"


def test_many_calls(parser_of: Parsers) -> None:
    text = "\n".join([HERMES_CALL, HERMES_SUM] * 30)
    message, deltas = read(parser_of(CASES[2]), text, 11)
    assert [call.name for call in message.tool_calls] == [OSLO[0], SUM[0]] * 30
    assert joined(deltas) == message


def test_pushing_plain_text_costs_no_parse(parser_of: Parsers) -> None:
    """Time for a piece must not grow with the text before it: upstream's parser starts at the beginning every time."""
    from time import perf_counter

    reply = ReplyParser(parser_of(CASES[0]).reply())
    reply.push("Hello ")

    def seconds(pushes: int) -> float:
        started = perf_counter()
        for _ in range(pushes):
            reply.push("more words ")
        return perf_counter() - started

    first = min(seconds(200) for _ in range(5))
    for _ in range(60_000):
        reply.push("more words ")
    assert min(seconds(200) for _ in range(5)) < 10 * first + 0.01


def test_long_arguments_are_not_read_at_every_piece(parser_of: Parsers) -> None:
    from time import perf_counter

    opening = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "'
    text = "Oslo and " * 60_000
    reply = ReplyParser(parser_of(CASES[1]).reply())
    reply.push(opening)
    started = perf_counter()
    deltas = [delta for start in range(0, len(text), 9) for delta in reply.push(text[start : start + 9])]
    assert perf_counter() - started < 60  # a reading of all of it each time would take minutes
    assert len(deltas) > 500
    reply.push('"}}\n</tool_call>')
    message = reply.finish()
    assert message.tool_calls[0].parsed == {"city": text}
    assert message.content is None


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a"]])
def test_text_that_is_no_text(text: Any, parser_of: Parsers) -> None:
    reply = ReplyParser(parser_of(CASES[0]).reply())
    with pytest.raises(InvalidArgumentError):
        reply.push(text)
    reply.push("Hello")
    assert reply.finish().content == "Hello"


def test_deltas_as_dicts() -> None:
    first = Delta("assistant", tool_calls=(ToolCallDelta(0, "call_1", "f", "{"),))
    assert first.to_dict() == {
        "role": "assistant",
        "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}],
    }
    assert Delta(tool_calls=(ToolCallDelta(0, arguments="}"),)).to_dict() == {
        "tool_calls": [{"index": 0, "function": {"arguments": "}"}}]
    }
    assert Delta(content="a", reasoning_content="b").to_dict() == {"reasoning_content": "b", "content": "a"}


def test_the_case_of_hermes_is_the_first() -> None:
    assert [case.template for case in CASES[:3]] == [HERMES] * 3
