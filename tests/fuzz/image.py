"""A GGUF file taken apart into pieces that can be changed one by one and put together again, right or wrong.

It shares no code with `llamacore.gguf`: the fuzzer must be able to write what the reader would refuse.
"""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass, field

SIMPLE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# block and bytes of the tensor types that mutants are made with
STORAGE = {
    0: (1, 4),
    1: (1, 2),
    24: (1, 1),
    26: (1, 4),
    28: (1, 8),
    30: (1, 2),
    2: (32, 18),
    8: (32, 34),
    12: (256, 144),
}


@dataclass
class Pair:
    """A metadata entry: its key, its type, and the bytes of its value (for an array: type, count, elements)."""

    key: bytes
    kind: int
    payload: bytes


@dataclass
class Row:
    """A row of the tensor table and the data it points to."""

    name: bytes
    shape: list[int]
    storage: int
    offset: int
    data: bytes


@dataclass
class Image:
    """A whole file. `to_bytes` writes the counts and offsets that are stated here, whether or not they are right."""

    pairs: list[Pair]
    rows: list[Row]
    magic: bytes = b"GGUF"
    version: int = 3
    n_pairs: int | None = None
    n_rows: int | None = None
    alignment: int = 32
    tail: bytes = field(default=b"", repr=False)

    @classmethod
    def parse(cls, raw: bytes) -> Image:
        """Take a sound file apart."""
        version, n_rows, n_pairs = struct.unpack_from("<IQQ", raw, 4)
        at = 24
        pairs, rows = [], []
        for _ in range(n_pairs):
            key, at = _take_string(raw, at)
            (kind,) = struct.unpack_from("<I", raw, at)
            end = _value_end(raw, at + 4, kind)
            pairs.append(Pair(key, kind, raw[at + 4 : end]))
            at = end
        for _ in range(n_rows):
            name, at = _take_string(raw, at)
            (n_dims,) = struct.unpack_from("<I", raw, at)
            shape = list(struct.unpack_from(f"<{n_dims}Q", raw, at + 4))
            at += 4 + 8 * n_dims
            storage, offset = struct.unpack_from("<IQ", raw, at)
            at += 12
            rows.append(Row(name, shape, storage, offset, b""))
        image = cls(pairs, rows, version=version)
        start = -(-at // image.alignment) * image.alignment
        ends = [row.offset for row in rows[1:]] + [len(raw) - start]
        for row, end in zip(rows, ends, strict=True):
            row.data = raw[start + row.offset : start + end]
        return image

    def copy(self) -> Image:
        """A copy that can be changed; the tensor data, which is never changed in place, is shared."""
        return copy.deepcopy(self, {id(row.data): row.data for row in self.rows})

    def find(self, key: bytes) -> Pair | None:
        """The entry with this key."""
        return next((pair for pair in self.pairs if pair.key == key), None)

    @property
    def arch(self) -> bytes:
        """`general.architecture`, without which no mutant is made."""
        pair = self.find(b"general.architecture")
        return pair.payload[8:] if pair else b""

    def lay_out(self) -> None:
        """Make sizes and offsets fit the shapes and types again, so that only these are wrong."""
        at = 0
        for row in self.rows:
            size = data_size(row)
            if size is not None and size < 1 << 24:
                row.data = (row.data + bytes(max(0, size - len(row.data))))[:size]
            row.offset = at
            at += -(-len(row.data) // self.alignment) * self.alignment

    def header(self) -> bytes:
        """Everything before the tensor data."""
        n_rows = len(self.rows) if self.n_rows is None else self.n_rows
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        parts = [self.magic, struct.pack("<IQQ", self.version, n_rows & (2**64 - 1), n_pairs & (2**64 - 1))]
        for pair in self.pairs:
            parts += [_string(pair.key), struct.pack("<I", pair.kind), pair.payload]
        for row in self.rows:
            parts += [_string(row.name), struct.pack("<I", len(row.shape))]
            parts.append(struct.pack(f"<{len(row.shape)}Q", *(size & (2**64 - 1) for size in row.shape)))
            parts.append(struct.pack("<IQ", row.storage & 0xFFFFFFFF, row.offset & (2**64 - 1)))
        return b"".join(parts)

    def to_bytes(self) -> bytes:
        """The file."""
        header = self.header()
        parts = [header, bytes(-len(header) % self.alignment)]
        for row in self.rows:
            parts += [row.data, bytes(-len(row.data) % self.alignment)]
        return b"".join(parts) + self.tail


def data_size(row: Row) -> int | None:
    """Bytes that a row's shape and type ask for, None when the type is not known here."""
    if row.storage not in STORAGE:
        return None
    block, size = STORAGE[row.storage]
    count = 1
    for n in row.shape:
        count *= n
    return count // block * size


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _take_string(raw: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", raw, at)
    return raw[at + 8 : at + 8 + length], at + 8 + length


def _value_end(raw: bytes, at: int, kind: int) -> int:
    if kind == STRING:
        return _take_string(raw, at)[1]
    if kind != ARRAY:
        return at + struct.calcsize(SIMPLE[kind])
    element, count = struct.unpack_from("<IQ", raw, at)
    at += 12
    if element == STRING:
        for _ in range(count):
            at = _take_string(raw, at)[1]
        return at
    return at + count * struct.calcsize(SIMPLE[element])


def scalar(kind: int, value: float | bytes) -> bytes:
    """The payload of one value, wrapped around where it does not fit the type."""
    if isinstance(value, bytes):
        return _string(value)
    code = SIMPLE[kind]
    if code in "fd":
        return struct.pack("<d", float(value)) if code == "d" else _float32(float(value))
    size = struct.calcsize(code)
    return (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf"))


def array(element: int, values: list[float] | list[bytes]) -> bytes:
    """The payload of an array."""
    body = b"".join(scalar(element, value) for value in values)
    return struct.pack("<IQ", element, len(values)) + body


def array_values(payload: bytes) -> tuple[int, list[float] | list[bytes]]:
    """Element type and elements of an array's payload."""
    element, count = struct.unpack_from("<IQ", payload)
    if element == STRING:
        strings, at = [], 12
        for _ in range(count):
            text, at = _take_string(payload, at)
            strings.append(text)
        return element, strings
    return element, list(struct.unpack_from(f"<{count}{SIMPLE[element]}", payload, 12))
