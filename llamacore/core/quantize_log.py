"""What a quantisation does to each tensor, read from upstream's log lines: it has no other way to tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import log

_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\] (\S+) +- \[([^\]]*)\], type = *(\w+), ")
_SIZES = re.compile(r"size = +[\d.]+ MiB -> +[\d.]+ MiB \((\w+)\)")
_FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")


@dataclass
class TensorLine:
    """A tensor as upstream announces it.

    Attributes:
        number: From 1.
        total: Tensors in the input.
        name: Its name in the output.
        shape: Its shape.
        before: Type it has.
        after: Type it gets; stated by a dry run only.
    """

    number: int
    total: int
    name: str
    shape: tuple[int, ...]
    before: str
    after: str


class LineReader:
    """Reads the lines that one thread has logged since this was made."""

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._next = log.mark()
        self._last: TensorLine | None = None
        self.tensors: list[TensorLine] = []
        self.n_fallback = 0
        self.needs_imatrix = False

    def read(self) -> Iterator[TensorLine]:
        """Take in new lines and yield the tensors that they announce."""
        for number, thread, _, line in log.lines(self._next):
            self._next = number + 1
            if thread != self._thread:
                continue
            match = _TENSOR.match(line)
            if match:
                shape = tuple(int(part) for part in match[4].split(",") if part.strip())
                self._last = TensorLine(int(match[1]), int(match[2]), match[3], shape, match[5], match[5])
                self.tensors.append(self._last)
                yield self._last
                line = line[match.end() :]
            sizes = _SIZES.search(line)
            if sizes and self._last is not None:
                self._last.after = sizes[1]
            fallback = _FALLBACK.search(line)
            if fallback:
                self.n_fallback = int(fallback[1])
            if "will require an imatrix" in line:
                self.needs_imatrix = True
