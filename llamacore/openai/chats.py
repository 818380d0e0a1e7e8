"""Chat replies in the OpenAI API's form, whole and in pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .responses import Stamp, chat_logprobs, finish_reason, usage
from .types import ChatChoice, ChatChunk, ChatLogprobs, ChatResponse

if TYPE_CHECKING:
    from ..engine.records import TokenLogprob, Usage
    from ..engine.text import PieceTable
    from .requests import ChatRequest


@dataclass(frozen=True)
class Reply:
    """A finished reply, as the writer takes it.

    Attributes:
        message: The assistant's message in the API's form.
        finish_reason: The engine's word for why it ended, or "tool_calls".
        usage: Counts of tokens.
        logprobs: One entry per token when they were asked for.
    """

    message: Mapping[str, Any]
    finish_reason: str
    usage: Usage
    logprobs: Sequence[TokenLogprob] = ()


class ChatWriter:
    """Writes the response to one request.

    Args:
        request: What was asked.
        model: Name of the model that answers.
        pieces: Bytes of tokens.
    """

    def __init__(self, request: ChatRequest, model: str, pieces: PieceTable) -> None:
        self._request = request
        self._stamp = Stamp.new("chatcmpl", request.model or model)
        self._pieces = pieces
        self._begun: set[int] = set()
        self._usages: dict[int, Usage] = {}

    def response(self, replies: Sequence[Reply]) -> ChatResponse:
        """Write the whole response."""
        self._usages = {number: reply.usage for number, reply in enumerate(replies)}
        choices: list[ChatChoice] = [
            {
                "index": number,
                "message": dict(reply.message),
                "logprobs": self._logprobs(reply.logprobs),
                "finish_reason": finish_reason(reply.finish_reason),
            }
            for number, reply in enumerate(replies)
        ]
        return {
            "id": self._stamp.id,
            "object": "chat.completion",
            "created": self._stamp.created,
            "model": self._stamp.model,
            "choices": choices,
            "usage": usage(self._counted()),
        }

    def piece(self, number: int, delta: Mapping[str, Any], logprobs: Sequence[TokenLogprob] = ()) -> list[ChatChunk]:
        """Write a piece of a reply; nothing is written for an empty one.

        The role comes first, in a piece of its own: programs look for it or for content, and take one of them.

        Args:
            number: Number of the choice.
            delta: What is new, in the API's form.
            logprobs: Of the tokens behind it.
        """
        written = self._opening(number)
        delta = {name: value for name, value in delta.items() if name != "role"}
        if delta or (logprobs and self._request.logprobs is not None):
            written.append(self._chunk(number, delta, self._logprobs(logprobs) if logprobs else None))
        return written

    def _opening(self, number: int) -> list[ChatChunk]:
        if number in self._begun:
            return []
        self._begun.add(number)
        return [self._chunk(number, {"role": "assistant", "content": ""}, None)]

    def end(self, number: int, reason: str, counted: Usage, logprobs: Sequence[TokenLogprob] = ()) -> list[ChatChunk]:
        """Write the end of a reply."""
        self._usages[number] = counted
        return [*self._opening(number), self._chunk(number, {}, self._logprobs(logprobs) if logprobs else None, reason)]

    def last(self) -> ChatChunk | None:
        """Write the piece that counts the tokens, if it was asked for."""
        if not self._request.include_usage:
            return None
        chunk = self._empty_chunk()
        chunk["usage"] = usage(self._counted())
        return chunk

    def _counted(self) -> list[Usage]:
        """Tokens of each choice, those of the prompt counted once."""
        return [
            item if number == 0 else replace(item, prompt_tokens=0, cached_tokens=0)
            for number, item in sorted(self._usages.items())
        ]

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return chat_logprobs(entries, self._pieces) if self._request.logprobs is not None else None

    def _empty_chunk(self) -> ChatChunk:
        chunk: ChatChunk = {
            "id": self._stamp.id,
            "object": "chat.completion.chunk",
            "created": self._stamp.created,
            "model": self._stamp.model,
            "choices": [],
        }
        if self._request.include_usage:
            chunk["usage"] = None
        return chunk

    def _chunk(
        self, number: int, delta: dict[str, Any], logprobs: ChatLogprobs | None, reason: str | None = None
    ) -> ChatChunk:
        chunk = self._empty_chunk()
        chunk["choices"] = [
            {
                "index": number,
                "delta": delta,
                "logprobs": logprobs,
                "finish_reason": finish_reason(reason) if reason is not None else None,
            }
        ]
        return chunk
