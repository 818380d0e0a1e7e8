"""Replies read while they are written: text in, pieces of a message out."""

from __future__ import annotations

import secrets
import string
from typing import TYPE_CHECKING, Any

from ..core.chat import CONTENT, MAX_REPLY_BYTES
from ..errors import InvalidArgumentError
from .message import ChatMessage, Delta, ToolCall, ToolCallDelta

if TYPE_CHECKING:
    from ..core.chat import ChatReply

_ALPHABET = string.ascii_letters + string.digits


def new_call_id(length: int | None = None) -> str:
    """Make up the id of a tool call: "call_" and 24 characters, or as many characters as a template insists on."""
    made = "".join(secrets.choice(_ALPHABET) for _ in range(length or 24))
    return made if length else "call_" + made


class ReplyParser:
    """Reads one reply. Whatever a model writes, it never raises: what follows no format is content.

    Made by `ChatFormat.prepare`; used by one thread at a time.
    """

    def __init__(self, native: ChatReply, *, call_id_length: int | None = None) -> None:
        self._native = native
        self._call_id_length = call_id_length
        self._ids: list[str] = []
        self._began = False
        self._n_bytes = 0
        self._overflow: list[str] = []
        self._message: ChatMessage | None = None
        self.last_deltas: list[Delta] = []
        """What became known only at the end; set by `finish()`."""

    def push(self, text: str) -> list[Delta]:
        """Take more of the reply's text and return what is new; nothing when it has to be seen what follows.

        Args:
            text: Text with the tokens of `PreparedChat.shown_tokens` written out. After `finish()` it is ignored.

        Raises:
            InvalidArgumentError: It is no str.
        """
        given: Any = text
        if not isinstance(given, str):
            raise InvalidArgumentError(f"the text of a reply is a {type(given).__name__}", hint="give a str")
        if not text or self._message is not None:
            return []
        raw = text.encode("utf-8", "replace")
        text = raw.decode()  # a lone surrogate has become a question mark
        self._n_bytes += len(raw)
        if self._overflow or self._n_bytes > MAX_REPLY_BYTES // 2:  # the prompt's own part counts as well
            self._overflow.append(text)
            return self._deltas([{"content": text}])
        kind, pieces = self._native.push(raw)
        if kind:
            pieces = [{"content" if kind == CONTENT else "reasoning_content": text}]
        return self._deltas(pieces)

    def finish(self) -> ChatMessage:
        """End the reply and return the message; what is new in it is in `last_deltas`. A second call returns it again.

        What was cut off comes out as well as it can be read: calls with a part of their arguments, or content.
        """
        if self._message is None:
            _, pieces = self._native.push(b"", last=True)
            self.last_deltas = self._deltas(pieces)
            found = self._native.message()
            self._native.close()
            content = found["content"] + "".join(self._overflow)
            calls = [
                ToolCall(self._id(number, call["id"]), call["name"], call["arguments"])
                for number, call in enumerate(found["tool_calls"])
            ]
            self._message = ChatMessage(
                "assistant",
                content if content or not calls else None,
                found["reasoning_content"] or None,
                tuple(calls),
            )
        return self._message

    def _id(self, index: int, own: str) -> str:
        """The id of a call: the model's own if it was there in time, else one made up."""
        while len(self._ids) <= index:
            self._ids.append("")
        if not self._ids[index]:
            self._ids[index] = own or new_call_id(self._call_id_length)
        return self._ids[index]

    def _deltas(self, pieces: list[dict[str, Any]]) -> list[Delta]:
        deltas = []
        for piece in pieces:
            role, self._began = None if self._began else "assistant", True
            calls: tuple[ToolCallDelta, ...] = ()
            if "index" in piece:
                index = piece["index"]
                if index >= len(self._ids):
                    first = ToolCallDelta(index, self._id(index, piece["id"]), piece["name"], piece["arguments"])
                    calls = (first,)
                elif piece["arguments"]:
                    calls = (ToolCallDelta(index, arguments=piece["arguments"]),)
            delta = Delta("assistant" if role else None, piece.get("content"), piece.get("reasoning_content"), calls)
            deltas.append(delta)
        return deltas
