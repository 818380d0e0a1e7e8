"""From a conversation and tools to a running generation of a node's engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..chat.conversation import fitted, turns
from ..chat.format import ChatFormat, PreparedChat
from ..chat.message import ChatMessage, ToolCall
from ..errors import ContextFullError, LlamaCoreError, TemplateError, UnsupportedError
from ..llama._chat_run import TEXT_BEFORE_CALLS
from .format_reader import FormatReader
from .stream_filter import TAGS, THINK, RawCall, StreamFilter

if TYPE_CHECKING:
    from ..chat.message import MessageLike
    from ..engine.generation import Generation
    from ..llama import Llama
    from ..sampling import SamplingParams

_log = logging.getLogger("llamacore.nodes")

_CHATML = (
    "{%- for message in messages -%}<|im_start|>{{ message.role + '\\n' + message.content }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)


@dataclass(frozen=True)
class Started:
    """A generation that runs.

    Attributes:
        generation: The generation.
        reader: What reads its text.
    """

    generation: Generation
    reader: StreamFilter | FormatReader


class Prompter:
    """Writes the prompts of a node and submits them. Several threads may use it at once.

    Args:
        llama: The engine.
        sampling: How tokens are chosen.
        max_tokens: Most tokens of an answer.
    """

    def __init__(self, llama: Llama, sampling: SamplingParams, max_tokens: int) -> None:
        self._llama = llama
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._fallback: ChatFormat | None = None
        vocab = llama.model.vocab
        tags = [vocab.tokenize(tag, add_special=False, parse_special=True) for tag in TAGS]
        self._shown = frozenset(tokens[0] for tokens in tags if len(tokens) == 1)

    def start(
        self,
        messages: Sequence[MessageLike],
        tools: Sequence[Mapping[str, Any]],
        tool_choice: Any,
        options: Mapping[str, Any],
        texts: Mapping[str, Sequence[str]] | None = None,
    ) -> Started:
        """Write the prompt and submit it; the oldest turns are left out where they have no room.

        Args:
            messages: The conversation.
            tools: The tools that are offered, in the OpenAI API's form.
            tool_choice: None for "auto".
            options: More for `Llama.stream`.
            texts: For the `StreamFilter`.

        Raises:
            ContextFullError: Its last turn alone has no room in the context.
            InvalidArgumentError: The tools or the choice do not go with the model's format.
        """
        prepared = self._fitted(messages, tools, tool_choice)
        sampling = dict(prepared.sampling)
        if tool_choice not in (None, "auto", "none") and "grammar" in sampling:
            sampling["grammar"] = TEXT_BEFORE_CALLS.sub(r"\1", sampling["grammar"])
        generation = self._llama.stream(
            prepared.tokens,
            sampling=self._sampling,
            max_tokens=self._max_tokens,
            stop=prepared.stop if self._fallback is None else (*prepared.stop, "<|im_end|>"),
            shown_tokens=prepared.shown_tokens | self._shown,
            checkpoints=prepared.checkpoints,
            **{**sampling, **options},
        )
        if tools and not self._writes_tags:
            return Started(generation, FormatReader(prepared.reply))
        return Started(generation, StreamFilter(thinking=prepared.prompt.rstrip().endswith(THINK), texts=texts))

    @cached_property
    def _writes_tags(self) -> bool:
        """Whether this model writes its calls in `<tool_call>` tags, as shown by a call that its template writes."""
        call = ToolCall("call00000", "probe", "{}")
        messages = [ChatMessage("user", "0"), ChatMessage("assistant", None, tool_calls=(call,))]
        try:
            shown = self._prepared(messages, (), None, add_generation_prompt=False).prompt
        except LlamaCoreError:
            return True
        return any(isinstance(item, RawCall) and item.name == "probe" for item in StreamFilter().push(shown))

    def _fitted(
        self, messages: Sequence[MessageLike], tools: Sequence[Mapping[str, Any]], tool_choice: Any
    ) -> PreparedChat:
        n_ctx = self._llama.context.n_ctx_seq
        budget = n_ctx - min(self._max_tokens, n_ctx // 2)
        last: list[PreparedChat] = []

        def count(part: Sequence[MessageLike]) -> int:
            last[:] = [self._prepared(part, tools, tool_choice)]
            return len(last[0].tokens)

        try:
            chosen, dropped = fitted(messages, count, budget, "drop_oldest")
        except ContextFullError:  # the last turn alone leaves less room than that for the answer
            system, parts = turns(messages)
            chosen, dropped = [*system, *parts[-1]], 1
        if dropped:
            count(chosen)
        return last[0]

    def _prepared(
        self,
        messages: Sequence[MessageLike],
        tools: Sequence[Mapping[str, Any]],
        tool_choice: Any,
        *,
        add_generation_prompt: bool = True,
    ) -> PreparedChat:
        if self._fallback is None:
            try:
                return self._llama.chat_format.prepare(
                    messages, tools=tools or None, tool_choice=(tool_choice or "auto") if tools else "none",
                    enable_thinking=False, add_generation_prompt=add_generation_prompt,
                )  # fmt: skip
            except UnsupportedError:
                _log.warning("%s has no chat template: prompts are written as ChatML, without tools", self._llama.name)
                self._fallback = ChatFormat(self._llama.model, _CHATML)
            except TemplateError as exc:
                _log.warning("the chat template fails, the prompt is written as ChatML, without tools: %s", exc.message)
                return ChatFormat(self._llama.model, _CHATML).prepare(messages, tool_choice="none")
        return self._fallback.prepare(messages, tool_choice="none")
