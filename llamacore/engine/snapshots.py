"""Texts that a process computed once, in a folder, for the processes after it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StateError
from ..params import StrPath

if TYPE_CHECKING:
    from ..core.context import Context

_MAGIC = b"LLCTEXT1"
_HEAD = struct.Struct("<8sII")  # magic, length of the JSON that follows, its CRC-32
_SUFFIX = ".snapshot"
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
                yield path, list(_read_head(file.read(_HEAD.size), file.read)[1])

    def save(self, snapshot: Snapshot) -> Path:
        """Write a snapshot, aside first, and delete the least recently used ones that are too many.

        Raises:
            OSError: It cannot be written.
        """
        tokens = array("i", snapshot.tokens).tobytes()
        points = sorted(snapshot.checkpoints)
        head = json.dumps({
            "tokens": len(snapshot.tokens),
            "crc": zlib.crc32(tokens),
            "state": len(snapshot.state),
            "checkpoints": [[point, len(snapshot.checkpoints[point])] for point in points],
        }).encode()  # fmt: skip
        path = self.folder / (hashlib.sha256(tokens).hexdigest()[:32] + _SUFFIX)
        aside = path.with_suffix(f".{os.getpid()}.part")
        try:
            with aside.open("wb") as file:
                file.write(_HEAD.pack(_MAGIC, len(head), zlib.crc32(head)) + head + tokens + snapshot.state)
                for point in points:
                    file.write(snapshot.checkpoints[point])
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
        with path.open("rb") as file:
            head, tokens = _read_head(file.read(_HEAD.size), file.read)
            state = file.read(head["state"])
            checkpoints = {point: file.read(size) for point, size in head["checkpoints"]}
            if file.read(1) or [len(part) for part in checkpoints.values()] != [n for _, n in head["checkpoints"]]:
                raise StateError(f"the snapshot {path} is damaged", hint="delete it")
        with contextlib.suppress(OSError):
            os.utime(path)
        return Snapshot(tokens, state, checkpoints)

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


def _read_head(start: bytes, read: object) -> tuple[dict, array[int]]:  # type: ignore[type-arg]
    assert callable(read)
    if len(start) != _HEAD.size or start[: len(_MAGIC)] != _MAGIC:
        raise StateError("this file is not a snapshot", hint="delete it")
    _, size, crc = _HEAD.unpack(start)
    text = read(size) if size < 2**20 else b""
    if len(text) != size or zlib.crc32(text) != crc:
        raise StateError("this snapshot is damaged", hint="delete it")
    head = json.loads(text)
    tokens = array("i")
    raw = read(head["tokens"] * tokens.itemsize)
    if zlib.crc32(raw) != head["crc"]:
        raise StateError("this snapshot is damaged", hint="delete it")
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
