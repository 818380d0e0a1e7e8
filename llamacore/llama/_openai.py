"""`Llama` in the OpenAI API's words: what goes in and comes out are the API's own shapes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

from ..engine.text import PieceTable
from ..openai.embeddings import embedding_response
from ..openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from ._chat import ChatMixin
from ._embed import EmbedMixin
from ._openai_work import ChatWork, CompletionWork, begin_chat, begin_completion
from ._score import ScoreMixin

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..chat.message import MessageLike
    from ..openai.parameters import ChatParameters, CompletionParameters, EmbeddingParameters
    from ..openai.types import ChatChunk, ChatResponse, CompletionChunk, CompletionResponse, EmbeddingResponse

TextPrompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


class OpenAIMixin(ChatMixin, EmbedMixin, ScoreMixin):
    """Completions, chat and embeddings in the OpenAI API's form."""

    @cached_property
    def _openai_pieces(self) -> PieceTable:
        return PieceTable(self.model.vocab)

    @overload
    def create_completion(
        self, prompt: TextPrompt, *, stream: Literal[False] = False, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse: ...

    @overload
    def create_completion(
        self, prompt: TextPrompt, *, stream: Literal[True], **parameters: Unpack[CompletionParameters]
    ) -> Iterator[CompletionChunk]: ...

    @overload
    def create_completion(
        self, prompt: TextPrompt, *, stream: bool, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse | Iterator[CompletionChunk]: ...

    def create_completion(
        self, prompt: TextPrompt, *, stream: bool = False, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse | Iterator[CompletionChunk]:
        """Complete a prompt (OpenAI: `POST /completions`).

        Control tokens that are written in a text prompt count as such. Sampling starts from what the model file
        recommends, as everywhere in `Llama`.

        Args:
            prompt: A text, texts, token ids, or several lists of token ids.
            stream: Return pieces as they come.
            **parameters: See `CompletionParameters`.

        Returns:
            The response as a dict; with `stream=True` an iterator of its pieces. All requests are under way when it is
            returned; closing or dropping the iterator cancels them.

        Raises:
            InvalidArgumentError: A parameter is unknown or wrong, or a prompt is empty.
            UnsupportedError: A parameter cannot be honoured.
            ContextFullError: A prompt is longer than the context.
            QueueFullError: Too many requests wait already.
        """
        request = CompletionRequest.parse({"prompt": prompt, "stream": stream, **parameters})
        work = CompletionWork(self, request, self._openai_pieces)
        return work.pieces() if stream else work.response()

    @overload
    async def acreate_completion(
        self, prompt: TextPrompt, *, stream: Literal[False] = False, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse: ...

    @overload
    async def acreate_completion(
        self, prompt: TextPrompt, *, stream: Literal[True], **parameters: Unpack[CompletionParameters]
    ) -> AsyncIterator[CompletionChunk]: ...

    @overload
    async def acreate_completion(
        self, prompt: TextPrompt, *, stream: bool, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse | AsyncIterator[CompletionChunk]: ...

    async def acreate_completion(
        self, prompt: TextPrompt, *, stream: bool = False, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse | AsyncIterator[CompletionChunk]:
        """`create_completion` for event loops: await it; with `stream=True` the result is for `async for`."""
        request = CompletionRequest.parse({"prompt": prompt, "stream": stream, **parameters})
        work = await begin_completion(self, request, self._openai_pieces)
        return work.apieces() if stream else await work.aresponse()

    @overload
    def __call__(
        self, prompt: TextPrompt, *, stream: Literal[False] = False, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse: ...

    @overload
    def __call__(
        self, prompt: TextPrompt, *, stream: Literal[True], **parameters: Unpack[CompletionParameters]
    ) -> Iterator[CompletionChunk]: ...

    @overload
    def __call__(
        self, prompt: TextPrompt, *, stream: bool, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse | Iterator[CompletionChunk]: ...

    def __call__(
        self, prompt: TextPrompt, *, stream: bool = False, **parameters: Unpack[CompletionParameters]
    ) -> CompletionResponse | Iterator[CompletionChunk]:
        """`create_completion` under the name that llama-cpp-python gives it."""
        return self.create_completion(prompt, stream=stream, **parameters)

    @overload
    def create_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: Literal[False] = False, **parameters: Unpack[ChatParameters]
    ) -> ChatResponse: ...

    @overload
    def create_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: Literal[True], **parameters: Unpack[ChatParameters]
    ) -> Iterator[ChatChunk]: ...

    @overload
    def create_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: bool, **parameters: Unpack[ChatParameters]
    ) -> ChatResponse | Iterator[ChatChunk]: ...

    def create_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: bool = False, **parameters: Unpack[ChatParameters]
    ) -> ChatResponse | Iterator[ChatChunk]:
        """Answer a conversation (OpenAI: `POST /chat/completions`).

        A reply that is cut off ends with the finish reason "length", whatever `response_format` asks for. Tools are not
        run: their calls are the answer. `chat` does more of both.

        Args:
            messages: Dicts in the API's form, or `ChatMessage`s.
            stream: Return pieces as they come.
            **parameters: See `ChatParameters`.

        Returns:
            The response as a dict; with `stream=True` an iterator of its pieces. All replies are under way when it is
            returned; closing or dropping the iterator cancels them.

        Raises:
            InvalidArgumentError: A parameter or a message is unknown or wrong.
            UnsupportedError: A parameter cannot be honoured, or the model has no chat template.
            TemplateError: The template refuses the conversation.
            ContextFullError: The conversation is longer than the context.
            QueueFullError: Too many requests wait already.
        """
        request = ChatRequest.parse({"messages": messages, "stream": stream, **parameters})
        work = ChatWork(self, request, self._openai_pieces)
        return work.pieces() if stream else work.response()

    @overload
    async def acreate_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: Literal[False] = False, **parameters: Unpack[ChatParameters]
    ) -> ChatResponse: ...

    @overload
    async def acreate_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: Literal[True], **parameters: Unpack[ChatParameters]
    ) -> AsyncIterator[ChatChunk]: ...

    @overload
    async def acreate_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: bool, **parameters: Unpack[ChatParameters]
    ) -> ChatResponse | AsyncIterator[ChatChunk]: ...

    async def acreate_chat_completion(
        self, messages: Sequence[MessageLike], *, stream: bool = False, **parameters: Unpack[ChatParameters]
    ) -> ChatResponse | AsyncIterator[ChatChunk]:
        """`create_chat_completion` for event loops: await it; with `stream=True` the result is for `async for`."""
        request = ChatRequest.parse({"messages": messages, "stream": stream, **parameters})
        work = await begin_chat(self, request, self._openai_pieces)
        return work.apieces() if stream else await work.aresponse()

    def create_embedding(self, input: TextPrompt, **parameters: Unpack[EmbeddingParameters]) -> EmbeddingResponse:  # noqa: A002
        """Embed texts (OpenAI: `POST /embeddings`): pooled as the model wants it, else by the mean, and normalised.

        Args:
            input: A text, texts, token ids, or several lists of token ids.
            **parameters: See `EmbeddingParameters`.

        Returns:
            The response as a dict.

        Raises:
            InvalidArgumentError: A parameter is unknown or wrong, or a text is empty or too long.
            UnsupportedError: The model has no embeddings.
        """
        request = EmbeddingRequest.parse({"input": input, **parameters})
        tokens = self._tokens_of(request)
        return embedding_response(request, self.embed(tokens), sum(map(len, tokens)), self.name)

    async def acreate_embedding(
        self,
        input: TextPrompt,  # noqa: A002
        **parameters: Unpack[EmbeddingParameters],
    ) -> EmbeddingResponse:
        """`create_embedding` for event loops: cancelling the task cancels the computation."""
        request = EmbeddingRequest.parse({"input": input, **parameters})
        tokens = self._tokens_of(request)
        return embedding_response(request, await self.aembed(tokens), sum(map(len, tokens)), self.name)

    def _tokens_of(self, request: EmbeddingRequest) -> list[list[int]]:
        return [self.tokenize(item) if isinstance(item, str) else list(item) for item in request.inputs]
