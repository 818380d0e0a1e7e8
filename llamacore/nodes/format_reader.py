"""Replies of models that write their calls in another way than in `<tool_call>` tags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .stream_filter import Item, RawCall, StreamFilter

if TYPE_CHECKING:
    from ..chat.message import Delta
    from ..chat.reply import ReplyParser


class FormatReader:
    """Reads one reply as a `StreamFilter` does, with llama.cpp's own reader for the model's format in front of it.

    Calls come out at the end of the reply. Thoughts are dropped, and so is a call that was cut off.

    Args:
        parser: The reader, for this reply alone.
    """

    def __init__(self, parser: ReplyParser) -> None:
        self._parser = parser
        self._content = StreamFilter()
        self._name: str | None = None

    @property
    def call_is_open(self) -> bool:
        """Whether the model is writing a call, or has written one."""
        return self._name is not None

    @property
    def open_call_name(self) -> str | None:
        """Name of the tool that the model called last."""
        return self._name

    def push(self, text: str) -> list[Item]:
        """Take more text, and return what is certain by now."""
        return [item for delta in self._parser.push(text) for item in self._read(delta)]

    def finish(self, *, cut_off: bool = False) -> list[Item]:
        """Return the rest, at the end of the reply; see `StreamFilter.finish`."""
        message = self._parser.finish()
        found = [item for delta in self._parser.last_deltas for item in self._read(delta)]
        found += self._content.finish(cut_off=cut_off)
        return found + [RawCall(call.name, call.arguments) for call in message.tool_calls if _is_whole(call.arguments)]

    def _read(self, delta: Delta) -> list[Item]:
        for call in delta.tool_calls:
            self._name = call.name or self._name
        return self._content.push(delta.content) if delta.content else []


def _is_whole(arguments: str) -> bool:
    try:
        json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return False
    return True
