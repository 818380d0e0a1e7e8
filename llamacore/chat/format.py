"""Chat formats: from a conversation and its tools to a prompt, to what a sampler must know, and to a reader of replies.

The prompt is rendered by jinja2 from the model's own template. What the template means for the rest (the grammar for
tool calls, what triggers it, where thoughts begin and end, how a reply is read) upstream's `common_chat` finds out.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..core.chat import ChatParser, ChatTemplates
from ..core.grammar import Schema
from ..errors import InvalidArgumentError
from ..sampling import GrammarTrigger
from .history import Messages, canonical_messages, canonical_tools, finish_prompt, for_parser, for_template
from .message import MessageLike
from .options import ToolChoice, aliases, answer_schema, check_parameters, choose, template_variables
from .reply import ReplyParser
from .template import ChatTemplate, control_texts, protect, tokenize

if TYPE_CHECKING:
    from ..core.model import Model

_T = TypeVar("_T")
_UNBOUNDED = re.compile(r"(\[\^(?:[^\]\\]|\\.)*\])([*+])")


@dataclass(frozen=True)
class PreparedChat:
    """All that a request to a chat model consists of.

    Attributes:
        prompt: The prompt as text; in messages of users and tools, control tokens are broken by U+FDD0.
        tokens: The prompt in tokens.
        checkpoints: Numbers of tokens after which another prompt may go on differently, ascending: the end of the
            system message and the tools, the end of all messages. Where a boundary is not sure it is left out.
        sampling: Fields for `SamplingParams`: the grammar and how the thoughts of this format begin and end.
        stop: Strings that end a reply of this format.
        shown_tokens: Control tokens whose text the reader needs.
        reply: A reader for one reply.
        format: Upstream's name of the format.
        supports_thinking: Whether the format has a place for thoughts.
    """

    prompt: str
    tokens: tuple[int, ...]
    checkpoints: tuple[int, ...]
    sampling: Mapping[str, Any]
    stop: tuple[str, ...]
    shown_tokens: frozenset[int]
    reply: ReplyParser
    format: str
    supports_thinking: bool
    _parser: ChatParser = field(repr=False, compare=False)
    _call_id_length: int | None = field(default=None, repr=False, compare=False)

    def new_reply(self) -> ReplyParser:
        """Make a reader for another reply to the same prompt."""
        return ReplyParser(self._parser.reply(), call_id_length=self._call_id_length)


class ChatFormat:
    """How a model talks, made once for each model. Several threads may use it at once.

    Args:
        model: The model; it must stay open.
        template: jinja2 source to use instead of the model's own template.

    Raises:
        UnsupportedError: The model file carries no template and none is given.
        TemplateError: The template does not parse.
    """

    def __init__(self, model: Model, template: str | None = None) -> None:
        self._vocab = model.vocab
        self._plain = _Variant(ChatTemplate.of(model, template))
        own_for_tools = model.chat_template("tool_use") if template is None else None
        self._for_tools = self._plain if own_for_tools is None else _Variant(ChatTemplate.of(model, own_for_tools))
        self._controls = control_texts(self._vocab)
        self._derived: _Recent[_Derived] = _Recent(32)
        self._prefixes: _Recent[list[int]] = _Recent(8)

    @property
    def source(self) -> str:
        """The template."""
        return self._plain.template.source

    @property
    def caps(self) -> Mapping[str, bool]:
        """What upstream found out about the template by trying (`supports_tools`, `supports_system_role`, ...)."""
        return self._plain.native.caps

    def prepare(
        self,
        messages: Sequence[MessageLike],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool | None = None,
        json_schema: Schema | None = None,
        grammar: str | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        template_options: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> PreparedChat:
        """Work out everything for a request.

        Control tokens that a user or a tool wrote into a message stay plain text.

        Args:
            messages: The conversation, as `ChatMessage`s or dicts in the OpenAI API's form.
            tools: Tool definitions in the OpenAI API's form.
            tool_choice: "auto", "none", "required", or a certain tool.
            parallel_tool_calls: Whether a reply may call several tools; None for what the format can.
            json_schema: JSON schema that the answer (not the thoughts) must follow. Such a reply calls no tool, as
                upstream has it for most formats.
            grammar: GBNF grammar that the answer must follow.
            enable_thinking: For templates that know it; None for the template's own default.
            add_generation_prompt: Open the assistant's turn at the end.
            template_options: Further variables for the template (`reasoning_effort`, ...).
            now: The time that templates may tell; None for the time of the call.

        Raises:
            TemplateError: The template refuses the conversation or fails; the message has its line.
            GrammarError: The schema, or that of a tool, cannot be turned into a grammar.
            InvalidArgumentError: An argument has the wrong form, or two do not go together.
        """
        conversation, listed = canonical_messages(messages), canonical_tools(tools)
        offered, choice = choose(listed, tool_choice)
        schema = answer_schema(json_schema, grammar, choice if offered else "none")
        if schema is not None:
            offered, choice = [], "none"
        for tool in offered:
            check_parameters(tool)
        variant = self._for_tools if listed else self._plain
        clock = now if now is not None else datetime.now()
        options = template_variables(template_options, clock)
        draft = _Draft(self._controls, variant, conversation, listed, enable_thinking, options, clock)
        closed = draft.render(add_generation_prompt=False)
        prompt = draft.render(add_generation_prompt=True) if add_generation_prompt else closed
        opening = prompt[_common(prompt, closed) :]
        caps = variant.native.caps
        inputs = {
            "tools": offered,
            "tool_choice": choice,
            "parallel_tool_calls": caps["supports_parallel_tool_calls"] if parallel_tool_calls is None
            else bool(parallel_tool_calls),
            "json_schema": schema,
            "enable_thinking": variant.thinks() if enable_thinking is None else bool(enable_thinking),
            "reasoning_format": "deepseek",
            "add_generation_prompt": bool(add_generation_prompt),
            "chat_template_kwargs": options,
        }  # fmt: skip
        key = _key([variant is self._plain, opening, inputs])
        derived = self._derived.get(key, lambda: self._derive(variant, conversation, inputs))
        tokens = self._tokens(prompt, variant)
        checkpoints = self._checkpoints(draft, tokens, prompt, closed)
        sampling = dict(derived.sampling)
        if grammar is not None:
            sampling["grammar"] = grammar
        length = 9 if "alphanumeric strings with length 9" in variant.template.source else None
        return PreparedChat(
            prompt=prompt,
            tokens=tuple(tokens),
            checkpoints=checkpoints,
            sampling=sampling,
            stop=derived.stop,
            shown_tokens=derived.shown_tokens,
            reply=ReplyParser(derived.parser.reply(), call_id_length=length),
            format=derived.format,
            supports_thinking=derived.supports_thinking,
            _parser=derived.parser,
            _call_id_length=length,
        )

    def _derive(self, variant: _Variant, messages: Messages, inputs: Mapping[str, Any]) -> _Derived:
        """Let upstream work out what does not depend on the conversation beyond how it opens the reply."""
        params, parser = variant.native.apply({"messages": for_parser(messages), **inputs})
        preserved = [self._single(text) for text in params["preserved_tokens"]]
        sampling: dict[str, Any] = {}
        if params["grammar"]:
            sampling["grammar"] = params["grammar"]
            sampling["grammar_type"] = "output_format" if inputs["json_schema"] is not None else "tool_calls"
            if params["grammar_lazy"]:
                sampling["grammar_lazy"] = True
                sampling["grammar_triggers"] = tuple(self._trigger(t) for t in params["grammar_triggers"])
        if params["thinking_start_tag"] and params["thinking_end_tags"]:
            sampling["reasoning_budget_start_tag"] = params["thinking_start_tag"]
            sampling["reasoning_budget_end_tags"] = tuple(params["thinking_end_tags"])
        if sampling:
            sampling["generation_prompt"] = params["generation_prompt"]
        return _Derived(
            sampling=sampling,
            stop=tuple(params["additional_stops"]),
            shown_tokens=frozenset(token for token in preserved if token is not None),
            format=params["format"],
            supports_thinking=params["supports_thinking"],
            parser=parser,
        )

    def _single(self, text: str) -> int | None:
        tokens = self._vocab.tokenize(text, add_special=False, parse_special=True)
        return tokens[0] if len(tokens) == 1 else None

    def _trigger(self, found: Mapping[str, str]) -> GrammarTrigger:
        token = self._single(found["value"]) if found["type"] == "word" else None
        if token is not None:
            return GrammarTrigger("token", token)
        # some of upstream's patterns repeat a class without a bound, with which std::regex runs out of stack
        value = _UNBOUNDED.sub(lambda match: f"{match[1]}{{{int(match[2] == '+')},200}}", found["value"])
        return GrammarTrigger(found["type"], value)  # type: ignore[arg-type]

    def _tokens(self, prompt: str, variant: _Variant) -> list[int]:
        # templates write BOS themselves where a model wants one
        return tokenize(self._vocab, prompt, add_special=variant.template.bos_token not in prompt[:64])

    def _checkpoints(self, draft: _Draft, tokens: list[int], prompt: str, closed: str) -> tuple[int, ...]:
        found = {self._system_boundary(draft, tokens), self._end_of_messages(draft.variant, tokens, prompt, closed)}
        return tuple(sorted(number for number in found if 0 < number < len(tokens)))

    def _end_of_messages(self, variant: _Variant, tokens: list[int], prompt: str, closed: str) -> int:
        """Where the assistant's turn is opened, if the tokens before it are those of the messages alone."""
        if prompt == closed or not prompt.startswith(closed):
            return 0
        # tokenizers begin anew at every control token: what comes before the last one need not be looked at again
        near = max(len(closed) - 4096, 0)
        start = max((closed.rfind(text, near) for text in self._controls), default=-1)
        if start > 0:
            tail = tokenize(self._vocab, closed[start:], add_special=False)
            opening = tokenize(self._vocab, prompt[len(closed) :], add_special=False)
            end = len(tokens) - len(opening)
            if end >= len(tail) and tokens[end - len(tail) :] == tail + opening:
                return end
        whole = self._tokens(closed, variant)
        return len(whole) if tokens[: len(whole)] == whole else 0

    def _system_boundary(self, draft: _Draft, tokens: list[int]) -> int:
        """Where the prompt leaves that of another conversation with the same system message and tools."""
        system = 0
        while system < len(draft.messages) and draft.messages[system]["role"] in ("system", "developer"):
            system += 1
        if (not system and not draft.tools) or system == len(draft.messages):
            return 0
        first = str(draft.messages[system]["content"])
        probe = {"role": "user", "content": "0" if not first.startswith("0") else "1"}
        try:
            other = draft.render(add_generation_prompt=False, messages=[*draft.messages[:system], probe])
        except InvalidArgumentError:
            return 0  # a template that wants more than a question
        return _common(tokens, self._prefixes.get(other, lambda: self._tokens(other, draft.variant)))


@dataclass(frozen=True)
class _Derived:
    """What upstream derives from a template and the options of a request."""

    sampling: Mapping[str, Any]
    stop: tuple[str, ...]
    shown_tokens: frozenset[int]
    format: str
    supports_thinking: bool
    parser: ChatParser


class _Variant:
    """One template of a model, in both engines."""

    def __init__(self, template: ChatTemplate) -> None:
        bos, eos = template.bos_token, template.eos_token
        self.native = ChatTemplates(template.source, bos, eos)
        self.template = ChatTemplate(self.native.source, bos_token=bos, eos_token=eos)
        self._thinks: bool | None = None

    def thinks(self) -> bool:
        """Whether the template opens a reply with thinking when it is not told to or not to."""
        if self._thinks is None:
            draft = _Draft((), self, [{"role": "user", "content": "0"}], [], None, {}, datetime(2000, 1, 1))
            try:
                own = draft.render(add_generation_prompt=True)
                self._thinks = own != draft.render(add_generation_prompt=True, enable_thinking=False) or own == (
                    draft.render(add_generation_prompt=True, enable_thinking=True)
                )
            except InvalidArgumentError:
                self._thinks = True  # upstream's default
        return self._thinks


@dataclass(frozen=True)
class _Draft:
    """A conversation about to be rendered."""

    controls: Sequence[str]
    variant: _Variant
    messages: Messages
    tools: list[dict[str, Any]]
    enable_thinking: bool | None
    options: Mapping[str, Any]
    now: datetime

    def render(
        self,
        *,
        add_generation_prompt: bool,
        messages: Messages | None = None,
        enable_thinking: bool | None = None,
    ) -> str:
        template, caps = self.variant.template, self.variant.native.caps
        chosen = self.messages if messages is None else messages
        shown = for_template(chosen, template.source, caps, safe=lambda value: protect(value, self.controls))
        prompt = template.render(
            shown,
            tools=self.tools,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=self.enable_thinking if enable_thinking is None else enable_thinking,
            variables=aliases(self.options),
            now=self.now,
        )
        return finish_prompt(prompt, template.source, add_generation_prompt=add_generation_prompt)


class _Recent(Generic[_T]):
    """The last few results of something that takes its time. Safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found: OrderedDict[str, _T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], _T]) -> _T:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = make()
        with self._lock:
            self._found[key] = made
            while len(self._found) > self._size:
                self._found.popitem(last=False)
        return made


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the common start of two sequences."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    return next(place for place in range(limit) if a[place] != b[place])


def _key(parts: Any) -> str:
    try:
        return json.dumps(parts)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidArgumentError(f"an option of the chat cannot be written as JSON: {exc}") from exc
