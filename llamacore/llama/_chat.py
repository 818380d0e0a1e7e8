"""Chatting with `Llama`: replies, streams of their pieces, tools that are run, and structured answers."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..chat.format import ChatFormat
from ..chat.options import ToolChoice
from ..errors import ClosedError
from ._base import LlamaBase
from ._chat_records import ChatChunk, ChatReply
from ._chat_run import ChatRequest, ChatRun, Messages
from ._options import GenerateOptions

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..chat.conversation import Strategy
    from ..chat.loop import ToolHook
    from ..chat.message import MessageLike
    from ..chat.structured import ResponseFormat
    from ..chat.tools import ToolLike
    from ..engine.generation import Generation
    from ..sampling import SamplingParams


class ChatOptions(GenerateOptions, total=False):
    """The fields of `ChatRequest` as keyword arguments, beside those of every generation.

    Attributes:
        tools: What the model may call: functions, pydantic models, `Tool`s, or dicts in the OpenAI API's form.
        tool_choice: "auto", "none", "required", or `{"type": "function", "function": {"name": ...}}`.
        parallel_tool_calls: Whether a reply may call several tools; None for what the format can.
        response_format: What the answer is to be: "json", a JSON schema, a pydantic model or another type, choices, a
            compiled regular expression, see `output_format`.
        enable_thinking: For templates that know it; None for the template's own default.
        thinking_budget: Most tokens of thoughts; None for no limit, 0 for none.
        template_options: Further variables for the template.
        run_tools: Run the tools that the model calls, and let it go on with their results.
        max_passes: How often the model is asked at most.
        on_tool_result: Called with the result of every tool that was run.
        strategy: When the messages have no room in the context: "drop_oldest", "error", or a function; None for the
            conversation's own, and for an error where there is none.
        sampling: How tokens are chosen; None for what the model file recommends, else upstream's defaults.
    """

    tools: Sequence[ToolLike] | None
    tool_choice: ToolChoice
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | None
    enable_thinking: bool | None
    thinking_budget: int | None
    template_options: Mapping[str, Any] | None
    run_tools: bool
    max_passes: int
    on_tool_result: ToolHook | None
    strategy: Strategy | None
    sampling: SamplingParams | None


_REQUEST = frozenset(field.name for field in dataclasses.fields(ChatRequest))


class ChatStream:
    """A running chat: iterate it (or iterate it asynchronously) for `ChatChunk`s, or ask for its `result()`.

    The last chunk has the reply. With `run_tools`, tools are run by who iterates: in this thread, or in the event loop.
    `cancel()` may be called from any thread. Dropping it cancels it.
    """

    def __init__(self, run: ChatRun) -> None:
        self._run = run
        self._first: Generation | None = run.start()
        self._sync: Iterator[ChatChunk] | None = None
        self._async: AsyncIterator[ChatChunk] | None = None
        self._reply: ChatReply | None = None

    def __iter__(self) -> Iterator[ChatChunk]:
        return self

    def __next__(self) -> ChatChunk:
        if self._sync is None:
            self._sync = self._chunks()
        return next(self._sync)

    def __aiter__(self) -> AsyncIterator[ChatChunk]:
        return self

    async def __anext__(self) -> ChatChunk:
        if self._async is None:
            self._async = self._achunks()
        return await self._async.__anext__()

    def cancel(self) -> None:
        """End as soon as possible, from any thread; what was generated is kept."""
        self._run.cancel()

    def close(self) -> None:
        """End it; what was not read is lost."""
        self._run.cancel()
        self._sync = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def result(self) -> ChatReply:
        """Read to the end, if it has not been read yet, and return the reply.

        Raises:
            StructuredOutputError: The answer is not what was asked for, or was cut off.
            ToolError: The model still calls tools after the last pass.
            ClosedError: It was closed, or failed, before its end.
        """
        for _ in self:
            pass
        return self._result()

    async def aresult(self) -> ChatReply:
        """As `result`, for event loops."""
        async for _ in self:
            pass
        return self._result()

    def _result(self) -> ChatReply:
        if self._reply is None:
            raise ClosedError("this chat ended before its reply was complete", hint="start another one")
        return self._reply

    def _chunks(self) -> Iterator[ChatChunk]:
        run = self._run
        while True:
            generation = self._next_generation()
            for chunk in generation:
                yield from run.feed(chunk)
            chunks, calls = run.finish()
            yield from map(self._noted, chunks)
            if not calls:
                return
            for result in run.runner.run(calls):
                yield run.add(result)
            if run.cancelled:
                yield self._noted(run.stopped())
                return

    async def _achunks(self) -> AsyncIterator[ChatChunk]:
        import asyncio

        run = self._run
        while True:
            generation = await asyncio.to_thread(self._next_generation)
            try:
                async for chunk in generation:
                    for piece in run.feed(chunk):
                        yield piece
            except asyncio.CancelledError:
                run.cancel()
                raise
            chunks, calls = run.finish()
            for piece in chunks:
                yield self._noted(piece)
            if not calls:
                return
            for result in await run.runner.arun(calls):
                yield run.add(result)
            if run.cancelled:
                yield self._noted(run.stopped())
                return

    def _next_generation(self) -> Generation:
        generation, self._first = self._first, None
        return self._run.start() if generation is None else generation

    def _noted(self, chunk: ChatChunk) -> ChatChunk:
        if chunk.reply is not None:
            self._reply = chunk.reply
        return chunk


class ChatMixin(LlamaBase):
    """Chatting."""

    @cached_property
    def chat_format(self) -> ChatFormat:
        """How this model talks.

        Raises:
            UnsupportedError: The model has no chat template.
        """
        return ChatFormat(self.model, self._chat_template_source)

    def chat_prompt(
        self,
        messages: Sequence[MessageLike],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
    ) -> list[int]:
        """Write a conversation as the model's chat template does, as tokens for `generate` or `stream`.

        Control tokens that a user or a tool wrote into a message stay plain text.

        Args:
            messages: Each with "role" and "content".
            tools: Tool definitions in the OpenAI API's form.
            add_generation_prompt: Open the assistant's turn at the end.
            enable_thinking: For templates that know it; None for the template's own default.

        Raises:
            UnsupportedError: The model has no chat template.
            TemplateError: The template refuses the conversation.
        """
        prepared = self.chat_format.prepare(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, enable_thinking=enable_thinking
        )
        return list(prepared.tokens)

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatReply:
        """Answer a conversation.

        Args:
            messages: A text of the user, messages (dicts in the OpenAI API's form, or `ChatMessage`s), or a
                `Conversation`, to which the reply is added.
            **options: See `ChatOptions`; beside them all of `GenerateOptions`.

        Returns:
            The reply.

        Raises:
            InvalidArgumentError: A message or an option is wrong.
            UnsupportedError: The model has no chat template, or its format cannot do what is asked.
            TemplateError: The template refuses the conversation.
            ContextFullError: The conversation has no room in the context.
            StructuredOutputError: The answer is not what `response_format` asks for (`IncompleteOutputError`: it was
                cut off); the error has its text.
            ToolError: The model still calls tools after `max_passes`.
        """
        return self.stream_chat(messages, **options).result()

    def stream_chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatStream:
        """Answer a conversation piece by piece; the arguments are those of `chat`.

        Returns:
            The running chat: iterate it for `ChatChunk`s (`async for` works too).
        """
        return ChatStream(self._chat_run(messages, options))

    async def achat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatReply:
        """`chat` for event loops: tools run at the same time, and cancelling the task cancels the chat."""
        import asyncio

        stream = await asyncio.to_thread(self.stream_chat, messages, **options)
        return await stream.aresult()

    def _chat_run(self, messages: Messages, options: ChatOptions) -> ChatRun:
        rest: dict[str, Any] = dict(options)
        asked = {name: rest.pop(name) for name in _REQUEST & rest.keys()}
        request = ChatRequest(**asked)
        return ChatRun(
            self.chat_format, self.model, self.stream, messages, request, rest, self.context.n_ctx_seq, self.name
        )
