"""The scalar metadata of model and adapter files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ._native import ffi


class Metadata(Mapping[str, str]):
    """The scalar GGUF metadata of a model or adapter, as upstream's strings; arrays are not included.

    Read once, when it is made: it stays usable after the model is closed.
    """

    def __init__(self, entries: dict[str, str]) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> str:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Metadata({self._entries!r})"


def read_string(call: Callable[[Any, int], int]) -> str | None:
    """Read a string that `call(buffer, size)` writes and whose length it returns, negative when there is none."""
    size = 256
    while True:
        buffer = ffi.new("char[]", size)
        needed = call(buffer, size)
        if needed < 0:
            return None
        if needed < size:
            return bytes(ffi.buffer(buffer, needed)).decode("utf-8", "replace")
        size = needed + 1


def read_metadata(
    count: int, key_at: Callable[[int, Any, int], int], value_at: Callable[[int, Any, int], int]
) -> Metadata:
    """Read all entries through upstream's pair of functions by index.

    Args:
        count: Number of entries.
        key_at: Writes key i into a buffer of the given size and returns its length.
        value_at: The same for the value.
    """
    entries = {}
    for i in range(count):
        key = read_string(lambda buffer, size, i=i: key_at(i, buffer, size))  # type: ignore[misc]
        value = read_string(lambda buffer, size, i=i: value_at(i, buffer, size))  # type: ignore[misc]
        if key is not None:
            entries[key] = value or ""
    return Metadata(entries)
