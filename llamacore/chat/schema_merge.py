"""Two JSON schemas as one that asks for both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import GrammarError
from .schema_check import resolve, same, step

MAX_ALTERNATIVES = 64
"""Alternatives that two lists of alternatives may make together."""

KINDS = ("null", "boolean", "integer", "number", "string", "array", "object")

_HIGHER = frozenset(["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"])
_LOWER = frozenset(["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"])
_PARTS = frozenset(["items", "propertyNames", "contains"])


class Unsatisfiable(GrammarError):  # noqa: N818 - what it is, not what it does
    """No value can keep to the schema."""


def type_names(value: Any, path: str) -> list[str]:
    """Read the keyword `type`."""
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in KINDS:
            raise GrammarError(f"JSON schema, {step(path, 'type')}: there is no type {name!r}", hint=", ".join(KINDS))
    if not names:
        raise GrammarError(f"JSON schema, {step(path, 'type')}: an empty list of types")
    # every integer is a number
    return [name for name in dict.fromkeys(names) if name != "integer" or "number" not in names]


_FORMS: dict[str, tuple[type, str]] = {
    "enum": (list, "list"),
    "anyOf": (list, "list"),
    "oneOf": (list, "list"),
    "properties": (Mapping, "object"),
}


def merged(left: Any, right: Any, root: Any, path: str, hops: int = 0) -> dict[str, Any]:
    """Make one schema of two.

    Args:
        left: A schema.
        right: Another one.
        root: What their references point into.
        path: Where they stand, for messages.
        hops: References that were followed on the way here.

    Raises:
        GrammarError: They cannot be merged; the message has the path.
    """
    left, hops = _plain(left, root, path, hops)
    right, hops = _plain(right, root, path, hops)
    found = dict(left)
    for key, value in right.items():
        if key not in found:
            found[key] = value
        elif not same(found[key], value):
            found[key] = _both(key, found[key], value, path)
    for one, other in ((left, right), (right, left)):
        closed = one.get("additionalProperties", True)
        if closed is not True and isinstance(other.get("properties"), Mapping):
            inside = dict(found["properties"])
            for name in other["properties"]:
                if name not in one.get("properties", {}):
                    inside[name] = False if closed is False else {"allOf": [inside[name], closed]}
            found["properties"] = inside
    for key, value in (("enum", left), ("enum", right)):
        if "const" in value and key in found:
            found[key] = [item for item in found[key] if same(item, value["const"])] or _none(path)
            found.pop("const", None)
    if "anyOf" in found and "oneOf" in found:
        found["anyOf"] = _product(found["anyOf"], found.pop("oneOf"), path)
    return found


def _plain(schema: Any, root: Any, path: str, hops: int) -> tuple[dict[str, Any], int]:
    """A schema as an object whose own reference is resolved."""
    if schema is True:
        return {}, hops
    if schema is False:
        _none(path)
    if not isinstance(schema, Mapping):
        raise GrammarError(f"JSON schema, {path}: a schema is an object, not {str(schema)[:60]}")
    plain = dict(schema)
    for key, (kind, what) in _FORMS.items():
        if key in plain and not isinstance(plain[key], kind):
            raise GrammarError(f"JSON schema, {step(path, key)}: {str(plain[key])[:60]} is no {what}")
    if "$ref" not in plain:
        return plain, hops
    ref = plain.pop("$ref")
    if hops > 20:
        raise GrammarError(f"JSON schema, {step(path, '$ref')}: {ref!r} leads back to itself, or far away")
    try:
        target = resolve(root, ref)
    except (KeyError, TypeError, AttributeError):
        raise GrammarError(f"JSON schema, {step(path, '$ref')}: {ref!r} is not in this schema") from None
    return merged(plain, target, root, path, hops + 1), hops + 1


def _none(path: str) -> Any:
    raise Unsatisfiable(f"JSON schema, {path}: no value can keep to all that is asked")


def _both(key: str, left: Any, right: Any, path: str) -> Any:
    if key in _HIGHER | _LOWER and isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return max(left, right) if key in _HIGHER else min(left, right)
    if key == "type":
        return _types(type_names(left, path), type_names(right, path)) or _none(step(path, key))
    if key == "required" and isinstance(left, list) and isinstance(right, list):
        return list(dict.fromkeys([*left, *right]))
    if key == "properties" and isinstance(left, Mapping) and isinstance(right, Mapping):
        shared = {name: {"allOf": [left[name], right[name]]} for name in left if name in right}
        return {**left, **right, **shared}
    if key == "additionalProperties":
        return False if left is False or right is False else {"allOf": [left, right]}
    if key in _PARTS:
        return {"allOf": [left, right]}
    if key == "allOf":
        return [*left, *right]
    if key in ("anyOf", "oneOf"):
        return _product(left, right, path)
    if key == "enum":
        return [item for item in left if any(same(item, other) for other in right)] or _none(step(path, key))
    if key == "const":
        return _none(step(path, key))
    if key in ("uniqueItems", "nullable"):
        return left or right
    if key in ("not", "multipleOf", "dependentRequired", "title", "description", "default", "examples", "$defs",
               "definitions", "deprecated", "$comment", "$id", "$schema", "discriminator"):  # fmt: skip
        return left  # annotations, or checked when the value is complete
    raise GrammarError(
        f"JSON schema, {step(path, key)}: two that differ cannot be merged", hint="write one of your own"
    )


def _types(left: list[str], right: list[str]) -> list[str]:
    found = [name for name in left if name in right]
    if "integer" in left + right and "number" in left + right and "integer" not in found:
        found.append("integer")
    return found


def _product(left: Any, right: Any, path: str) -> list[Any]:
    if (
        not isinstance(left, list)
        or not isinstance(right, list)
        or math.prod((len(left), len(right))) > MAX_ALTERNATIVES
    ):
        raise GrammarError(f"JSON schema, {path}: too many alternatives", hint=f"at most {MAX_ALTERNATIVES} are merged")
    return [{"allOf": [one, other]} for one in left for other in right]
