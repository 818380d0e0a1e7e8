"""Reading the header of a GGUF file: metadata and tensor table, with every length checked against the file's size."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from ..errors import InvalidModelError, ModelLoadError, ModelNotFoundError
from .format import (
    CODES,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMS,
    MAX_NAME,
    STORAGE_TYPES,
    VERSIONS,
    StorageType,
    ValueType,
)

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]

_FIRST_READ = 1 << 20
_MAX_HEADER = 1 << 29  # the largest vocabularies take some 40 MB
_MAX_STRINGS = 1 << 24  # elements of one array of strings
_SCAN_WINDOW = 1 << 17
_SCAN_FROM = 256  # shorter arrays are walked string by string
_UINT64 = struct.Struct("<Q")


@dataclass(frozen=True)
class Tensor:
    """One row of the tensor table.

    Attributes:
        name: Its name.
        shape: Elements along each dimension, the fastest first, as many dimensions as the file states.
        storage: How it is stored.
        offset: Where its data begins, in bytes from the start of the file.
        nbytes: Size of its data.
    """

    name: str
    shape: tuple[int, ...]
    storage: StorageType
    offset: int
    nbytes: int

    @property
    def n_elements(self) -> int:
        """Product of the shape."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class _Entry:
    type: ValueType
    element: ValueType | None  # of an array
    count: int
    start: int
    longest: int  # bytes of the longest string


class Metadata(Mapping[str, Value]):
    """Metadata by key, in the order of the file. A value is decoded each time it is looked up."""

    def __init__(self, header: bytes, entries: dict[str, _Entry]) -> None:
        self._header = header
        self._entries = entries

    def __getitem__(self, key: str) -> Value:
        entry = self._entries[key]
        kind = entry.type if entry.element is None else entry.element
        if kind is ValueType.STRING:
            strings = [raw.decode("utf-8", "replace") for raw in self.byte_strings(key)]
            return strings if entry.element is not None else strings[0]
        values = struct.unpack_from(f"<{entry.count}{CODES[kind]}", self._header, entry.start)
        return list(values) if entry.element is not None else values[0]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def type(self, key: str) -> ValueType:
        """Return the type of a value; `ValueType.ARRAY` for every array."""
        return self._entries[key].type

    def element_type(self, key: str) -> ValueType | None:
        """Return the type of an array's elements, None when the value is no array."""
        return self._entries[key].element

    def count(self, key: str) -> int:
        """Return the number of elements of an array without decoding it, 1 for any other value."""
        return self._entries[key].count

    def byte_strings(self, key: str) -> list[bytes]:
        """Return the string, or the array of strings, undecoded."""
        header, entry, strings = self._header, self._entries[key], []
        position = entry.start
        for _ in range(entry.count):
            (length,) = _UINT64.unpack_from(header, position)
            position += 8
            strings.append(header[position : position + length])
            position += length
        return strings

    def raw(self, key: str) -> bytes:
        """Return the bytes of a value that has no strings, little-endian as in the file."""
        entry = self._entries[key]
        kind = entry.type if entry.element is None else entry.element
        return self._header[entry.start : entry.start + entry.count * struct.calcsize(CODES[kind])]

    def longest(self, key: str) -> int:
        """Return the length in bytes of a string, or of the longest one of an array, without decoding it."""
        return self._entries[key].longest


@dataclass(frozen=True)
class GgufFile:
    """What the header of a GGUF file says. It holds no file open.

    Attributes:
        path: The file.
        size: Its size in bytes.
        version: GGUF version.
        alignment: Alignment of tensor data in bytes.
        data_offset: Where tensor data begins.
        metadata: Metadata by key.
        tensors: Tensor table by name, in the order of the file.
    """

    path: str
    size: int
    version: int
    alignment: int
    data_offset: int
    metadata: Metadata
    tensors: Mapping[str, Tensor]


class _Cursor:
    """A position in the file, the beginning of which is in memory as far as it was needed."""

    def __init__(self, path: str, file: BinaryIO, size: int) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self.longest = 0  # string of the last array that was skipped
        self.buffer = file.read(_FIRST_READ)
        self._file = file

    def fail(self, what: str, *, hint: str = "download or convert it again") -> NoReturn:
        """Raise the error for a header that is wrong at the current position."""
        raise InvalidModelError(f"{self.path} is not a sound GGUF file: {what} (at byte {self.position})", hint=hint)

    def need(self, count: int, what: str) -> None:
        """Have `count` more bytes in memory, or fail because the file ends before."""
        end = self.position + count
        if end <= len(self.buffer):
            return
        if end > self.size:
            self.fail(f"it ends inside {what}: {end} bytes are needed and {self.size} are there")
        if end > _MAX_HEADER:
            self.fail(f"{what} would end at byte {end}, and no header is that large")
        self.buffer += self._file.read(max(end - len(self.buffer), len(self.buffer)))
        if end > len(self.buffer):
            self.fail(f"it became shorter while it was read, inside {what}")

    def number(self, code: str, what: str) -> int:
        """Read one whole number."""
        size = struct.calcsize(code)
        self.need(size, what)
        (value,) = struct.unpack_from("<" + code, self.buffer, self.position)
        self.position += size
        return int(value)

    def string(self, what: str, limit: int) -> str:
        """Read a string of at most `limit` bytes, which must be UTF-8."""
        length = self.number("Q", f"the length of {what}")
        if length > limit:
            self.fail(f"{what} is {length} bytes long, and {limit} is the longest that makes sense")
        self.need(length, what)
        raw = self.buffer[self.position : self.position + length]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8: {raw[:64]!r}")
        self.position += length
        return text

    def skip_strings(self, count: int, what: str) -> None:
        """Go past an array of strings, checking that each of them lies in the file."""
        if count > _MAX_STRINGS or count * 8 > self.size - self.position:
            self.fail(f"{what} claims {count} strings")
        self.longest = 0
        if count < _SCAN_FROM:
            self._walk(count, self.size, what)
            return
        while count:
            window = min(_SCAN_WINDOW, self.size - self.position)
            if not window:
                self.fail(f"it ends inside {what}, {count} strings short")
            self.need(window, what)
            end = self.position + window
            count -= self._scan(count, window, what)
            if count:  # a string that the scan cannot judge: the rest of this window one by one
                count -= self._walk(count, end, what)

    def _walk(self, count: int, end: int, what: str) -> int:
        """Go past strings until `count` are behind or `end` is reached; return how many were passed."""
        for done in range(count):
            if self.position >= end:
                return done
            self.need(8, what)
            (length,) = _UINT64.unpack_from(self.buffer, self.position)
            if length > self.size - self.position - 8:
                self.fail(f"string {done} of {what} is {length} bytes long")
            self.longest = max(self.longest, length)
            self.position += 8 + length
        return count

    def _scan(self, count: int, window: int, what: str) -> int:
        """Go past strings of 1 to 255 bytes, many at once; return how many.

        Their length fields are a byte that is not zero and seven that are. When the first such place is the current
        position and each leads exactly to the next one, they are the strings that a walk would find.
        """
        import numpy as np

        if window < 8:
            return 0
        data = np.frombuffer(self.buffer, np.uint8, window, self.position)
        zero = data == 0
        two = zero[:-1] & zero[1:]
        four = two[:-2] & two[2:]
        seven = four[:-3] & four[3:]
        starts = np.flatnonzero(seven[1:] & ~zero[:-7])
        if not len(starts) or starts[0] != 0:
            return 0
        lengths = data[starts].astype(np.int64)
        ends = starts + 8 + lengths
        links = ends[:-1] == starts[1:]
        passed = min(count, (len(links) if links.all() else int(links.argmin())) + 1)
        if int(ends[passed - 1]) > self.size - self.position:
            self.fail(f"the last string of {what} ends after the file")
        self.longest = max(self.longest, int(lengths[:passed].max()))
        self.position += int(ends[passed - 1])
        return passed


def _read_entry(cursor: _Cursor, key: str) -> _Entry:
    what = f"metadata {key!r}"
    number = cursor.number("I", f"the type of {what}")
    element: ValueType | None = None
    count = 1
    try:
        kind = ValueType(number)
        if kind is ValueType.ARRAY:
            number = cursor.number("I", f"the element type of {what}")
            element = ValueType(number)
            count = cursor.number("Q", f"the length of {what}")
    except ValueError:
        cursor.fail(f"{what} has type {number}, which does not exist")
    if element is ValueType.ARRAY:
        cursor.fail(f"{what} is an array of arrays, which llama.cpp does not read")
    start = cursor.position
    simple = kind if element is None else element
    if simple is ValueType.STRING:
        cursor.skip_strings(count, what)
        return _Entry(kind, element, count, start, cursor.longest)
    size = count * struct.calcsize(CODES[simple])
    cursor.need(size, what)
    cursor.position += size
    return _Entry(kind, element, count, start, 0)


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for index in range(count):
        key = cursor.string(f"metadata key {index}", 65535)
        if not key or "\0" in key:
            cursor.fail(f"metadata key {index} is {key!r}")
        if key in entries:
            cursor.fail(f"metadata key {key!r} is there twice")
        entries[key] = _read_entry(cursor, key)
    return entries


def _read_tensor(cursor: _Cursor, index: int) -> Tensor:
    name = cursor.string(f"the name of tensor {index}", MAX_NAME - 1)
    if not name or "\0" in name:
        cursor.fail(f"the name of tensor {index} is {name!r}")
    what = f"tensor {name!r}"
    n_dims = cursor.number("I", what)
    if n_dims > MAX_DIMS:
        cursor.fail(f"{what} has {n_dims} dimensions, and {MAX_DIMS} is the most")
    shape = tuple(cursor.number("Q", what) for _ in range(n_dims))
    number = cursor.number("I", what)
    storage = STORAGE_TYPES.get(number)
    if storage is None:
        cursor.fail(f"{what} is stored as type {number}, which llama.cpp 0.5.0 does not know")
    offset = cursor.number("Q", what)
    row = shape[0] if shape else 1
    tensor = Tensor(name, shape, storage, offset, 0)
    if row % storage.block:
        cursor.fail(f"{what} has rows of {row} elements, and {storage.name} needs a multiple of {storage.block}")
    nbytes = tensor.n_elements // storage.block * storage.nbytes
    if nbytes > cursor.size:
        cursor.fail(f"{what} of shape {list(shape)} is larger than the file")
    return Tensor(name, shape, storage, offset, nbytes)


def _read_tensors(cursor: _Cursor, count: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index in range(count):
        tensor = _read_tensor(cursor, index)
        if tensor.name in tensors:
            cursor.fail(f"tensor {tensor.name!r} is there twice")
        tensors[tensor.name] = tensor
    return tensors


def _place(cursor: _Cursor, tensors: dict[str, Tensor], data_offset: int, alignment: int) -> dict[str, Tensor]:
    """Check that tensor data follows one another and lies in the file; make the offsets count from its start."""
    placed = {}
    expected = 0
    for tensor in tensors.values():
        if tensor.offset != expected:
            cursor.fail(f"tensor {tensor.name!r} is said to be at {tensor.offset}, and {expected} is next")
        start = data_offset + tensor.offset
        if start + tensor.nbytes > cursor.size:
            raise InvalidModelError(
                f"{cursor.path} ends before its tensors do: {tensor.name!r} needs bytes {start} to "
                f"{start + tensor.nbytes} and the file has {cursor.size}",
                hint="the download or copy is incomplete; get the file again",
            )
        placed[tensor.name] = Tensor(tensor.name, tensor.shape, tensor.storage, start, tensor.nbytes)
        expected += -(-tensor.nbytes // alignment) * alignment
    return placed


def _read(path: str, file: BinaryIO) -> GgufFile:
    cursor = _Cursor(path, file, os.fstat(file.fileno()).st_size)
    if cursor.buffer[:4] != MAGIC:
        raise InvalidModelError(
            f"{path} is not a GGUF file: it begins with {cursor.buffer[:4]!r}",
            hint="give a .gguf file; convert_hf_to_gguf.py of llama.cpp makes one from a Hugging Face model",
        )
    cursor.position = len(MAGIC)
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        cursor.fail(
            "it is for big-endian machines" if big_endian else f"GGUF version {version} is not supported",
            hint=f"convert the model again; versions {' and '.join(map(str, VERSIONS))} are read",
        )
    n_tensors = cursor.number("Q", "the number of tensors")
    n_keys = cursor.number("Q", "the number of metadata keys")
    # the least that a tensor and a key take, so that a damaged count is named as such
    if n_tensors * 25 + n_keys * 14 > cursor.size:
        cursor.fail(f"it claims {n_tensors} tensors and {n_keys} metadata keys in {cursor.size} bytes")
    entries = _read_metadata(cursor, n_keys)
    alignment = DEFAULT_ALIGNMENT
    stated = entries.get("general.alignment")
    if stated is not None:
        if stated.type is not ValueType.UINT32:
            cursor.fail(f"general.alignment has type {stated.type.name}, not UINT32")
        (alignment,) = struct.unpack_from("<I", cursor.buffer, stated.start)
        if alignment == 0 or alignment & (alignment - 1):
            cursor.fail(f"general.alignment is {alignment}, which is no power of two")
    tensors = _read_tensors(cursor, n_tensors)
    data_offset = -(-cursor.position // alignment) * alignment
    placed = _place(cursor, tensors, data_offset, alignment)
    return GgufFile(
        path=path,
        size=cursor.size,
        version=version,
        alignment=alignment,
        data_offset=data_offset,
        metadata=Metadata(cursor.buffer[: cursor.position], entries),
        tensors=placed,
    )


def read(path: str | os.PathLike[str]) -> GgufFile:
    """Read metadata and tensor table of a GGUF file, without native code.

    Args:
        path: A GGUF file; of a split model the one file that is meant.

    Returns:
        GgufFile: What the header says.

    Raises:
        InvalidModelError: The header is damaged, contradicts itself, or the file ends before its tensors do.
        ModelNotFoundError: There is no such file.
        ModelLoadError: The file cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            return _read(name, file)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no model file {name}", hint="check the path") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ModelLoadError):
            raise
        raise ModelLoadError(f"{name} cannot be read: {error}", hint="check that it is a file you may read") from error
