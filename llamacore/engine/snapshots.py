"""Texts that a process computed once, in a folder, for the processes after it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import StateError
from ..params import StrPath

if TYPE_CHECKING:
    from ..core.context import Context

_MAGIC = b"LLCTEXT1"
_HEAD = struct.Struct("<8sII")  # magic, length of the JSON that follows, its CRC-32
_SUFFIX = ".snapshot"
_MAX_HEAD = 2**20
_SAMPLES = 64
_SAMPLE_BYTES = 65536


@dataclass(frozen=True)
class Snapshot:
    """The state of a sequence with the tokens it stands for.

    Attributes:
        tokens: The tokens.
        state: Bytes of `State.to_bytes` of the sequence.
        checkpoints: Partial states by the number of tokens they stand after.
    """

    tokens: Sequence[int]
    state: bytes
    checkpoints: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """Everything as bytes; `from_bytes` reads them."""
        tokens = array("i", self.tokens).tobytes()
        points = sorted(self.checkpoints)
        head = json.dumps({
            "tokens": len(self.tokens),
            "crc": zlib.crc32(tokens),
            "state": len(self.state),
            "checkpoints": [[point, len(self.checkpoints[point])] for point in points],
        }).encode()  # fmt: skip
        start = _HEAD.pack(_MAGIC, len(head), zlib.crc32(head))
        return b"".join((start, head, tokens, self.state, *(self.checkpoints[point] for point in points)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Read what `to_bytes` wrote; the states in it have checks of their own, see `State.from_bytes`.

        Raises:
            StateError: The bytes are damaged, or are not a snapshot.
        """
        file = io.BytesIO(data)
        head, tokens = _read_head(file)
        state = file.read(head["state"])
        checkpoints = {point: file.read(size) for point, size in head["checkpoints"]}
        if file.read(1) or [len(part) for part in checkpoints.values()] != [size for _, size in head["checkpoints"]]:
            raise StateError("this snapshot is damaged", hint="make it again")
        return cls(tokens, state, checkpoints)


class SnapshotFolder:
    """Snapshots in files, for one model file and one build.

    Args:
        folder: Where they lie; a folder in it is used whose name comes from the model's content, the layout of the
            context's memory and the version of llama.cpp, so that nothing else ever reads them.
        context: The context they are for.
        max_bytes: Bytes that the files may take together; the least recently used ones are deleted.
    """

    def __init__(self, folder: StrPath, context: Context, max_bytes: int) -> None:
        self.folder = Path(folder) / _identity(context)
        self._max_bytes = max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)

    def tokens(self) -> Iterator[tuple[Path, list[int]]]:
        """Yield the file and the tokens of each snapshot; what cannot be read is left out."""
        for path in sorted(self.folder.glob("*" + _SUFFIX)):
            with contextlib.suppress(OSError, StateError), path.open("rb") as file:
                yield path, list(_read_head(file)[1])

    def save(self, snapshot: Snapshot) -> Path:
        """Write a snapshot, aside first, and delete the least recently used ones that are too many.

        Raises:
            OSError: It cannot be written.
        """
        name = hashlib.sha256(array("i", snapshot.tokens).tobytes()).hexdigest()[:32]
        path = self.folder / (name + _SUFFIX)
        aside = path.with_suffix(f".{os.getpid()}.part")
        try:
            aside.write_bytes(snapshot.to_bytes())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        self._trim(path)
        return path

    def load(self, path: Path) -> Snapshot:
        """Read a snapshot, and count it as used.

        Raises:
            StateError: It is damaged.
            OSError: It cannot be read.
        """
        snapshot = Snapshot.from_bytes(path.read_bytes())
        with contextlib.suppress(OSError):
            os.utime(path)
        return snapshot

    def _trim(self, newest: Path) -> None:
        files = []
        for path in self.folder.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError):  # another process may have deleted it
                stat = path.stat()
                files.append((path != newest, stat.st_mtime, stat.st_size, path))
        total = sum(size for *_, size, _ in files)
        for _, _, size, path in sorted(files, key=lambda file: (not file[0], file[1])):
            if total <= self._max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def _read_head(file: BinaryIO) -> tuple[dict[str, Any], array[int]]:
    start = file.read(_HEAD.size)
    if len(start) != _HEAD.size or start[: len(_MAGIC)] != _MAGIC:
        raise StateError("this is not a snapshot", hint="give what Snapshot.to_bytes returned")
    _, size, crc = _HEAD.unpack(start)
    text = file.read(size) if size < _MAX_HEAD else b""
    if len(text) != size or zlib.crc32(text) != crc:
        raise StateError("this snapshot is damaged", hint="make it again")
    head = json.loads(text)
    tokens = array("i")
    raw = file.read(head["tokens"] * tokens.itemsize)
    if zlib.crc32(raw) != head["crc"]:
        raise StateError("this snapshot is damaged", hint="make it again")
    tokens.frombytes(raw)
    return head, tokens


def _identity(context: Context) -> str:
    """Name for all that a state depends on: memory layout, llama.cpp, and weights, of which spread samples are read."""
    digest = hashlib.sha256(context.state.fingerprint())
    for path in context.model.paths:
        size = os.path.getsize(path)
        digest.update(str(size).encode())
        with open(path, "rb") as file:
            for part in range(_SAMPLES):
                file.seek(part * max(size - _SAMPLE_BYTES, 0) // max(_SAMPLES - 1, 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
