"""A model's text while it comes: thoughts are taken out, and so are tool calls, which are handed over whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..chat import json_text
from ..engine.text import StopMatcher
from .argument_text import ArgumentText
from .data import TEXT_END

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
TAGS = (THINK, END_THINK, CALL, END_CALL)

_NAME = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class RawCall:
    """A call as the model wrote it.

    Attributes:
        name: Name of the tool.
        arguments: JSON text of the arguments, or what stands there instead.
        given: What came before it as `ToolText`.
    """

    name: str
    arguments: str
    given: str = ""


@dataclass(frozen=True)
class ToolText:
    """A piece of the text of a call that is not over yet.

    Attributes:
        name: Name of the tool.
        text: The piece.
    """

    name: str
    text: str


Item = str | RawCall | ToolText
"""A piece of plain text, a call, or a piece of a call's text."""


class StreamFilter:
    """Reads one reply. However the text is cut into pieces, the same comes out.

    `<think>...</think>` is dropped, also when it is never closed. `<tool_call>...</tool_call>` becomes `RawCall`s; a
    body that is none comes out as the text that it is, and one that is never closed is dropped. The sentinel
    `<|text_end|>` is the node's to write: one that the model writes is dropped.

    Args:
        thinking: Whether the prompt has opened a thought already.
        texts: Tools whose text is given while the call is written, with the names of the arguments that it may have.
            A call of theirs that turns out to be none is dropped then.
    """

    def __init__(self, *, thinking: bool = False, texts: Mapping[str, Sequence[str]] | None = None) -> None:
        self._texts = texts or {}
        self._argument, self._given = ArgumentText({}), ""
        self._body: list[str] | None = None  # of the call that is open
        self._thinking = thinking
        self._matcher = self._next_matcher()
        self._held = 0  # characters that may be the beginning of a tag

    @property
    def call_is_open(self) -> bool:
        """Whether the model is writing a call."""
        return self._body is not None

    @property
    def open_call_name(self) -> str | None:
        """Name of the tool in the call that the model is writing, as soon as it is known."""
        found = None if self._body is None else _NAME.search("".join(self._body))
        if found is None:
            return None
        try:
            name = json.loads(found[1])
        except ValueError:
            return None
        return str(name)

    def push(self, text: str) -> list[Item]:
        """Take more text, and return what is certain by now."""
        if self._body is None and not self._thinking and not self._held and "<" not in text:
            return [text] if text else []
        found: list[Item] = []
        for char in text:
            certain = self._matcher.push(char)
            self._held += 1 - len(certain)
            self._keep(certain, found)
            if self._matcher.matched is not None:
                self._enter(self._matcher.matched, found)
                self._matcher, self._held = self._next_matcher(), 0
        return found

    def finish(self, *, cut_off: bool = False) -> list[Item]:
        """Return the rest, at the end of the reply; of one that was cut off, no beginning of a tag."""
        found: list[Item] = []
        rest = self._matcher.finish()
        self._keep("" if cut_off else rest, found)
        return found

    def _keep(self, text: str, found: list[Item]) -> None:
        if self._body is not None:
            self._body.append(text)
            self._give("".join(map(self._argument.push, text)), found)
        elif text and not self._thinking:
            last = found[-1] if found else None
            if isinstance(last, str) and TEXT_END not in last + text:  # which what was dropped may have held apart
                found[-1] = last + text
            else:
                found.append(text)

    def _give(self, text: str, found: list[Item]) -> None:
        """Note a piece of the text of the call that is open."""
        if text:
            self._given += text
            found.append(ToolText(self._argument.tool, text))

    def _enter(self, tag: str, found: list[Item]) -> None:
        if tag == CALL:
            self._body = []
            self._argument, self._given = ArgumentText(self._texts), ""
        elif tag == END_CALL and self._body is not None:
            body, self._body = "".join(self._body), None
            calls = read_calls(body)
            if calls is not None:
                found += [replace(calls[0], given=self._given), *calls[1:]]
            elif not self._given:
                for part in body.split(TEXT_END):
                    self._keep(part, found)
        elif tag in (THINK, END_THINK):
            self._thinking = tag == THINK

    def _next_matcher(self) -> StopMatcher:
        if self._body is not None:
            return StopMatcher((END_CALL,))
        return StopMatcher((END_THINK,) if self._thinking else (THINK, END_THINK, CALL, TEXT_END))


def read_calls(body: str) -> list[RawCall] | None:
    """Read what stands in a tool call: an object with a "name", or several, in a list or one after another.

    Returns:
        The calls; None when it is none.
    """
    for text in (body, f"[{body}]"):
        try:
            value = json_text.loads(text)
        except (ValueError, RecursionError):
            continue
        objects = value if isinstance(value, list) else [value]
        if not objects or not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in objects):
            return None
        return [RawCall(item["name"], _arguments(item.get("arguments"))) for item in objects]
    return None


def _arguments(value: object) -> str:
    if value is None:
        return "{}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
