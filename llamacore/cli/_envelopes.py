"""Envelopes on the command line: lines of input to envelopes, envelopes to text or JSON lines, tensors to files."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llamacore.errors import InvalidArgumentError
from llamacore.nodes import Data, Json, Tensor, Text, from_dict, to_dict
from llamacore.nodes.session import SYSTEM, Emitted


def read_line(line: str, number: int, *, as_json: bool) -> tuple[Data, str | None]:
    """Read a line of input, and say where it goes (None: to all nodes that take inputs).

    Args:
        line: The line.
        number: Its number, for messages.
        as_json: It is JSON: an envelope with its "data_type" and perhaps "to", a text, or any other value, which
            becomes a Json envelope.

    Raises:
        InvalidArgumentError: It is not that.
    """
    if not as_json:
        return Text(line), None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError(f"line {number} of the input is no JSON: {exc}") from None
    if isinstance(value, str):
        return Text(value), None
    if not isinstance(value, dict) or "data_type" not in value:
        return Json(value), None
    to = value.pop("to", None)
    if not isinstance(to, (str, type(None))):
        raise InvalidArgumentError(f'line {number} of the input: "to" is {to!r}', hint='write "node" or "node.in.port"')
    try:
        return from_dict(value), to
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(f"line {number} of the input: {exc.message}", hint=exc.hint) from None


class TensorFolder:
    """Keeps tensors as `.npy` files, numbered in the order they come, after those that are there.

    Args:
        folder: Is made if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        taken = [int(match[1]) for path in folder.iterdir() if (match := re.match(r"(\d+)-.*\.npy$", path.name))]
        self._next = max(taken, default=0) + 1

    def save(self, node: str, tensor: Tensor) -> Path:
        """Write a tensor aside and move it to its place."""
        import numpy as np

        name = re.sub(r"[^\w.-]", "_", node)
        path = self._folder / f"{self._next:06d}-{name}.npy"
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with aside.open("wb") as stream:
                np.save(stream, tensor.array)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        self._next += 1
        return path


class Writer:
    """Writes results to standard output as they come.

    Args:
        as_json: A JSON line for each envelope; else text.
        in_pieces: Ids of the nodes whose texts are pieces of one text, which "<|text_end|>" ends.
        label: Whether to say which node a line is of.
        tensors: Where tensors go; None for the output itself in JSON, and nowhere in text.
    """

    def __init__(self, *, as_json: bool, in_pieces: Collection[str], label: bool, tensors: TensorFolder | None) -> None:
        self._as_json = as_json
        self._in_pieces = in_pieces
        self._label = label
        self._tensors = tensors
        self._open: tuple[str, str] | None = None  # node and channel of the line that is not ended

    def write(self, item: Emitted) -> None:
        """Write a result."""
        path = None
        if isinstance(item.data, Tensor) and self._tensors is not None:
            path = self._tensors.save(item.node, item.data)
        if self._as_json:
            self._line(json.dumps({"node": item.node, **_described(item.data, path)}, ensure_ascii=False))
        elif item.node != SYSTEM:
            self._write_text(item, path)

    def end(self) -> None:
        """End the line that is open."""
        if self._open is not None:
            self._put("\n")
            self._open = None

    def _write_text(self, item: Emitted, path: Path | None) -> None:
        data = item.data
        if not isinstance(data, Text):
            self.end()
            label = f"{item.node}: " if self._label else ""
            self._line(label + json.dumps(_described(data, path, short=True), ensure_ascii=False))
        elif data.is_end:
            self.end()
        else:
            source = (item.node, data.channel)
            if self._open != source:
                self.end()
                self._put(self._prefix(item.node, data.channel))
                self._open = source
            self._put(data.text)
            if item.node not in self._in_pieces:
                self.end()

    def _prefix(self, node: str, channel: str) -> str:
        name = node if self._label else ""
        if channel != "tts":
            name = f"{name}/{channel}" if name else channel
        return f"{name}: " if name else ""

    def _line(self, text: str) -> None:
        self._put(text + "\n")

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _described(data: Data, path: Path | None, *, short: bool = False) -> dict[str, Any]:
    """An envelope for JSON; the numbers of a tensor are in its file, and left out of the short form."""
    fields = to_dict(data)
    if path is not None:
        fields["path"] = str(path)
    if "data" in fields and (path is not None or short):
        del fields["data"]
    return fields
