"""Completions in the OpenAI API's form, whole and in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .responses import LogprobWriter, Stamp, finish_reason, usage
from .types import CompletionChoice, CompletionChunk, CompletionLogprobs, CompletionResponse

if TYPE_CHECKING:
    from ..engine.records import Chunk, Completion, TokenLogprob, Usage
    from ..engine.text import PieceTable
    from .requests import CompletionRequest


@dataclass(frozen=True)
class Echo:
    """A prompt as it is put before its completions.

    Attributes:
        text: The prompt; empty when it is not wanted.
        tokens: Its tokens, when log-probabilities are wanted.
        logprobs: Theirs; None for the first token, which has none.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob | None, ...] = ()


class CompletionWriter:
    """Writes the response to one request.

    Args:
        request: What was asked.
        model: Name of the model that answers.
        pieces: Bytes of tokens.
        echoes: The prompts as they are put before the completions; one for each prompt, or none at all.
    """

    def __init__(self, request: CompletionRequest, model: str, pieces: PieceTable, echoes: Sequence[Echo] = ()) -> None:
        self._request = request
        self._stamp = Stamp.new("cmpl", request.model or model)
        self._pieces = pieces
        self._echoes = echoes
        self._writers: dict[int, LogprobWriter] = {}
        self._lengths: dict[int, int] = {}
        self._done: dict[int, Completion] = {}

    def response(self, completions: Sequence[Completion]) -> CompletionResponse:
        """Write the whole response.

        Args:
            completions: Those of the first prompt, then those of the next.
        """
        choices = [self._choice(number, item) for number, item in enumerate(completions)]
        self._done = dict(enumerate(completions))
        return {
            "id": self._stamp.id,
            "object": "text_completion",
            "created": self._stamp.created,
            "model": self._stamp.model,
            "choices": choices,
            "usage": usage(self._usages()),
        }

    def chunks(self, number: int, chunk: Chunk) -> list[CompletionChunk]:
        """Write the pieces that a chunk of the engine stands for: none, one, or the echo and one.

        Args:
            number: Number of the choice.
            chunk: What was generated.
        """
        written = []
        if number not in self._lengths and self._request.echo:
            echo = self._echoes[number // self._request.n]
            written.append(self._chunk(number, echo.text, self._logprobs_of_echo(number, echo)))
        self._lengths[number] = self._lengths.get(number, 0) + len(chunk.text)
        if chunk.result is not None:
            self._done[number] = chunk.result
        end = self._end(number, chunk.result)
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = self._writer(number).write(chunk.logprobs, end=end)
        if chunk.text or chunk.finish_reason is not None or (logprobs and logprobs["tokens"]):
            written.append(self._chunk(number, chunk.text, logprobs, chunk.finish_reason))
        return written

    def last(self) -> CompletionChunk | None:
        """Write the piece that counts the tokens, if it was asked for."""
        if not self._request.include_usage:
            return None
        chunk = self._empty_chunk()
        chunk["usage"] = usage(self._usages())
        return chunk

    def _usages(self) -> list[Usage]:
        """Tokens of each choice, those of a prompt counted once."""
        n = self._request.n
        return [
            item.usage if number % n == 0 else replace(item.usage, prompt_tokens=0, cached_tokens=0)
            for number, item in sorted(self._done.items())
        ]

    def _choice(self, number: int, completion: Completion) -> CompletionChoice:
        echo = self._echoes[number // self._request.n] if self._request.echo else Echo()
        self._lengths[number] = len(completion.text)
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = self._logprobs_of_echo(number, echo) or self._writer(number).write(())
            written = self._writer(number).write(completion.logprobs, end=self._end(number, completion))
            logprobs["tokens"] += written["tokens"]
            logprobs["token_logprobs"] += written["token_logprobs"]
            logprobs["top_logprobs"] += written["top_logprobs"]
            logprobs["text_offset"] += written["text_offset"]
        return {
            "text": echo.text + completion.text,
            "index": number,
            "logprobs": logprobs,
            "finish_reason": finish_reason(completion.finish_reason),
        }

    def _end(self, number: int, result: Completion | None) -> int | None:
        """Where the text of a choice ends, when it ended at a stop string."""
        if result is None or result.stop is None:
            return None
        echo = self._echoes[number // self._request.n] if self._request.echo else Echo()
        return len(echo.text) + self._lengths[number]

    def _writer(self, number: int) -> LogprobWriter:
        if number not in self._writers:
            self._writers[number] = LogprobWriter(self._pieces)
        return self._writers[number]

    def _logprobs_of_echo(self, number: int, echo: Echo) -> CompletionLogprobs | None:
        if self._request.logprobs is None or not self._request.echo:
            return None
        return self._writer(number).write(echo.logprobs, tokens=echo.tokens)

    def _empty_chunk(self) -> CompletionChunk:
        chunk: CompletionChunk = {
            "id": self._stamp.id,
            "object": "text_completion",
            "created": self._stamp.created,
            "model": self._stamp.model,
            "choices": [],
        }
        if self._request.include_usage:
            chunk["usage"] = None
        return chunk

    def _chunk(
        self, number: int, text: str, logprobs: CompletionLogprobs | None, reason: str | None = None
    ) -> CompletionChunk:
        chunk = self._empty_chunk()
        chunk["choices"] = [
            {
                "text": text,
                "index": number,
                "logprobs": logprobs,
                "finish_reason": finish_reason(reason) if reason is not None else None,
            }
        ]
        return chunk
