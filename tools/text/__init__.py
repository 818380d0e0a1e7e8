"""The words and sentences that the generator draws from, in text files next to this one.

A file has sections: a line `[name]`, then one item to a line.
"""

from __future__ import annotations

from pathlib import Path


def sections(name: str) -> dict[str, list[str]]:
    """The sections of the file `name`, each with its items in order."""
    found: dict[str, list[str]] = {}
    items: list[str] = []
    for line in (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            items = found[line.strip("[]")] = []
        elif line:
            items.append(line)
    return found


def words(items: list[str]) -> list[str]:
    """All words of a section whose lines hold many."""
    return " ".join(items).split()


def table(items: list[str]) -> dict[str, str]:
    """A section of `key: value` lines."""
    return dict(line.split(": ", 1) for line in items)
