"""Which texts share a decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pack:
    """Texts that are decoded together.

    Attributes:
        items: Their numbers; that of the text in sequence 0 first.
        n_tokens: Length of all of them.
    """

    items: tuple[int, ...]
    n_tokens: int


def pack(lengths: Sequence[int], n_tokens: int, n_texts: int) -> list[Pack]:
    """Put texts into decodes, longest first; nothing is padded, so only the filling counts.

    The short texts fill what the long ones leave free: each decode takes the longest that is left, and then, again and
    again, the longest that still fits.

    Args:
        lengths: Tokens of each text.
        n_tokens: Most tokens of a decode; a longer text gets one alone.
        n_texts: Most texts of a decode.

    Returns:
        The decodes; every text is in exactly one.
    """
    left = sorted(range(len(lengths)), key=lengths.__getitem__)  # the longest is the last
    packs = []
    while left:
        first = left.pop()
        items, used = [first], lengths[first]
        while left and len(items) < n_texts and used + lengths[left[0]] <= n_tokens:
            at = _longest_within(lengths, left, n_tokens - used)
            used += lengths[left[at]]
            items.append(left.pop(at))
        packs.append(Pack(tuple(items), used))
    return packs


def _longest_within(lengths: Sequence[int], ordered: Sequence[int], room: int) -> int:
    """Place of the longest text of at most `room` tokens in a list ordered by length, the first of which fits."""
    low, high = 0, len(ordered)
    while high - low > 1:
        middle = (low + high) // 2
        if lengths[ordered[middle]] <= room:
            low = middle
        else:
            high = middle
    return low
