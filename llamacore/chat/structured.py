"""Structured output: from what a reply is to be to a grammar, and from its text back to a value."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from ..errors import GrammarError, IncompleteOutputError, InvalidArgumentError, StructuredOutputError
from . import json_text
from .char_sets import literal
from .control_tokens import unseen_bias
from .regex import regex_to_gbnf
from .schema import schema_to_gbnf
from .schema_check import violation
from .type_schema import Mismatch, TypeSchema

if TYPE_CHECKING:
    from ..core.model import Model

ResponseFormat = str | Mapping[str, Any] | re.Pattern[str] | Sequence[Any] | type | Any
"""What a reply is to be: see `output_format`."""

_OBJECT = {"type": "object"}
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_HINT = 'give "json", a JSON schema, a pydantic model or another type, a list of choices, a compiled regular expression'
_KNOWN = {
    "json_object": ("schema",),
    "json_schema": ("json_schema", "schema"),
    "regex": ("pattern",),
    "grammar": ("grammar",),
    "choice": ("choices",),
}


@dataclass(frozen=True)
class OutputFormat:
    """What a reply is to be.

    Attributes:
        kind: "json": JSON text. "text": any other text.
        grammar: GBNF that the reply follows, from its rule `root`.
        schema: What a JSON value keeps to.
        convert: Makes the final value of the JSON value, or of the text.
    """

    kind: Literal["json", "text"]
    grammar: str
    schema: Any = None
    convert: Callable[[Any], Any] | None = None

    def sampling(self, model: Model) -> dict[str, Any]:
        """Return fields of `SamplingParams` with which a plain generation follows the format, for `Llama.generate`."""
        return {"grammar": self.grammar, "logit_bias": unseen_bias(model, self.grammar)}

    def parse(self, text: str) -> Any:
        """Make the value of a complete reply.

        Raises:
            StructuredOutputError: The text is not what the format asks for; it has the text.
        """
        # some chat formats let white space stand around an answer, or a fence
        forms = dict.fromkeys((text, text.strip(), _FENCE.sub(r"\1", text.strip())))
        why: StructuredOutputError | None = None
        for form in forms:
            try:
                return self._value(form)
            except StructuredOutputError as exc:
                why = why or exc
        assert why is not None
        raise why

    def _value(self, text: str) -> Any:
        value: Any = text
        if self.kind == "json":
            try:
                value = json_text.loads(text)
            except ValueError as exc:
                raise mismatch(text, f"it is no JSON: {exc}") from None
            found = violation(value, self.schema)
            if found:
                raise mismatch(text, str(found))
        try:
            return value if self.convert is None else self.convert(value)
        except Mismatch as exc:
            raise mismatch(text, str(exc)) from exc

    def check(self, text: str, finish_reason: str) -> Any:
        """Make the value of a reply that ended for some reason.

        Raises:
            IncompleteOutputError: It was cut off before it was complete; it has the text.
            StructuredOutputError: It is complete, and not what the format asks for; it has the text.
        """
        try:
            return self.parse(text)
        except StructuredOutputError as exc:
            if finish_reason in ("stop", "tool_calls"):
                raise
            error = IncompleteOutputError(
                f"the reply was cut off ({finish_reason}) after {len(text)} characters, before it was complete",
                hint="raise max_tokens, or ask for less; the text so far is in the error's text",
            )
            error.text = text
            raise error from exc


def mismatch(text: str, why: str) -> StructuredOutputError:
    """Make the error that a reply is not what its format asks for."""
    error = StructuredOutputError(
        f"the reply is not what its response format asks for: {why}", hint="the text is in the error's text"
    )
    error.text = text
    return error


def output_format(wanted: ResponseFormat | None) -> OutputFormat | None:
    r"""Read what a reply is to be.

    Args:
        wanted: One of

            - None, "text" or `{"type": "text"}`: anything, and None is returned;
            - "json" or `{"type": "json_object"}`: a JSON object;
            - `{"type": "json_schema", "json_schema": {"schema": ...}}`, or a schema itself: JSON that keeps to it;
            - a pydantic model, dataclass, TypedDict, enum or another type (`list[int]`): JSON that is made one;
            - `Literal[...]` or a list of choices: one of them, as plain text where all are texts;
            - a compiled regular expression or `{"type": "regex", "pattern": ...}`: text that matches all of it;
            - `{"type": "grammar", "grammar": ...}`: text of a GBNF grammar.

    Raises:
        GrammarError: The schema, the expression or the grammar cannot be kept to; the message says where.
        InvalidArgumentError: It is none of these.
    """
    if wanted is None:
        return None
    if isinstance(wanted, OutputFormat):
        return wanted
    if isinstance(wanted, str):
        if wanted in ("text", "json"):
            return None if wanted == "text" else _of_schema(_OBJECT)
        raise InvalidArgumentError(f"response_format={wanted[:60]!r}", hint=_HINT)
    if isinstance(wanted, Mapping):
        return _of_mapping(wanted)
    if isinstance(wanted, re.Pattern):
        return _of_pattern(wanted)
    if isinstance(wanted, (list, tuple)):
        return _of_choices(list(wanted), None)
    if get_origin(wanted) is Literal:
        return _of_choices(list(get_args(wanted)), None)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return _of_choices([member.value for member in wanted], wanted)
    if isinstance(wanted, type) or get_origin(wanted) is not None:
        try:
            kind = TypeSchema(wanted)
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"response_format: {exc.message}", hint=exc.hint) from None
        return dataclasses.replace(_of_schema(kind.schema), convert=kind.convert)
    raise InvalidArgumentError(f"response_format is a {type(wanted).__name__}", hint=_HINT)


def _of_mapping(wanted: Mapping[str, Any]) -> OutputFormat | None:
    kind = wanted.get("type")
    if kind == "text" and len(wanted) == 1:
        return None
    if not isinstance(kind, str) or kind not in _KNOWN:
        return _of_schema(wanted)
    for key in wanted:
        if key not in ("type", *_KNOWN[kind]):
            raise InvalidArgumentError(
                f"response_format of type {kind} has no {key!r}", hint="it has " + " and ".join(_KNOWN[kind])
            )
    if kind == "json_object":
        return _of_schema(wanted.get("schema") or _OBJECT)
    if kind == "json_schema":
        outer = wanted.get("json_schema")
        schema = outer.get("schema") if isinstance(outer, Mapping) else wanted.get("schema")
        if schema is None:
            raise InvalidArgumentError(
                "response_format of type json_schema has no schema", hint='give {"json_schema": {"schema": {...}}}'
            )
        return _of_schema(schema)
    value = wanted.get(_KNOWN[kind][0])
    if kind == "choice" and isinstance(value, (list, tuple)):
        return _of_choices(list(value), None)
    if kind == "choice" or not isinstance(value, str):
        raise InvalidArgumentError(f"response_format of type {kind} needs {_KNOWN[kind][0]!r}", hint=_HINT)
    return _of_pattern(value) if kind == "regex" else OutputFormat("text", _checked_grammar(value))


def _of_schema(schema: Any) -> OutputFormat:
    if not isinstance(schema, (Mapping, bool)):
        raise InvalidArgumentError(f"a JSON schema that is a {type(schema).__name__}", hint="give a dict")
    return OutputFormat("json", schema_to_gbnf(schema), schema)


def _of_pattern(pattern: str | re.Pattern[str]) -> OutputFormat:
    grammar = regex_to_gbnf(pattern)
    compiled = re.compile(pattern)

    def matching(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Mismatch(f"{text[:80]!r} does not match {compiled.pattern[:80]!r}")
        return text

    return OutputFormat("text", grammar, convert=matching)


def _of_choices(choices: list[Any], kind: Any) -> OutputFormat:
    if not choices:
        raise InvalidArgumentError("response_format has no choices", hint="give at least one")
    if not all(isinstance(choice, str) for choice in choices):
        try:
            return dataclasses.replace(_of_schema({"enum": choices}), convert=kind)
        except GrammarError as exc:
            raise InvalidArgumentError(f"the choices are no JSON values: {exc.message}") from None

    def chosen(text: str) -> Any:
        if text not in choices:
            raise Mismatch(f"{text[:80]!r} is none of {choices!r:.200}")
        return text if kind is None else kind(text)

    return OutputFormat("text", f"root ::= {' | '.join(map(literal, choices))}\n", convert=chosen)


def _checked_grammar(grammar: str) -> str:
    if not re.search(r"^\s*root\s*::=", grammar, re.MULTILINE):
        raise GrammarError("the grammar has no rule 'root' to start from", hint="begin with root ::= ...")
    return grammar
