"""Chat templates: from messages to a prompt, as model authors write them in jinja2."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, TemplateError, UnsupportedError

if TYPE_CHECKING:
    from jinja2 import Template

    from ..core.model import Model
    from ..core.vocab import Vocab

Message = Mapping[str, Any]

# Written into control tokens that a user typed, and taken out again by tokenize(): a noncharacter, never in real text.
_BREAK = "\ufdd0"


class ChatTemplate:
    """A chat template, rendered in jinja2's immutable sandbox.

    Args:
        source: The template.
        bos_token: What `bos_token` stands for in it.
        eos_token: What `eos_token` stands for in it.

    Raises:
        TemplateError: It does not parse; the message names its line.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if not isinstance(source, str):
            raise InvalidArgumentError(f"the chat template is a {type(source).__name__}", hint="give its source")
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self._template = _compile(source)

    @classmethod
    def of(cls, model: Model, source: str | None = None) -> ChatTemplate:
        """Make the template of a model, or another one with the model's special tokens.

        Raises:
            UnsupportedError: The model file carries no template and none is given.
        """
        source = source if source is not None else model.chat_template()
        if source is None:
            raise UnsupportedError("this model has no chat template", hint="give one, or use plain prompts (--raw)")
        vocab = model.vocab
        bos, eos = (vocab.text(token) if token is not None else "" for token in (vocab.bos, vocab.eos))
        return cls(source, bos_token=bos, eos_token=eos)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        variables: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> str:
        """Write the prompt for a conversation.

        Args:
            messages: Each with "role" and "content", and whatever else the template reads ("tool_calls", ...).
            tools: Tool definitions in the OpenAI API's form.
            add_generation_prompt: Open the assistant's turn at the end.
            enable_thinking: Passed to the template when it is not None.
            variables: Further names for the template.
            now: The time that `strftime_now` tells; None for the time of the call.

        Raises:
            TemplateError: The template refuses the conversation or fails; the message has its line.
        """
        from ._jinja import NoTools

        clock = now if now is not None else datetime.now()
        conversation, listed = [dict(message) for message in messages], [dict(tool) for tool in tools or ()]
        if ".append(" in self.source or ".pop(" in self.source:  # it may do so to what it is given
            conversation, listed = copy.deepcopy(conversation), copy.deepcopy(listed)
        names: dict[str, Any] = {
            "messages": conversation,
            "tools": listed or NoTools(name="tools"),
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "strftime_now": clock.strftime,
            **({} if enable_thinking is None else {"enable_thinking": enable_thinking}),
            **(variables or {}),
        }
        try:
            return self._template.render(names)
        except Exception as exc:  # a template can fail in any way that Python code can
            number, line = _place(exc, self.source)
            if isinstance(exc, TemplateError):
                raise TemplateError(f"{exc.message} (line {number}: {line})") from None
            raise TemplateError(
                f"the chat template fails at line {number} ({line}): {str(exc) or type(exc).__name__}",
                hint="check the messages against what it reads",
            ) from exc


def _place(exc: BaseException, source: str) -> tuple[int, str]:
    """The line of the template in which an exception was raised: jinja2 gives template frames the name <template>."""
    number = 0
    trace = exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            number = trace.tb_lineno
        trace = trace.tb_next
    return number, _line(source, number)


def _line(source: str, number: int) -> str:
    lines = source.splitlines()
    text = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return text if len(text) <= 100 else text[:99] + "…"


@functools.lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    import jinja2

    from ._jinja import environment

    try:
        return environment().from_string(source)
    except jinja2.TemplateSyntaxError as exc:
        line = _line(source, exc.lineno)
        raise TemplateError(f"the chat template does not parse, line {exc.lineno} ({line}): {exc.message}") from exc
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as exc:
        raise TemplateError(f"the chat template is more than Python can compile: {exc}") from exc


def control_texts(vocab: Vocab) -> list[str]:
    """Return the texts that `parse_special` would read as control or user-defined tokens, longest first."""
    from ..core.vocab import TokenAttr

    texts = {vocab.text(token) for token in vocab.with_attr(TokenAttr.CONTROL | TokenAttr.USER_DEFINED)}
    return sorted((text for text in texts if text), key=len, reverse=True)


def protect(value: Any, controls: Sequence[str]) -> Any:
    """Break control tokens that are written in the strings of a message, so that they stay plain text.

    Args:
        value: A message, a list, or a string.
        controls: The texts of the control tokens, from `control_texts`.

    Returns:
        The same with a mark inside every such text; `tokenize` takes the marks out again.
    """
    if isinstance(value, str):
        value = value.replace(_BREAK, "")
        for control in controls:
            if control in value:
                value = value.replace(control, control[:1] + _BREAK + control[1:])
        return value
    if isinstance(value, Mapping):
        return {key: protect(item, controls) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [protect(item, controls) for item in value]
    return value


def tokenize(vocab: Vocab, prompt: str, *, add_special: bool = True) -> list[int]:
    """Turn a rendered prompt into tokens: the template's control tokens count, those from `protect` do not."""
    tokens: list[int] = []
    for number, part in enumerate(prompt.split(_BREAK)):
        tokens += vocab.tokenize(part, add_special=add_special and number == 0, parse_special=True)
    return tokens
