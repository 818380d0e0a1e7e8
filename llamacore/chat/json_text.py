"""JSON of limited depth: Python's own reader and writer can run out of stack in a thread before they say so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_NESTING = 200
"""Objects and arrays within each other."""

MAX_VALUES = 1_000_000
"""Values that are written at most; what refers to itself has no end."""


def loads(text: str) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is none, or nested deeper than 200 levels.
    """
    if text.count("[") + text.count("{") > MAX_NESTING and _nesting(text) > MAX_NESTING:
        raise ValueError(f"nested deeper than {MAX_NESTING} levels")
    return json.loads(text)


def dumps(value: Any) -> str:
    """Write JSON, in any script, without NaN.

    Raises:
        ValueError: It is nested deeper than 200 levels, too large, or has text that is no Unicode.
        TypeError: It has what JSON has not.
    """
    waiting, seen = [(value, 1)], 0
    while waiting:
        item, level = waiting.pop()
        seen += 1
        if level > MAX_NESTING or seen > MAX_VALUES:
            raise ValueError(f"nested deeper than {MAX_NESTING} levels, or more than {MAX_VALUES} values")
        if isinstance(item, Mapping):
            waiting += [(inner, level + 1) for inner in item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += [(inner, level + 1) for inner in item]
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_mapping)
    text.encode()  # refuses lone surrogates
    return text


def _mapping(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def _nesting(text: str) -> int:
    """Depth of a JSON text; what is no JSON is read until it breaks off."""
    deepest = level = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string, escaped = escaped or char != '"', not escaped and char == "\\"
        elif char == '"':
            in_string = True
        elif char in "[{":
            level += 1
            deepest = max(deepest, level)
        elif char in "]}":
            level -= 1
    return deepest
