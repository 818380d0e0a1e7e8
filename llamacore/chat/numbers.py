"""Numbers within bounds as expressions of a grammar."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from .char_sets import literal

MAX_DIGITS = 15
"""Digits of a number without a bound, before and after the point: what a double holds exactly."""

NUMBER = '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9] [0-9]?)?'
"""A JSON number without bounds, never larger than a double can be."""


def integer(low: int | None, high: int | None) -> str | None:
    """Write the whole numbers from `low` to `high`, both included; None where there are none."""
    if low is not None and high is not None and low > high:
        return None
    parts = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        inner = _natural(least, None if low is None else -low)
        if inner:
            parts.append(f'"-" {inner}')
    if high is None or high >= 0:
        inner = _natural(max(low or 0, 0), high)
        if inner:
            parts.append(inner)
    return f"({' | '.join(parts)})" if parts else None


def _natural(low: int, high: int | None) -> str | None:
    parts = []
    if high is None:
        high = 10 ** len(str(low)) - 1
        if len(str(low)) < MAX_DIGITS:
            parts.append(f"[1-9] [0-9]{{{len(str(low))},{MAX_DIGITS - 1}}}")
    if low > high:
        return None
    for digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        parts.append(_same_length(str(first), str(min(high, 10**digits - 1))))
    return f"({' | '.join(parts)})"


def _same_length(low: str, high: str) -> str:
    """Texts of digits from `low` to `high`, which have the same length."""
    if low == high:
        return literal(low)
    if low[0] == high[0]:
        shared = next(i for i in range(len(low)) if low[i] != high[i])
        return f"{literal(low[:shared])} {_same_length(low[shared:], high[shared:])}"
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:].strip("0"):
        parts.append(f"{literal(low[0])} {_same_length(low[1:], '9' * rest)}")
        first += 1
    last_part = None
    if high[1:].strip("9"):
        last_part = f"{literal(high[0])} {_same_length('0' * rest, high[1:])}"
        last -= 1
    if first <= last:
        parts.append(_digits(first, last) + (f" [0-9]{{{rest}}}" if rest else ""))
    if last_part:
        parts.append(last_part)
    return f"({' | '.join(parts)})"


def _digits(low: int, high: int) -> str:
    return f'"{low}"' if low == high else f"[{low}-{high}]"


_LARGEST = 10**MAX_DIGITS  # no number that is written is larger
_GRAIN = 10**20

Bound = tuple[Fraction, bool] | None
"""A bound and whether the number must differ from it."""


def bound(value: float, strict: bool) -> Bound:
    """Take the bound as the shortest decimal that means it, as it stands in the schema."""
    return Fraction(Decimal(str(value))), strict


def decimal(low: Bound, high: Bound) -> str | None:
    """Write the decimal numbers between two bounds; None where there are none."""
    low = _rounded(low, up=True) if low is not None and low[0] > -_LARGEST else None
    high = _rounded(high, up=False) if high is not None and high[0] < _LARGEST else None
    if low is None and high is None:
        return NUMBER
    parts = []
    if low is None or low[0] < 0:
        mirrored = None if low is None else (-low[0], low[1])
        inner = _positive((Fraction(0), True) if high is None or high[0] >= 0 else (-high[0], high[1]), mirrored)
        if inner:
            parts.append(f'"-" {inner}')
    if high is None or high[0] >= 0:
        inner = _positive(low if low is not None and low[0] >= 0 else (Fraction(0), False), high)
        if inner:
            parts.append(inner)
    return f"({' | '.join(parts)})" if parts else None


def _rounded(limit: tuple[Fraction, bool], *, up: bool) -> Bound:
    """A bound of few places that allows no more than this one."""
    scaled = limit[0] * _GRAIN
    if scaled.denominator == 1:
        return limit
    return Fraction(scaled.__ceil__() if up else scaled.__floor__(), _GRAIN), False


def _positive(low: tuple[Fraction, bool], high: Bound) -> str | None:
    """Decimals from `low`, which is not negative, to `high`."""
    low_int, low_rest = divmod(low[0], 1)
    # more digits than a double has could round to a bound that is to be kept away from
    strict = [int(limit[0]) for limit in (low, high) if limit is not None and limit[1]]
    room = max(1, MAX_DIGITS - 1 - len(str(max(strict)))) if strict else MAX_DIGITS
    n_places = _places(low_rest)
    high_int, high_rest = (None, Fraction(0)) if high is None else divmod(high[0], 1)
    n_places = max(n_places, _places(high_rest))
    low_digits, high_digits = _padded(low_rest, n_places), _padded(high_rest, n_places)
    parts = []
    if high_int == low_int:
        assert high is not None
        parts.append(_with_fraction(low_int, _Side(low_digits, low[1]), _Side(high_digits, high[1]), room))
    elif high_int is None or high_int > low_int:
        parts.append(_with_fraction(low_int, _Side(low_digits, low[1]), None, room))
        between = _natural(low_int + 1, None if high_int is None else high_int - 1)
        if between:
            parts.append(f'{between} ("." [0-9]{{1,{room}}})?')
        if high is not None and high_int is not None:
            parts.append(_with_fraction(high_int, None, _Side(high_digits, high[1]), room))
    known = [part for part in parts if part]
    return f"({' | '.join(known)})" if known else None


def _places(rest: Fraction) -> int:
    places = 0
    while rest.denominator != 1:
        rest, places = rest * 10 % 1, places + 1
    return places


def _padded(rest: Fraction, places: int) -> str:
    return str(int(rest * 10**places)).zfill(places) if places else ""


class _Side:
    """What is left to say of a bound: its further digits, all of which were met so far."""

    def __init__(self, digits: str, strict: bool) -> None:
        self.digits = digits
        self.strict = strict

    @property
    def zero(self) -> bool:
        return not self.digits.strip("0")


def _with_fraction(whole: int, low: _Side | None, high: _Side | None, room: int) -> str | None:
    """A whole part with the digits after the point that keep within the bounds."""
    digits = _fraction(low, high, room)
    bare = _may_end(low, high)
    if digits is None:
        return literal(str(whole)) if bare else None
    return f'{literal(str(whole))} ("." {digits}){"?" if bare else ""}'


def _may_end(low: _Side | None, high: _Side | None) -> bool:
    """Whether a number may end here, as if zeros followed."""
    low_met = low is None or (low.zero and not low.strict)
    return low_met and (high is None or not high.zero or not high.strict)


def _fraction(low: _Side | None, high: _Side | None, room: int) -> str | None:
    """At least one more digit; None where every digit would leave the bounds.

    Args:
        low: What is left of the lower bound, None once the number is above it.
        high: The same for the upper one.
        room: Most digits, those of the bounds left out.
    """
    if (low is None or not low.digits) and (high is None or not high.digits) and (low or high):
        if high is not None:  # only zeros would keep to it, and they say nothing
            return None
        assert low is not None
        return f'"0"{{0,{room - 1}}} [1-9] [0-9]{{0,{room - 1}}}' if low.strict else f"[0-9]{{1,{room}}}"
    low_digit = 0 if low is None else int(low.digits[:1] or 0)
    high_digit = 9 if high is None else int(high.digits[:1] or 0)
    parts = []
    free: list[int] = []
    for digit in range(low_digit, high_digit + 1):
        next_low = None if low is None or digit > low_digit else _Side(low.digits[1:], low.strict)
        next_high = None if high is None or digit < high_digit else _Side(high.digits[1:], high.strict)
        if next_low is None and next_high is None:
            free.append(digit)
            continue
        more = _fraction(next_low, next_high, room)
        ends = _may_end(next_low, next_high)
        if more is not None:
            parts.append(f'"{digit}" ({more}){"?" if ends else ""}')
        elif ends:
            parts.append(f'"{digit}"')
    if free:
        parts.append(f"{_digits(free[0], free[-1])} [0-9]{{0,{room}}}")
    return f"({' | '.join(parts)})" if parts else None
