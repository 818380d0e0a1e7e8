"""Ranges of sampler parameters, checked before C sees them; shared by `Sampler` and `SamplingParams`."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping

from ..errors import InvalidArgumentError, OutOfRangeError

MAX_WINDOW = 2**24  # tokens of history: upstream allocates the window at once
MAX_BREAKER_BYTES = 40  # upstream cuts a longer DRY sequence breaker, in the middle of a character if need be
_INT32_MAX = 2**31 - 1


def whole(name: str, value: int, low: int, high: int = _INT32_MAX) -> int:
    """Return `value` as an int from `low` to `high`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(f"{name}={value!r} is not a whole number") from None
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name}={number}", hint=f"give a whole number from {low} to {high}")
    return number


def real(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite float from `low` to `high`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"{name}={value!r} is not a number") from None
    if not math.isfinite(number) or abs(number) > 3.4e38:
        raise InvalidArgumentError(f"{name}={value!r}", hint="give a finite number")
    if not low <= number <= high:
        limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"not below {low:g}"
        raise InvalidArgumentError(f"{name}={number:g}", hint=f"give a number {limits}")
    return number


def probability(name: str, value: float) -> float:
    """Return `value` as a float from 0 to 1."""
    return real(name, value, 0.0, 1.0)


def seed(value: int) -> int:
    """Return `value` as a seed of 32 bits."""
    return whole("seed", value, 0, 2**32 - 1)


def window(name: str, value: int) -> int:
    """Return `value` as a number of tokens to look back."""
    number = whole(name, value, -(2**31))
    if not 0 <= number <= MAX_WINDOW:
        raise InvalidArgumentError(
            f"{name}={number}", hint=f"give 0 to switch it off, or up to {MAX_WINDOW}; for a whole context its n_ctx"
        )
    return number


def penalty_repeat(value: float) -> float:
    """Return `value` as a repetition penalty: finite, above zero, and so is its inverse in single precision."""
    number = real("penalty_repeat", value)
    if not 1e-37 < number < 1e37:
        raise InvalidArgumentError(f"penalty_repeat={number:g}", hint="give a number above 0; 1.0 switches it off")
    return number


def tokens(values: Iterable[int], n_vocab: int | None) -> list[int]:
    """Return `values` as token ids; a long list of plain numbers is checked as a whole."""
    found = list(values)
    highest = _INT32_MAX if n_vocab is None else n_vocab - 1
    plain = [*map(type, found)].count(int) == len(found)
    if plain and (not found or (min(found) >= 0 and max(found) <= highest)):
        return found
    return [token(value, n_vocab) for value in found]


def token(value: int, n_vocab: int | None) -> int:
    """Return `value` as a token id."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(f"token {value!r} is not a whole number") from None
    if not 0 <= number <= (_INT32_MAX if n_vocab is None else n_vocab - 1):
        raise OutOfRangeError(
            f"token {number} is not in the vocabulary",
            hint="tokens are not negative" if n_vocab is None else f"tokens are 0 to {n_vocab - 1}",
        )
    return number


def logit_bias(biases: Mapping[int, float], n_vocab: int | None) -> list[tuple[int, float]]:
    """Return pairs of token and bias; a bias is finite, or minus infinity to forbid the token."""
    if not isinstance(biases, Mapping):
        raise InvalidArgumentError(f"logit_bias={biases!r}", hint="give {token: bias}")
    pairs = []
    for key, bias in biases.items():
        number = token(key, n_vocab)
        pairs.append((number, -math.inf if bias == -math.inf else real(f"the bias of token {number}", bias)))
    return pairs


def breakers(texts: Iterable[str]) -> list[bytes]:
    """Return DRY sequence breakers as bytes."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InvalidArgumentError(f"dry_sequence_breakers={texts!r}", hint="give a list of strings")
    found = []
    for text in texts:
        raw = utf8("a DRY sequence breaker", text)
        if not 0 < len(raw) <= MAX_BREAKER_BYTES:
            raise InvalidArgumentError(
                f"the DRY sequence breaker {text!r} has {len(raw)} bytes", hint=f"give 1 to {MAX_BREAKER_BYTES} bytes"
            )
        found.append(raw)
    return found


def utf8(what: str, text: str) -> bytes:
    """Return a text as the bytes of a C string."""
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{what} is a {type(text).__name__}", hint="give a string")
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(f"{what} has a lone surrogate at character {exc.start}") from exc
    if b"\0" in raw:
        raise InvalidArgumentError(f"{what} contains a NUL character")
    return raw
