"""Whether a JSON value keeps to a JSON schema."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

MAX_DEPTH = 200


class Violation(NamedTuple):
    """What is wrong with a value.

    Attributes:
        value_path: Where in the value, such as `$.people[0].age`.
        schema_path: Which keyword of the schema says so, such as `$.properties.age.minimum`.
        message: What is wrong there.
    """

    value_path: str
    schema_path: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} at {self.value_path} (schema: {self.schema_path})"


def violation(value: Any, schema: Any, root: Any = None) -> Violation | None:
    """Find the first thing in which a value breaks a schema (draft 2020-12 and 7); None when it keeps to it.

    `format` and keywords that are unknown say nothing.

    Args:
        value: What `json.loads` made of a text.
        schema: The schema.
        root: What its references point into; None for the schema itself.
    """
    return _Check(schema if root is None else root).node(value, schema, "$", "$", 0)


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same: 1 is 1.0, but not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def resolve(root: Any, ref: str) -> Any:
    """Return what a reference of a schema (`#/$defs/name`) points at.

    Raises:
        KeyError: It points at nothing, or out of the schema.
    """
    if ref != "#" and not ref.startswith("#/"):
        raise KeyError(ref)
    target = root
    for part in ref[2:].split("/") if len(ref) > 1 else ():
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and name in target:
            target = target[name]
        elif isinstance(target, (list, tuple)) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        else:
            raise KeyError(ref)
    return target


def step(path: str, key: str | int) -> str:
    """Go one step down a path."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if re.fullmatch(r"[\w$-]+", key) else f"{path}[{json.dumps(key, ensure_ascii=False)}]"


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value == value // 1),
    "number": lambda value: _is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, (list, tuple)),
    "object": lambda value: isinstance(value, Mapping),
}


_LIMITS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("minimum", operator.ge, "less than"),
    ("maximum", operator.le, "more than"),
    ("exclusiveMinimum", operator.gt, "not more than"),
    ("exclusiveMaximum", operator.lt, "not less than"),
)


def _list(value: Any) -> list[Any]:
    """A list as it is, and nothing of what should be one and is none: whoever reads schemas has said so already."""
    return list(value) if isinstance(value, (list, tuple)) else []


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:  # of another dialect: nothing can be said
        return True


def _is_multiple(value: float, of: float) -> bool:
    if not math.isfinite(value):
        return False
    return of > 0 and (Fraction(str(value)) / Fraction(str(of))).denominator == 1


class _Check:
    def __init__(self, root: Any) -> None:
        self.root = root

    def node(self, value: Any, schema: Any, at: str, path: str, depth: int) -> Violation | None:
        if depth > MAX_DEPTH:
            return Violation(at, path, "the value or its schema is nested too deep")
        if schema is False:
            return Violation(at, path, "nothing is allowed here")
        if not isinstance(schema, Mapping):
            return None
        if isinstance(schema.get("$ref"), str):
            try:
                target = resolve(self.root, schema["$ref"])
            except KeyError:
                return Violation(at, step(path, "$ref"), f"the reference {schema['$ref']!r} leads nowhere")
            found = self.node(value, target, at, step(path, "$ref"), depth + 1)
            if found:
                return found
        for check in (self._any_value, self._combined):
            found = check(value, schema, at, path, depth)
            if found:
                return found
        if _is_number(value):
            return self._number(value, schema, at, path)
        if isinstance(value, str):
            return self._string(value, schema, at, path)
        if isinstance(value, Mapping):
            return self._object(value, schema, at, path, depth)
        if isinstance(value, (list, tuple)):
            return self._array(value, schema, at, path, depth)
        return None

    def _any_value(self, value: Any, schema: Mapping[str, Any], at: str, path: str, depth: int) -> Violation | None:
        kinds = schema.get("type")
        if kinds is not None:
            kinds = [kinds] if isinstance(kinds, str) else _list(kinds)
            if not any(_TYPES[kind](value) for kind in kinds if isinstance(kind, str) and kind in _TYPES):
                return Violation(at, step(path, "type"), f"{_short(value)} is no {' or '.join(map(str, kinds))}")
        if "const" in schema and not same(value, schema["const"]):
            return Violation(at, step(path, "const"), f"{_short(value)} is not {_short(schema['const'])}")
        if "enum" in schema and not any(same(value, item) for item in _list(schema["enum"])):
            return Violation(at, step(path, "enum"), f"{_short(value)} is none of {_short(schema['enum'])}")
        return None

    def _combined(self, value: Any, schema: Mapping[str, Any], at: str, path: str, depth: int) -> Violation | None:
        for number, part in enumerate(_list(schema.get("allOf"))):
            found = self.node(value, part, at, step(step(path, "allOf"), number), depth + 1)
            if found:
                return found
        for key, wanted in (("anyOf", "any"), ("oneOf", "exactly one")):
            if key in schema:
                fits = sum(self.node(value, part, at, path, depth + 1) is None for part in _list(schema[key]))
                if fits == 0 or (key == "oneOf" and fits > 1):
                    what = f"{_short(value)} fits {fits} of the alternatives, not {wanted}"
                    return Violation(at, step(path, key), what)
        if "not" in schema and self.node(value, schema["not"], at, path, depth + 1) is None:
            return Violation(at, step(path, "not"), f"{_short(value)} is what it must not be")
        if "if" in schema:
            key = "else" if self.node(value, schema["if"], at, path, depth + 1) else "then"
            return self.node(value, schema.get(key), at, step(path, key), depth + 1)
        return None

    def _number(self, value: float, schema: Mapping[str, Any], at: str, path: str) -> Violation | None:
        for key, holds, word in _LIMITS:
            if _is_number(schema.get(key)) and not holds(value, schema[key]):
                return Violation(at, step(path, key), f"{value} is {word} {schema[key]}")
        if _is_number(schema.get("multipleOf")) and not _is_multiple(value, schema["multipleOf"]):
            return Violation(at, step(path, "multipleOf"), f"{value} is no multiple of {schema['multipleOf']}")
        return None

    def _string(self, value: str, schema: Mapping[str, Any], at: str, path: str) -> Violation | None:
        found = _size(len(value), "characters", schema, ("minLength", "maxLength"), at, path)
        pattern = schema.get("pattern")
        if found is None and isinstance(pattern, str) and not _matches(pattern, value):
            return Violation(at, step(path, "pattern"), f"{_short(value)} does not match {pattern!r}")
        return found

    def _array(
        self, value: Sequence[Any], schema: Mapping[str, Any], at: str, path: str, depth: int
    ) -> Violation | None:
        found = _size(len(value), "items", schema, ("minItems", "maxItems"), at, path)
        if found:
            return found
        first, rest = _list(schema.get("prefixItems")), schema.get("items")
        key, rest_key = "prefixItems", "items"
        if isinstance(rest, (list, tuple)):
            first, rest, key, rest_key = list(rest), schema.get("additionalItems"), "items", "additionalItems"
        for number, item in enumerate(value):
            inside = number < len(first)
            part = first[number] if inside else rest
            where = step(step(path, key), number) if inside else step(path, rest_key)
            found = self.node(item, part, step(at, number), where, depth + 1)
            if found:
                return found
        if schema.get("uniqueItems") is True:
            for number, item in enumerate(value):
                if any(same(item, other) for other in value[:number]):
                    return Violation(step(at, number), step(path, "uniqueItems"), f"{_short(item)} stands there twice")
        if "contains" in schema:
            fits = sum(self.node(item, schema["contains"], at, path, depth + 1) is None for item in value)
            return _size(fits, "items that it must contain", {"minContains": 1, **schema},
                         ("minContains", "maxContains"), at, path)  # fmt: skip
        return None

    def _object(
        self, value: Mapping[str, Any], schema: Mapping[str, Any], at: str, path: str, depth: int
    ) -> Violation | None:
        found = _size(len(value), "properties", schema, ("minProperties", "maxProperties"), at, path)
        if found:
            return found
        for name in _list(schema.get("required")):
            if isinstance(name, str) and name not in value:
                return Violation(at, step(path, "required"), f"the property {name!r} is missing")
        for name, others in _dict(schema.get("dependentRequired")).items():
            wanted = [other for other in _list(others) if isinstance(other, str)]
            missing = [other for other in wanted if name in value and other not in value]
            if missing:
                return Violation(at, step(path, "dependentRequired"), f"the property {missing[0]!r} is missing")
        properties, patterns = _dict(schema.get("properties")), _dict(schema.get("patternProperties"))
        for name, item in value.items():
            parts = [(properties[name], step(step(path, "properties"), name))] if name in properties else []
            parts += [
                (part, step(step(path, "patternProperties"), pattern))
                for pattern, part in patterns.items()
                if _matches(pattern, name)
            ]
            if not parts and "additionalProperties" in schema:
                parts = [(schema["additionalProperties"], step(path, "additionalProperties"))]
            if "propertyNames" in schema:
                found = self.node(name, schema["propertyNames"], at, step(path, "propertyNames"), depth + 1)
            for part, where in parts:
                found = found or self.node(item, part, step(at, name), where, depth + 1)
            if found:
                return found
        return None


def _size(
    size: int, unit: str, schema: Mapping[str, Any], keys: tuple[str, str], at: str, path: str
) -> Violation | None:
    low, high = (schema.get(key) for key in keys)
    if isinstance(low, (int, float)) and size < low:
        return Violation(at, step(path, keys[0]), f"{size} {unit} are less than {low}")
    if isinstance(high, (int, float)) and size > high:
        return Violation(at, step(path, keys[1]), f"{size} {unit} are more than {high}")
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
