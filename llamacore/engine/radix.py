"""A radix tree over token sequences: which of them begin as a given one does, and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("children", "edge", "items", "parent")

    def __init__(self, edge: list[int], parent: _Node[T] | None) -> None:
        self.edge = edge  # the tokens between the parent and this node
        self.parent = parent
        self.children: dict[int, _Node[T]] = {}
        self.items: dict[T, None] = {}  # those whose tokens lead through this node, or end in it, in order of insertion


class RadixTree(Generic[T]):
    """Items by their tokens. An item is in the tree once; putting it in again moves it."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node([], None)
        self._end: dict[T, _Node[T]] = {}

    def __len__(self) -> int:
        return len(self._end)

    def __contains__(self, item: object) -> bool:
        return item in self._end

    def items(self) -> Iterator[T]:
        """Every item."""
        return iter(self._end)

    def insert(self, item: T, tokens: Sequence[int]) -> None:
        """Put an item in under its tokens; none of them is nothing to find it by, so it is left out then."""
        self.remove(item)
        if not tokens:
            return
        node, depth = self._root, 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                child = _Node(list(tokens[depth:]), node)
                node.children[tokens[depth]] = child
            else:
                common = _common(child.edge, tokens, depth)
                if common < len(child.edge):
                    child = self._split(child, common)
            child.items[item] = None
            depth += len(child.edge)
            node = child
        self._end[item] = node

    def _split(self, node: _Node[T], at: int) -> _Node[T]:
        """Cut the edge that leads to a node; returns the new node in between."""
        parent = node.parent
        assert parent is not None
        upper: _Node[T] = _Node(node.edge[:at], parent)
        upper.items = dict(node.items)
        parent.children[upper.edge[0]] = upper
        node.edge, node.parent = node.edge[at:], upper
        upper.children[node.edge[0]] = node
        return upper

    def remove(self, item: T) -> None:
        """Take an item out, if it is there."""
        node: _Node[T] | None = self._end.pop(item, None)
        while node is not None and node.parent is not None:
            del node.items[item]
            parent = node.parent
            if not node.items:
                del parent.children[node.edge[0]]
            node = parent

    def matches(self, tokens: Sequence[int]) -> Iterator[tuple[T, int]]:
        """Yield every item that begins with the first token, with the length of the common beginning, longest first.

        Of items with the same length, the one that was put in last comes first.
        """
        path: list[tuple[_Node[T], int]] = []
        node, depth = self._root, 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                break
            common = _common(child.edge, tokens, depth)
            depth += common
            path.append((child, depth))
            if common < len(child.edge):
                break
            node = child
        seen: set[T] = set()
        for node, length in reversed(path):
            for item in reversed(node.items):
                if item not in seen:
                    seen.add(item)
                    yield item, length


def _common(edge: list[int], tokens: Sequence[int], start: int) -> int:
    """Length of the common beginning of `edge` and of `tokens` from `start` on."""
    if list(tokens[start : start + len(edge)]) == edge:
        return len(edge)
    low, high = 0, min(len(edge), len(tokens) - start)  # the beginnings of length `low` are equal
    while low < high:
        middle = (low + high + 1) // 2
        if list(tokens[start + low : start + middle]) == edge[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
