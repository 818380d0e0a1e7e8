"""Chat templates: from messages to a prompt, as model authors write them in jinja2."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import TemplateError, UnsupportedError

if TYPE_CHECKING:
    from jinja2 import Template

    from ..core.model import Model
    from ..core.vocab import Vocab

Message = Mapping[str, Any]

# Written into control tokens that a user typed, and taken out again by tokenize(): a noncharacter, never in real text.
_BREAK = "\ufdd0"


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(f"the chat template refuses the conversation: {message}")


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    # not jinja2's own filter, which escapes HTML; further keywords are those of json.dumps that change nothing here
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


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
    ) -> str:
        """Write the prompt for a conversation.

        Args:
            messages: Each with "role" and "content", and whatever else the template reads ("tool_calls", ...).
            tools: Tool definitions in the OpenAI API's form.
            add_generation_prompt: Open the assistant's turn at the end.
            enable_thinking: Passed to the template when it is not None.
            variables: Further names for the template.

        Raises:
            TemplateError: The template refuses the conversation or fails.
        """
        import jinja2

        names: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] if tools else None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            **({} if enable_thinking is None else {"enable_thinking": enable_thinking}),
            **(variables or {}),
        }
        try:
            return self._template.render(names)
        except TemplateError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as exc:
            raise TemplateError(
                f"the chat template fails at line {_line(exc)}: {exc}", hint="check the messages against what it reads"
            ) from exc


def _line(exc: BaseException) -> int | str:
    """The line of the template in which an exception was raised: jinja2 gives template frames the name <template>."""
    line: int | str = "?"
    trace = exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _compile(source: str) -> Template:
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as exc:
        raise TemplateError(f"the chat template does not parse, line {exc.lineno}: {exc.message}") from exc


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
