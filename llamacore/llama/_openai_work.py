"""Requests in the OpenAI API's form on their way: what the engine does for them, and the writer of what comes out."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from ..chat.structured import OutputFormat, output_format
from ..engine.records import TokenLogprob
from ..openai.chats import ChatWriter, Reply
from ..openai.completions import CompletionWriter, Echo
from ..openai.requests import ChatRequest, CompletionRequest

if TYPE_CHECKING:
    from ..engine.generation import Generation
    from ..engine.text import PieceTable
    from ..openai.types import ChatChunk, ChatResponse, CompletionChunk, CompletionResponse
    from ._chat import ChatStream
    from ._chat_records import ChatReply
    from ._openai import OpenAIMixin


class CompletionWork:
    """A request for completions: all its generations are under way once it is made.

    Args:
        llama: What generates.
        request: What is wanted.
        pieces: Bytes of tokens.
    """

    def __init__(self, llama: OpenAIMixin, request: CompletionRequest, pieces: PieceTable) -> None:
        echoes = [_echo(llama, prompt, request, pieces) for prompt in request.prompts] if request.echo else []
        self._writer = CompletionWriter(request, llama.name, pieces, echoes)
        self._generations: list[tuple[int, Generation]] = []  # each with the number of its first choice
        options = {**request.sampling, **request.scheduling}
        options |= {"max_tokens": request.max_tokens, "stop": request.stop, "logprobs": request.logprobs}
        try:
            for number, given in enumerate(request.prompts):
                prompt = given
                if request.suffix is not None:
                    prompt = tuple(llama.infill_prompt(str(given), request.suffix))
                for first, n in _groups(request.n, llama.context.n_seq_max):
                    if request.seed is not None:
                        options["seed"] = (request.seed + first) % 2**32
                    generation = llama.stream(prompt, n=n, parse_special=True, **options)
                    self._generations.append((number * request.n + first, generation))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End what still runs."""
        for _, generation in self._generations:
            generation.close()

    def response(self) -> CompletionResponse:
        """Wait for all, and write the response."""
        try:
            return self._writer.response([item for _, one in self._generations for item in one.results()])
        finally:
            self.close()

    async def aresponse(self) -> CompletionResponse:
        """`response` for event loops."""
        try:
            return self._writer.response([item for _, one in self._generations for item in await one.aresults()])
        finally:
            self.close()

    def pieces(self) -> Iterator[CompletionChunk]:
        """Write the pieces as they come."""
        try:
            for first, generation in self._generations:
                for chunk in generation:
                    yield from self._writer.chunks(first + chunk.index, chunk)
            last = self._writer.last()
            if last is not None:
                yield last
        finally:
            self.close()

    async def apieces(self) -> AsyncIterator[CompletionChunk]:
        """`pieces` for event loops."""
        try:
            for first, generation in self._generations:
                async for chunk in generation:
                    for piece in self._writer.chunks(first + chunk.index, chunk):
                        yield piece
            last = self._writer.last()
            if last is not None:
                yield last
        finally:
            self.close()


def _groups(n: int, at_most: int) -> list[tuple[int, int]]:
    """Part `n` samples into requests of what the engine takes at a time: first number and count of each."""
    return [(first, min(at_most, n - first)) for first in range(0, n, at_most)]


def _echo(llama: OpenAIMixin, prompt: str | tuple[int, ...], request: CompletionRequest, pieces: PieceTable) -> Echo:
    """The prompt as it is put before its completions, with its log-probabilities where they are wanted."""
    if request.logprobs is None:
        return Echo(prompt if isinstance(prompt, str) else llama.detokenize(prompt))
    tokens = tuple(llama.tokenize(prompt, parse_special=True) if isinstance(prompt, str) else prompt)
    text = prompt if isinstance(prompt, str) else llama.detokenize(prompt)
    if len(tokens) < 2:
        return Echo(text, tokens, (None,) * len(tokens))
    score = llama.score(tokens, top_k=request.logprobs)
    found: list[TokenLogprob | None] = [None]
    for number, token in enumerate(tokens[1:]):
        top = zip(score.top_tokens[number].tolist(), score.top_logprobs[number].tolist(), strict=True)
        shown = pieces.special(token)[0].decode("utf-8", "replace")
        found.append(TokenLogprob(token, shown, float(score.logprobs[number]), tuple(top)))
    return Echo(text, tokens, tuple(found))


class _Unchecked(OutputFormat):
    """Constrains a reply like another format, but leaves to the caller what becomes of one that was cut off."""

    def check(self, text: str, finish_reason: str) -> Any:
        return None


class ChatWork:
    """A request for replies: all of them are under way once it is made.

    Args:
        llama: What talks.
        request: What is wanted.
        pieces: Bytes of tokens.
    """

    def __init__(self, llama: OpenAIMixin, request: ChatRequest, pieces: PieceTable) -> None:
        self._writer = ChatWriter(request, llama.name, pieces)
        self._streams: list[ChatStream] = []
        options = {**request.sampling, **request.scheduling}
        grammar = options.pop("grammar", None)
        wanted = request.response_format if grammar is None else {"type": "grammar", "grammar": grammar}
        form = output_format(wanted)
        if form is not None:
            options["response_format"] = _Unchecked(**{f.name: getattr(form, f.name) for f in dataclasses.fields(form)})
        options |= {
            "tools": request.tools or None,
            "tool_choice": request.tool_choice or "auto",
            "parallel_tool_calls": request.parallel_tool_calls,
            "enable_thinking": request.enable_thinking,
            "thinking_budget": request.thinking_budget,
            "template_options": request.template_options or None,
            "max_tokens": request.max_tokens,
            "stop": request.stop,
            "logprobs": request.logprobs,
        }
        try:
            for number in range(request.n):
                if request.seed is not None:
                    options["seed"] = (request.seed + number) % 2**32
                self._streams.append(llama.stream_chat(request.messages, **options))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End what still runs."""
        for stream in self._streams:
            stream.cancel()

    def response(self) -> ChatResponse:
        """Wait for all, and write the response."""
        try:
            return self._writer.response([_reply(stream.result()) for stream in self._streams])
        finally:
            self.close()

    async def aresponse(self) -> ChatResponse:
        """`response` for event loops."""
        try:
            return self._writer.response([_reply(await stream.aresult()) for stream in self._streams])
        finally:
            self.close()

    def pieces(self) -> Iterator[ChatChunk]:
        """Write the pieces as they come."""
        try:
            for number, stream in enumerate(self._streams):
                for chunk in stream:
                    yield from self._written(number, chunk)
            last = self._writer.last()
            if last is not None:
                yield last
        finally:
            self.close()

    async def apieces(self) -> AsyncIterator[ChatChunk]:
        """`pieces` for event loops."""
        try:
            for number, stream in enumerate(self._streams):
                async for chunk in stream:
                    for piece in self._written(number, chunk):
                        yield piece
            last = self._writer.last()
            if last is not None:
                yield last
        finally:
            self.close()

    def _written(self, number: int, chunk: Any) -> list[ChatChunk]:
        if chunk.reply is None:
            return self._writer.piece(number, chunk.delta.to_dict(), chunk.logprobs)
        return self._writer.end(number, chunk.reply.finish_reason, chunk.reply.usage, chunk.logprobs)


def _reply(reply: ChatReply) -> Reply:
    return Reply(reply.message.to_dict(), reply.finish_reason, reply.usage, reply.logprobs)


async def begin_completion(llama: OpenAIMixin, request: CompletionRequest, pieces: PieceTable) -> CompletionWork:
    """Make a `CompletionWork` without blocking the event loop: prompts are tokenised and grammars compiled for it."""
    return await asyncio.to_thread(CompletionWork, llama, request, pieces)


async def begin_chat(llama: OpenAIMixin, request: ChatRequest, pieces: PieceTable) -> ChatWork:
    """Make a `ChatWork` without blocking the event loop."""
    return await asyncio.to_thread(ChatWork, llama, request, pieces)
