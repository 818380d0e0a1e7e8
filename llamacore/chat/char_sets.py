"""Sets of characters as ranges of code points, and how a grammar writes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint ranges of code points, both ends included."""

LAST = 0x10FFFF
SURROGATES: Ranges = ((0xD800, 0xDFFF),)
ASCII: Ranges = ((0, 0x7F),)

_MANY = 64  # a class of more ranges than that makes a grammar slow
_CLASS_SPECIAL = frozenset(map(ord, "[]\\^-"))
_SHORT_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x08: "\\b", 0x0C: "\\f"}


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sort ranges and join those that touch."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def complement(ranges: Ranges) -> Ranges:
    """All characters that are not in the ranges; surrogates are never characters."""
    found, start = [], 0
    for low, high in union((*ranges, *SURROGATES)):
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        found.append((start, LAST))
    return tuple(found)


def intersection(left: Ranges, right: Ranges) -> Ranges:
    """The characters that are in both."""
    return union((max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) <= min(b, d))


@functools.lru_cache(maxsize=8)
def where(predicate: Callable[[str], bool]) -> Ranges:
    """The characters for which a function of one character is true."""
    found: list[tuple[int, int]] = []
    start = None
    for code in range(LAST + 2):
        inside = code <= LAST and not 0xD800 <= code <= 0xDFFF and predicate(chr(code))
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            found.append((start, code - 1))
            start = None
    return tuple(found)


def simplified(ranges: Ranges) -> Ranges:
    """A set of few ranges within this one: all of Latin, and whole blocks of other scripts."""
    if len(ranges) <= _MANY:
        return ranges
    return tuple((low, high) for low, high in ranges if low < 0x250 or high - low >= 63)


def _class_char(code: int) -> str:
    if code in _CLASS_SPECIAL:
        # GBNF knows no \^, and [^ would negate
        return "\\" + chr(code) if chr(code) in "[]\\-" else f"\\x{code:02X}"
    if 0x20 <= code < 0x7F:
        return chr(code)
    return _numbered(code)


def _numbered(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def char_class(ranges: Ranges) -> str:
    """Write a set as a class of GBNF."""
    if ranges == ((ranges[0][0], ranges[0][0]),):
        return literal(chr(ranges[0][0]))
    parts = [_class_char(low) if low == high else f"{_class_char(low)}-{_class_char(high)}" for low, high in ranges]
    return "[" + "".join(parts) + "]"


def literal(text: str) -> str:
    """Write a text as a literal of GBNF."""
    escaped = "".join(
        "\\" + char if char in '"\\' else char if 0x20 <= ord(char) < 0x7F else _numbered(ord(char)) for char in text
    )
    return f'"{escaped}"'


def in_json_string(ranges: Ranges) -> str:
    """Write how the characters of a set look inside a JSON string, as an expression of GBNF."""
    plain = intersection(ranges, ((0x20, 0x21), (0x23, 0x5B), (0x5D, LAST)))
    escaped = [text for code, text in _SHORT_ESCAPES.items() if any(low <= code <= high for low, high in ranges)]
    controls = intersection(ranges, ((0, 0x1F),))
    if not plain and not escaped:
        escaped = [f"\\u{code:04x}" for low, high in controls for code in range(low, high + 1)]
    parts = ([char_class(plain)] if plain else []) + [literal(text) for text in escaped]
    return parts[0] if len(parts) == 1 else "(" + " | ".join(parts) + ")"
