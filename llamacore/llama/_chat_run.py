"""One chat: prompts, passes, tools and the reply, without saying who waits for whom."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..chat import gbnf
from ..chat.char_sets import literal
from ..chat.control_tokens import unseen_bias
from ..chat.conversation import Conversation, Strategy, check_strategy, fitted
from ..chat.loop import MAX_PASSES, ToolHook, ToolRunner
from ..chat.message import ChatMessage, Delta, MessageLike, ToolCall
from ..chat.structured import OutputFormat, ResponseFormat, output_format
from ..chat.tools import ToolLike, tools_of
from ..engine.records import Chunk, Completion, TokenLogprob
from ..errors import InvalidArgumentError, ToolError, UnsupportedError
from ._chat_records import ChatChunk, ChatFinishReason, ChatReply, total_timings, total_usage

if TYPE_CHECKING:
    from ..chat.format import ChatFormat, PreparedChat
    from ..chat.loop import ToolResult
    from ..chat.options import ToolChoice
    from ..chat.reply import ReplyParser
    from ..core.model import Model
    from ..engine.generation import Generation

Messages = str | Sequence[MessageLike] | Conversation
"""What is said so far: a text of the user, messages, or a conversation, to which the reply is added."""

Submit = Callable[..., "Generation"]

_MARK = "@the response format@"
# how upstream's parser for most formats lets an answer stand in a fence, and lets any text stand before calls
_FENCED = '("```json" space response-format space "```" | space response-format space)'
TEXT_BEFORE_CALLS = re.compile(r"until-\d+\? (tool-calls?)$", re.MULTILINE)
_NOT_HERE = {
    **dict.fromkeys(
        ("grammar", "grammar_lazy", "grammar_triggers", "grammar_type", "json_schema"), "use response_format"
    ),
    "reasoning_budget_tokens": "use thinking_budget",
    **dict.fromkeys(
        ("generation_prompt", "reasoning_budget_start_tag", "reasoning_budget_end_tags"), "the chat format knows it"
    ),
    "n": "call it several times: the prompt is computed once",
    "special": "control tokens of the format are read, not shown",
}


@dataclass(frozen=True)
class ChatRequest:
    """What a chat can be told beyond what every generation can.

    Attributes:
        tools: What the model may call.
        tool_choice: "auto", "none", "required", or a certain tool.
        parallel_tool_calls: Whether a reply may call several tools; None for what the format can.
        response_format: What the answer is to be, see `output_format`.
        enable_thinking: For templates that know it; None for the template's own default.
        thinking_budget: Most tokens of thoughts; None for no limit, 0 for none.
        template_options: Further variables for the template.
        run_tools: Run the tools that the model calls, and let it go on with their results.
        max_passes: How often the model is asked at most.
        on_tool_result: Called with the result of every tool that was run.
        strategy: What to do when the messages have no room in the context; None for the conversation's own, and for an
            error where there is none.
    """

    tools: Sequence[ToolLike] | None = None
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    template_options: Mapping[str, Any] | None = None
    run_tools: bool = False
    max_passes: int = MAX_PASSES
    on_tool_result: ToolHook | None = None
    strategy: Strategy | None = None

    def __post_init__(self) -> None:
        if self.strategy is not None:
            check_strategy(self.strategy)
        for name, lowest in (("max_passes", 1), ("thinking_budget", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < lowest):
                raise InvalidArgumentError(f"{name}={value!r}", hint=f"give a whole number of {lowest} or more")
        if self.run_tools and not self.tools:
            raise InvalidArgumentError("run_tools without tools", hint="give tools as well")


@dataclass
class _Pass:
    """One question to the model."""

    generation: Generation
    reader: ReplyParser
    completion: Completion | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def chunk(self, delta: Delta, **more: Any) -> ChatChunk:
        """Make a chunk with all tokens that were not reported yet."""
        made = ChatChunk(delta, tuple(self.tokens), tuple(self.logprobs), **more)
        self.tokens, self.logprobs = [], []
        return made


@dataclass
class ChatRun:
    """The state of a chat. `start`, `feed` and `finish` are called in turns by who reads the chunks.

    Attributes:
        format: How the model talks.
        model: The model.
        submit: Starts a generation.
        messages: What was said so far.
        request: What is wanted.
        options: What every generation can be told.
        n_ctx: Tokens of context.
        model_name: For the reply.
    """

    format: ChatFormat
    model: Model
    submit: Submit
    messages: Messages
    request: ChatRequest
    options: Mapping[str, Any]
    n_ctx: int
    model_name: str
    cancelled: bool = False
    new: list[ChatMessage] = field(default_factory=list)
    _completions: list[Completion] = field(default_factory=list)
    _dropped: int = 0
    _pass: _Pass | None = None
    _counted: tuple[list[MessageLike], PreparedChat] | None = None

    def __post_init__(self) -> None:
        self._conversation = self.messages if isinstance(self.messages, Conversation) else None
        if isinstance(self.messages, str):
            self._given: list[MessageLike] = [ChatMessage("user", self.messages)]
        else:
            self._given = _listed(self.messages)
        for name, hint in _NOT_HERE.items():
            if name in self.options:
                raise InvalidArgumentError(f"a chat has no option {name!r}", hint=hint)
        sampling = self.options.get("sampling")
        if getattr(sampling, "grammar", None) is not None or getattr(sampling, "json_schema", None) is not None:
            raise InvalidArgumentError("a chat with a grammar in its sampling", hint="use response_format")
        self._now = datetime.now()
        self._tools = tools_of(self.request.tools)
        self._output = output_format(self.request.response_format)
        self.runner = ToolRunner(self._tools, self.request.on_tool_result)

    # prompts

    def _prepared(self, messages: Sequence[MessageLike], **changes: Any) -> PreparedChat:
        counted, self._counted = self._counted, None
        if counted is not None and not changes and counted[0] == messages:
            return counted[1]  # the same prompt, whose reader was not used
        request = self.request
        given: dict[str, Any] = {
            "tools": [tool.to_prompt() for tool in self._tools] or None,
            "tool_choice": self._choice,
            "parallel_tool_calls": request.parallel_tool_calls,
            "enable_thinking": request.enable_thinking,
            "template_options": request.template_options,
            "now": self._now,
        }
        return self.format.prepare(messages, **{**given, **changes})

    @property
    def _choice(self) -> ToolChoice:
        """A call is forced in the first pass only: with its result the model goes on as it likes."""
        if not self._tools and self.request.tool_choice == "auto":
            return "none"
        forced = self.request.tool_choice not in ("auto", "none")
        return "auto" if forced and self._completions else self.request.tool_choice

    def _fitted(self) -> list[MessageLike]:
        messages = [*self._given, *self.new]
        conversation = self._conversation
        strategy = self.request.strategy or (conversation.strategy if conversation else None)
        if strategy is None:
            return messages
        asked = self.options.get("max_tokens")
        room = min(max(asked, 1), self.n_ctx // 2) if isinstance(asked, int) else self.n_ctx // 4
        budget = self.n_ctx - room
        if conversation is not None and conversation.budget is not None:
            budget = min(budget, conversation.budget)

        def count(part: Sequence[MessageLike]) -> int:
            self._counted = list(part), self._prepared(part)
            return len(self._counted[1].tokens)

        chosen, self._dropped = fitted(messages, count, budget, strategy)
        return chosen

    def _composed(self, messages: Sequence[MessageLike]) -> tuple[PreparedChat, dict[str, Any]]:
        """The prompt, and how its reply is sampled so that it can think, call tools, and answer as it should."""
        output, choice = self._output, self._choice
        forced = choice not in ("auto", "none")
        if output is None or forced:
            prepared = self._prepared(messages)
            if forced and "grammar" not in prepared.sampling:
                raise UnsupportedError(
                    "the chat format of this model has no tool calls that could be forced",
                    hint='use tool_choice="auto", or another model or chat template',
                )
            sampling = dict(prepared.sampling)
            if forced:
                sampling["grammar"] = TEXT_BEFORE_CALLS.sub(r"\1", sampling["grammar"])
            return prepared, sampling
        marked = self._prepared(messages, tools=None, tool_choice="none", json_schema={"const": _MARK})
        if "grammar" not in marked.sampling:
            return self._composed_plainly(messages, output, choice)
        whole = marked.sampling["grammar"].replace(_FENCED, "response-format")
        sampling = {**marked.sampling, "grammar": gbnf.inserted(whole, literal(json.dumps(_MARK)), output.grammar)}
        if choice == "none":
            # the reader for JSON takes a fence away that some formats insist on
            prepared = marked if output.kind == "json" and not self._tools else self._prepared(messages)
            return prepared, sampling
        prepared = self._prepared(messages)
        calls = self._prepared(messages, tool_choice="required").sampling
        if "grammar" not in calls or calls["generation_prompt"] != sampling["generation_prompt"]:
            raise _not_together()
        only_calls = TEXT_BEFORE_CALLS.sub(r"\1", calls["grammar"])
        return prepared, {**sampling, "grammar": gbnf.either(sampling["grammar"], only_calls)}

    def _composed_plainly(
        self, messages: Sequence[MessageLike], output: OutputFormat, choice: ToolChoice
    ) -> tuple[PreparedChat, dict[str, Any]]:
        """For formats of which upstream knows no grammar of answers: one that begins after the thoughts."""
        if choice != "none":
            raise _not_together()
        prepared = self._prepared(messages)
        return prepared, {**prepared.sampling, "grammar": output.grammar, "grammar_type": "user"}

    # passes

    def start(self) -> Generation:
        """Ask the model."""
        messages = self._fitted()
        prepared, sampling = self._composed(messages)
        options = dict(self.options)
        stop = options.pop("stop", ())
        options["stop"] = (*((stop,) if isinstance(stop, str) else stop), *prepared.stop)
        options["shown_tokens"] = prepared.shown_tokens | options.get("shown_tokens", frozenset())
        options.setdefault("checkpoints", prepared.checkpoints)
        if self.request.thinking_budget is not None:
            if "reasoning_budget_start_tag" not in sampling:
                raise UnsupportedError(
                    "the chat format of this model has no place for thoughts", hint="leave out thinking_budget"
                )
            sampling["reasoning_budget_tokens"] = self.request.thinking_budget
        if self._output is not None:
            tags = (sampling.get("reasoning_budget_start_tag", ""), *sampling.get("reasoning_budget_end_tags", ()))
            hidden = unseen_bias(self.model, sampling["grammar"], shown=options["shown_tokens"], tags=tags)
            wished = options.get("logit_bias", getattr(options.get("sampling"), "logit_bias", {}))
            if not isinstance(wished, Mapping):
                raise InvalidArgumentError(f"logit_bias={wished!r:.80}", hint="give a dict of tokens to numbers")
            options["logit_bias"] = {**hidden, **wished}
        generation = self.submit(prepared.tokens, **sampling, **options)
        self._pass = _Pass(generation, prepared.reply)
        return generation

    def cancel(self) -> None:
        """End as soon as possible."""
        self.cancelled = True
        if self._pass is not None:
            self._pass.generation.cancel()

    def feed(self, chunk: Chunk) -> list[ChatChunk]:
        """Read a piece of the generation."""
        assert self._pass is not None
        if chunk.result is not None:
            self._pass.completion = chunk.result
        self._pass.tokens += chunk.tokens
        self._pass.logprobs += chunk.logprobs
        return [self._pass.chunk(delta) for delta in self._pass.reader.push(chunk.text)]

    def finish(self) -> tuple[list[ChatChunk], Sequence[ToolCall]]:
        """End a pass.

        Returns:
            The last pieces (the very last has the reply), and the calls that are to be run before the next pass.

        Raises:
            StructuredOutputError: The answer is not what was asked for, or was cut off.
            ToolError: The model still calls tools after the last pass.
        """
        assert self._pass is not None
        completion = self._pass.completion
        assert completion is not None
        message = self._pass.reader.finish()
        chunks = [self._pass.chunk(delta) for delta in self._pass.reader.last_deltas]
        self._completions.append(completion)
        self.new.append(message)
        reason: ChatFinishReason = completion.finish_reason
        if reason == "stop" and message.tool_calls:
            reason = "tool_calls"
        if self.request.run_tools and reason == "tool_calls" and self.runner.can_run(message.tool_calls):
            if len(self._completions) >= self.request.max_passes:
                error = ToolError(
                    f"the model still calls tools after {self.request.max_passes} passes",
                    hint="raise max_passes, or look at the calls in the error's reply",
                )
                error.reply = self._reply(message, reason, None)
                raise error
            return chunks, message.tool_calls
        return [*chunks, self._end(message, reason)], ()

    def add(self, result: ToolResult) -> ChatChunk:
        """Take the result of a call."""
        self.new.append(result.message)
        return ChatChunk(Delta(), tool_result=result)

    def stopped(self) -> ChatChunk:
        """The end of a chat that was cancelled between two passes."""
        last = next(message for message in reversed(self.new) if message.role == "assistant")
        return self._end(last, "cancelled")

    def _end(self, message: ChatMessage, reason: ChatFinishReason) -> ChatChunk:
        parsed = None
        if self._output is not None and reason not in ("tool_calls", "cancelled"):
            parsed = self._output.check(message.text, reason)
        reply = self._reply(message, reason, parsed)
        if self._conversation is not None:
            self._conversation.extend(self.new)
        assert self._pass is not None
        return self._pass.chunk(Delta(), finish_reason=reason, reply=reply)

    def _reply(self, message: ChatMessage, reason: ChatFinishReason, parsed: Any) -> ChatReply:
        return ChatReply(
            message=message,
            parsed=parsed,
            finish_reason=reason,
            new_messages=tuple(self.new),
            dropped_messages=self._dropped,
            usage=total_usage(self._completions),
            timings=total_timings(self._completions),
            passes=len(self._completions),
            model=self.model_name,
            logprobs=self._completions[-1].logprobs,
        )


def _listed(messages: Any) -> list[MessageLike]:
    if isinstance(messages, (bytes, Mapping)) or not isinstance(messages, (Conversation, Sequence)):
        raise InvalidArgumentError(
            f"the messages are a {type(messages).__name__}", hint="give a text, a list of messages or a Conversation"
        )
    return list(messages)


def _not_together() -> UnsupportedError:
    return UnsupportedError(
        "the chat format of this model has no tool calls that go with a response format",
        hint="leave out the tools or the response_format",
    )
