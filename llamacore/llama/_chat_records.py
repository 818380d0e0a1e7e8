"""What a chat reports: frozen records, from the piece of a reply to the finished one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..chat.loop import ToolResult
from ..chat.message import ChatMessage, Delta, ToolCall
from ..engine.records import Completion, Timings, TokenLogprob, Usage

ChatFinishReason = Literal["stop", "length", "tool_calls", "timeout", "cancelled"]


@dataclass(frozen=True)
class ChatReply:
    """A finished reply.

    Attributes:
        message: What the model said last.
        parsed: The value that `response_format` asked for; None without one, and where the reply calls tools or was
            cancelled.
        finish_reason: "stop" (the model ended, or a stop string), "length" (`max_tokens`, or the context is full),
            "tool_calls" (it wants tools to be run), "timeout" or "cancelled".
        new_messages: All that was added to the conversation: with tools that were run, the calls and their results
            before the last message.
        dropped_messages: Messages that were left out of the prompt because they had no room.
        usage: Tokens of all passes together.
        timings: Times of all passes together; those of the tools are not in them.
        passes: How often the model was asked.
        model: Name of the model.
        logprobs: One entry per token of the last pass, when log-probabilities were asked for.
    """

    message: ChatMessage
    parsed: Any
    finish_reason: ChatFinishReason
    new_messages: tuple[ChatMessage, ...]
    dropped_messages: int
    usage: Usage
    timings: Timings
    passes: int
    model: str
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def content(self) -> str:
        """The answer as text; empty where the model only calls tools."""
        return self.message.text

    @property
    def reasoning_content(self) -> str | None:
        """What the model thought."""
        return self.message.reasoning_content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What the model calls."""
        return self.message.tool_calls


@dataclass(frozen=True)
class ChatChunk:
    """A piece of a running reply.

    Attributes:
        delta: What is new in the message.
        tokens: Tokens generated since the chunk before; their text may still be held back.
        logprobs: One entry per token when log-probabilities were asked for.
        tool_result: What came of a tool that was run; nothing else is new then.
        finish_reason: Set on the last chunk only.
        reply: The whole reply, on the last chunk only.
    """

    delta: Delta
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_result: ToolResult | None = None
    finish_reason: ChatFinishReason | None = None
    reply: ChatReply | None = None

    @property
    def content(self) -> str:
        """What is new of the answer."""
        return self.delta.content or ""

    @property
    def reasoning_content(self) -> str:
        """What is new of the thoughts."""
        return self.delta.reasoning_content or ""


def total_usage(completions: Sequence[Completion]) -> Usage:
    """Add up the tokens of several passes."""
    used = [completion.usage for completion in completions]
    return Usage(
        sum(usage.prompt_tokens for usage in used),
        sum(usage.completion_tokens for usage in used),
        sum(usage.cached_tokens for usage in used),
    )


def total_timings(completions: Sequence[Completion]) -> Timings:
    """Add up the times of several passes."""
    if len(completions) == 1:
        return completions[0].timings
    timings, usage = [completion.timings for completion in completions], total_usage(completions)
    prompt_ms, predicted_ms = sum(t.prompt_ms for t in timings), sum(t.predicted_ms for t in timings)
    computed = usage.prompt_tokens - usage.cached_tokens
    return Timings(
        prompt_ms,
        predicted_ms,
        computed / prompt_ms * 1000 if prompt_ms else 0.0,
        usage.completion_tokens / predicted_ms * 1000 if predicted_ms else 0.0,
        sum(t.queued_ms for t in timings),
    )
