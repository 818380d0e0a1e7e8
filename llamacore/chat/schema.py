"""JSON schemas to grammars that hold every value to its schema.

Upstream's converter leaves out what it cannot say without a word. So a schema is first written anew with what it does
say exactly; numbers with bounds, patterns and constants become rules of our own, which take the place of marks in its
grammar; the rest is either refused with its path or named as checked afterwards.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..core.grammar import MAX_SCHEMA_NODES, Schema, json_schema_to_gbnf
from ..errors import GrammarError
from . import json_text, numbers, regex
from .char_sets import literal
from .schema_check import resolve, step, violation
from .schema_merge import Unsatisfiable, merged, type_names
from .string_formats import STRING_FORMATS

MAX_LEVELS = 100
"""Schemas within schemas, references included."""

ANNOTATIONS = frozenset(
    {
        "title", "description", "default", "examples", "example", "$comment", "deprecated", "readOnly", "writeOnly",
        "$schema", "$id", "$defs", "definitions", "discriminator", "contentEncoding", "contentMediaType", "format",
        "nullable", "$vocabulary",
    }
)  # fmt: skip
"""Keywords that limit nothing. A `format` of strings is kept to where it is one of `STRING_FORMATS`."""

CHECKED = frozenset(
    {
        "uniqueItems", "multipleOf", "minProperties", "maxProperties", "propertyNames", "contains", "minContains",
        "maxContains", "not", "dependentRequired", "oneOf",
    }
)  # fmt: skip
"""Keywords that no grammar keeps to: the value is checked when it is complete."""

REFUSED = frozenset(
    {
        "patternProperties", "if", "then", "else", "dependentSchemas", "dependencies", "unevaluatedProperties",
        "unevaluatedItems", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor", "contentSchema",
    }
)  # fmt: skip
"""Keywords that are errors."""

_SIZES = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minContains",
    "maxContains",
)
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_KIND_OF = {
    **dict.fromkeys(("properties", "required", "additionalProperties", "propertyNames"), "object"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"), "array"),
    **dict.fromkeys(("pattern", "minLength", "maxLength"), "string"),
    **dict.fromkeys(_BOUNDS, "number"),
}
# not the surrogates, which upstream's own rules let through
_CHAR = (
    r'[ !#-\[\]-~\u0080-\uD7FF\uE000-\U0010FFFF] | "\\" (["\\/bfnrt] | "u" '
    r"([0-9abcefABCEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))"
)
_OWN_PRIMITIVES = {"number": numbers.NUMBER, "char": _CHAR}


def schema_to_gbnf(schema: Schema | bool) -> str:
    """Turn a JSON schema into a grammar whose texts keep to it, but for the keywords of `CHECKED`.

    Args:
        schema: The schema, as JSON text or as what `json.loads` makes of it.

    Returns:
        The grammar in GBNF, from its rule `root`. The last 64 are remembered.

    Raises:
        GrammarError: It is no JSON schema, says what no value can keep to, or what no grammar can say; the message has
            the path (`$.properties.age.minimum`).
    """
    try:
        text = schema if isinstance(schema, str) else json_text.dumps(schema)
        text.encode()
    except (TypeError, ValueError) as exc:
        raise GrammarError(f"the JSON schema is not valid JSON: {exc}") from None
    return _convert(text)


@functools.lru_cache(maxsize=64)
def _convert(text: str) -> str:
    try:
        return _Rewriter(json_text.loads(text), text).grammar()
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, GrammarError):
            raise
        raise GrammarError(f"the JSON schema is not valid JSON, or nested too deep: {exc}") from None


def fail(path: str, what: str, hint: str = "") -> NoReturn:
    """Refuse a schema."""
    raise GrammarError(f"JSON schema, {path}: {what}", hint=hint)


class _Rewriter:
    def __init__(self, root: Any, text: str) -> None:
        self.root = root
        self.names: dict[str, str] = {}
        self.defs: dict[str, Any] = {}
        self.rules: list[list[str]] = []
        self.n_nodes = 0
        self.mark = next(mark for n in range(len(text)) if (mark := f"@rule{n}@") not in text)

    def grammar(self) -> str:
        schema = self.node(self.root, "$", 0)
        grammar = json_schema_to_gbnf({**schema, "$defs": self.defs} if self.defs else schema)
        for number in range(len(self.rules)):
            grammar = grammar.replace(literal(json.dumps(self._mark(number))), self._name(number))
        lines = []
        for line in grammar.splitlines():
            name, _, body = line.partition(" ::= ")
            if "additional-k" in name:  # upstream lets these keys have what JSON does not allow in strings
                body = body.replace('[^"', r'[^"\\\x00-\x1F\x7F\uD800-\uDFFF')
            lines.append(f"{name} ::= {_OWN_PRIMITIVES.get(name, body)}")
        return "\n".join([*lines, *(rule for rules in self.rules for rule in rules)]) + "\n"

    def _mark(self, number: int) -> str:
        return f"{self.mark}{number}."

    def _name(self, number: int) -> str:
        return f"own-rule-{number}"

    def own(self, *rules: str) -> dict[str, Any]:
        """Keep rules of our own, the first of which has the next name, and return what stands for it in the schema."""
        self.rules.append(list(rules))
        return {"const": self._mark(len(self.rules) - 1)}

    def own_expression(self, expression: str) -> dict[str, Any]:
        return self.own(f"{self._name(len(self.rules))} ::= {expression}")

    # one schema

    def node(self, schema: Any, path: str, level: int) -> dict[str, Any]:
        self.n_nodes += 1
        if level > MAX_LEVELS:
            fail(path, f"nested deeper than {MAX_LEVELS} levels")
        if self.n_nodes > MAX_SCHEMA_NODES:
            fail(path, f"more than {MAX_SCHEMA_NODES} schemas within schemas", hint="make it smaller")
        if isinstance(schema, bool):
            schema = self._boolean(schema, path)
        if not isinstance(schema, Mapping):
            fail(path, f"a schema is an object, not {json.dumps(schema)[:60]}")
        self._check_keywords(schema, path)
        rest = {key: value for key, value in schema.items() if key not in ANNOTATIONS or key == "format"}
        if "$ref" in rest:
            return self._ref(rest, path, level)
        if "allOf" in rest:
            parts = self._schemas(rest.pop("allOf"), step(path, "allOf"))
            for part in parts:
                rest = merged(rest, part, self.root, path)
            return self.node(rest, path, level + 1)
        for key in ("anyOf", "oneOf"):
            if key in rest:
                return self._any_of(self._schemas(rest.pop(key), step(path, key)), rest, step(path, key), level)
        if "const" in rest or "enum" in rest:
            return self._values(rest, path)
        return self._typed(rest, path, level)

    @staticmethod
    def _boolean(schema: bool, path: str) -> dict[str, Any]:
        if not schema:
            raise Unsatisfiable(f"JSON schema, {path}: nothing is allowed here")
        return {}

    @staticmethod
    def _check_keywords(schema: Mapping[str, Any], path: str) -> None:
        for key, value in schema.items():
            here = step(path, str(key))
            if key in REFUSED:
                fail(here, "no grammar can say that", hint="leave it out, or write the alternatives with anyOf")
            if key in _SIZES and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                fail(here, f"{json.dumps(value)[:60]} is no whole number of 0 or more")
            if key in _BOUNDS and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300
            ):
                fail(here, f"{json.dumps(value)[:60]} is no number that can be a bound")
            if key in ("pattern", "$ref", "format") and not isinstance(value, str):
                fail(here, f"{json.dumps(value)[:60]} is no text")

    @staticmethod
    def _schemas(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            fail(path, "empty, or no list of schemas")
        return value

    def _ref(self, schema: dict[str, Any], path: str, level: int) -> dict[str, Any]:
        ref = schema.pop("$ref")
        here = step(path, "$ref")
        try:
            target = resolve(self.root, ref)
        except KeyError:
            remote = not ref.startswith("#")
            fail(here, f"{ref!r} {'is not in this schema' if remote else 'leads nowhere'}",
                 hint="put what it refers to under $defs" if remote else "")  # fmt: skip
        if schema:
            return self.node(merged(schema, target, self.root, path), path, level + 1)
        if ref not in self.names:
            # names of our own: upstream takes two that differ in signs only for the same
            name = self.names[ref] = f"d{len(self.names)}"
            self.defs[name] = self.node(target, "$" + re.sub(r"/", ".", ref[1:]), level + 1)
        return {"$ref": f"#/$defs/{self.names[ref]}"}

    def _any_of(self, parts: list[Any], rest: dict[str, Any], path: str, level: int) -> dict[str, Any]:
        found, why = [], None
        for number, part in enumerate(parts):
            here = step(path, number)
            try:
                found.append(self.node(merged(part, rest, self.root, here) if rest else part, here, level + 1))
            except Unsatisfiable as exc:
                why = exc
        if not found:
            raise why or Unsatisfiable(f"JSON schema, {path}: no alternative is possible")
        return found[0] if len(found) == 1 else {"anyOf": found}

    def _values(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        key = "const" if "const" in schema else "enum"
        values = [schema["const"]] if key == "const" else schema["enum"]
        if not isinstance(values, list) or not values:
            fail(step(path, key), "empty, or no list of values")
        fitting = [value for value in values if violation(value, schema, self.root) is None]
        if not fitting:
            raise Unsatisfiable(f"JSON schema, {step(path, key)}: no value keeps to the other keywords beside it")
        return self.own_expression(" | ".join(literal(json.dumps(value, ensure_ascii=False)) for value in fitting))

    def _typed(self, schema: dict[str, Any], path: str, level: int) -> dict[str, Any]:
        if "type" in schema:
            kinds = type_names(schema["type"], path)
        else:
            kinds = list(dict.fromkeys(_KIND_OF[key] for key in schema if key in _KIND_OF))
            if not kinds and schema.get("format") in STRING_FORMATS:
                kinds = ["string"]
        if not kinds:
            return {}
        if len(kinds) > 1:
            found = []
            for kind in kinds:
                try:
                    found.append(self._typed({**schema, "type": kind}, path, level))
                except Unsatisfiable:
                    if kind == kinds[-1] and not found:
                        raise
            return {"anyOf": found}
        kind = kinds[0]
        if kind in ("null", "boolean"):
            return {"type": kind}
        if kind in ("integer", "number"):
            return self._number(schema, kind, path)
        if kind == "string":
            return self._string(schema, path)
        return self._object(schema, path, level) if kind == "object" else self._array(schema, path, level)

    def _number(self, schema: dict[str, Any], kind: str, path: str) -> dict[str, Any]:
        if not any(key in schema for key in _BOUNDS[:4]):
            return {"type": kind} if kind == "integer" else self.own_expression(numbers.NUMBER)
        # of equal bounds the strict one counts
        lows = [(schema[key], key != "minimum") for key in ("minimum", "exclusiveMinimum") if key in schema]
        highs = [(schema[key], key == "maximum") for key in ("maximum", "exclusiveMaximum") if key in schema]
        low, high = max(lows, default=None), min(highs, default=None)
        if kind == "integer":
            least = None if low is None else math.floor(low[0]) + 1 if low[1] else math.ceil(low[0])
            most = None if high is None else math.floor(high[0]) if high[1] else math.ceil(high[0]) - 1
            limit = 10**numbers.MAX_DIGITS  # no number that is written is larger
            expression = numbers.integer(
                None if least is None or least <= -limit else least, None if most is None or most >= limit else most
            )
        else:
            expression = numbers.decimal(
                None if low is None else numbers.bound(low[0], low[1]),
                None if high is None else numbers.bound(high[0], not high[1]),
            )
        if expression is None:
            raise Unsatisfiable(f"JSON schema, {path}: there is no number between its bounds")
        return self.own_expression(expression)

    def _string(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if most is not None and least > most:
            raise Unsatisfiable(f"JSON schema, {path}: minLength is above maxLength")
        if least > regex.MAX_REPEAT:
            fail(
                step(path, "minLength"), f"{least} is more than {regex.MAX_REPEAT}, which is all that a grammar counts"
            )
        if most is not None and most > regex.MAX_REPEAT:
            most = None  # checked afterwards
        key = "pattern" if "pattern" in schema else "format"
        pattern = schema.get("pattern", STRING_FORMATS.get(schema.get("format", "")))
        if pattern is None:
            lengths = {"minLength": least, **({} if most is None else {"maxLength": most})}
            return {"type": "string", **(lengths if least or most is not None else {})}
        try:
            name = self._name(len(self.rules))
            return self.own(
                *regex.rules(pattern, name, json_string=True, search=key == "pattern", lengths=(least, most))
            )
        except GrammarError as exc:
            fail(step(path, key), exc.message, hint=exc.hint)

    def _object(self, schema: dict[str, Any], path: str, level: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if not isinstance(properties, Mapping):
            fail(step(path, "properties"), "no object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            fail(step(path, "required"), "no list of names")
        found: dict[str, Any] = {}
        for name, part in properties.items():
            here = step(step(path, "properties"), name)
            if name == "*":
                fail(here, "upstream's converter has another use for this name")
            try:
                found[name] = self.node(part, here, level + 1)
            except Unsatisfiable:
                if name in required:
                    raise
        for name in required:
            if name not in properties:
                if more is False:
                    raise Unsatisfiable(f"JSON schema, {step(path, 'required')}: {name!r} is no property")
                found[name] = self.node(more, step(path, "additionalProperties"), level + 1)
        result: dict[str, Any] = {"type": "object"}
        if found or more is False:
            result |= {"properties": found, "required": [name for name in found if name in required]}
            result["additionalProperties"] = False
        if more is not False and ("additionalProperties" in schema or not found):
            self._check_names(found, step(path, "additionalProperties"))
            result["additionalProperties"] = self.node(more, step(path, "additionalProperties"), level + 1) or True
        return result

    @staticmethod
    def _check_names(properties: Mapping[str, Any], path: str) -> None:
        for name in properties:
            if not re.fullmatch(r"[\w ]+", name):
                fail(
                    path, f"beside the property {name!r} there can be no others", hint="say additionalProperties: false"
                )

    def _array(self, schema: dict[str, Any], path: str, level: int) -> dict[str, Any]:
        key = "prefixItems" if "prefixItems" in schema else "items"
        first, items = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(items, list):
            first, items = items, schema.get("additionalItems", True)
        if not isinstance(first, Sequence):
            fail(step(path, key), "no list of schemas")
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if items is False:
            most = len(first) if most is None else min(most, len(first))
        if most is not None and least > most:
            raise Unsatisfiable(f"JSON schema, {path}: an array of at least {least} and at most {most} items")
        if least > regex.MAX_REPEAT:
            fail(step(path, "minItems"), f"{least} is more than {regex.MAX_REPEAT}, which is all that a grammar counts")
        if first:
            parts = [self.node(part, step(step(path, key), i), level + 1) for i, part in enumerate(first)]
            parts += [self.node(items, step(path, "items"), level + 1) for _ in range(len(parts), least)]
            return {"type": "array", "items": parts if most is None else parts[:most]}
        result: dict[str, Any] = {"type": "array"}
        if most != 0:
            result["items"] = self.node(items, step(path, "items"), level + 1)
        if least:
            result["minItems"] = least
        if most is not None and most <= regex.MAX_REPEAT:
            result["maxItems"] = most
        return result
