"""The radix tree against a list that is searched item by item."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llamacore.engine.radix import RadixTree

TOKENS = st.lists(st.integers(0, 3), max_size=12)
STEPS = st.lists(st.tuples(st.sampled_from(["insert", "remove"]), st.integers(0, 7), TOKENS), max_size=40)


def common(a: list[int], b: list[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@settings(max_examples=300, deadline=None)
@given(STEPS, TOKENS)
def test_matches_are_those_of_a_plain_search(steps: list[tuple[str, int, list[int]]], asked: list[int]) -> None:
    tree: RadixTree[int] = RadixTree()
    plain: dict[int, list[int]] = {}
    for kind, item, tokens in steps:
        plain.pop(item, None)
        if kind == "insert":
            tree.insert(item, tokens)
            if tokens:
                plain[item] = tokens
        else:
            tree.remove(item)
    found = list(tree.matches(asked))
    expected = {item: common(tokens, asked) for item, tokens in plain.items() if common(tokens, asked)}
    assert dict(found) == expected
    assert len(found) == len(expected)
    assert [length for _, length in found] == sorted((length for _, length in found), reverse=True)
    assert set(tree.items()) == set(plain)
    assert len(tree) == len(plain)
    for item in plain:
        tree.remove(item)
    assert not list(tree.matches(asked))
