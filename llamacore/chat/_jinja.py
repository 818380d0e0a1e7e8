"""The jinja2 environment that model authors write chat templates for. Imports jinja2, so it is imported late."""

from __future__ import annotations

import json
import types
from typing import Any, NoReturn

from jinja2 import Environment, Undefined, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import TemplateError


class Missing(Undefined):
    """What a name or a field is that is not there: added to text it is nothing, as in upstream's engine."""

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__


class NoTools(Missing):
    """What `tools` is when there are none: both undefined and none, since templates ask for either."""

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, NoTools)

    __hash__ = Undefined.__hash__


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`: marks what the assistant wrote, for training; renders what is inside."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Nothing that a template is given can be changed, but it may use lists of its own (it is given copies then)."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return (attr in ("append", "pop") and isinstance(obj, list)) or super().is_safe_attribute(obj, attr, value)


def _raise_exception(message: object = "") -> NoReturn:
    raise TemplateError(f"the chat template refuses the conversation: {message}")


def _listed(value: object) -> list[Any]:
    if isinstance(value, types.GeneratorType):  # what map() and select() make
        return list(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # not jinja2's own filter, which escapes HTML
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_listed
    )


def environment() -> Environment:
    """Return a new sandbox with what model authors expect."""
    made = _Sandbox(trim_blocks=True, lstrip_blocks=True, undefined=Missing, extensions=[loopcontrols, _GenerationTag])
    made.filters["tojson"] = _tojson
    made.filters["safe"] = str  # a prompt is no HTML: jinja2's own filter makes what is added to it be escaped
    made.tests["none"] = lambda value: value is None or isinstance(value, NoTools)
    made.globals["raise_exception"] = _raise_exception
    return made
