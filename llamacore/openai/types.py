"""The shapes of responses in the OpenAI API's form."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(TypedDict):
    """Of the tokens of a prompt, those that the prefix cache had."""

    cached_tokens: int


class CompletionUsage(TypedDict):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(TypedDict):
    """Log-probabilities of the tokens of a completion; a prompt's first token has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One text."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionResponse(TypedDict):
    """What `create_completion` returns."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class _CompletionChunk(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]


class CompletionChunk(_CompletionChunk, total=False):
    """A piece of a streamed completion; `usage` is there when `include_usage` asked for it, null but on the last."""

    usage: CompletionUsage | None


class TopLogprob(TypedDict):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TypedDict):
    """A token of a reply and what could have stood there."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log-probabilities of the tokens of a reply, its thoughts and calls included."""

    content: list[ChatTokenLogprob]


class ChatChoice(TypedDict):
    """One reply; the message is `ChatMessage.to_dict()`."""

    index: int
    message: dict[str, Any]
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatResponse(TypedDict):
    """What `create_chat_completion` returns."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class ChatChunkChoice(TypedDict):
    """A piece of one reply; the delta is `Delta.to_dict()`."""

    index: int
    delta: dict[str, Any]
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class _ChatChunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]


class ChatChunk(_ChatChunk, total=False):
    """A piece of a streamed reply; `usage` is there when `include_usage` asked for it, null but on the last."""

    usage: CompletionUsage | None


class EmbeddingUsage(TypedDict):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(TypedDict):
    """One embedding: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingResponse(TypedDict):
    """What `create_embedding` returns."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingItem]
    usage: EmbeddingUsage
