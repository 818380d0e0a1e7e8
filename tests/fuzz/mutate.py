"""Deterministic damage to GGUF files: `mutant(base, seed)` is the same bytes every time."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from .image import ARRAY, SIMPLE, STORAGE, STRING, Image, Pair, Row, array, array_values, scalar
from .names import ARCHITECTURES, INTEGER_KEYS, OTHER_KEYS, PRE_TOKENIZERS, SPECIAL_KEYS, TOKENIZERS

NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 255, 256, 257, 511, 512, 513, 1000),
    *(4096, 32767, 32768, 65535, 65536, 1 << 20, (1 << 24) + 1, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 31) + 1),
    *((1 << 32) - 2, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 60, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-5, 0.5, 1e9, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"))
STRINGS = (
    *(b"", b"\0", b" ", b"a", b"\xff\xfe", b"\xc0\x80", b"%s%n%d", b"{{", b"\xf0\x9f\x98", b"x" * 1000, b"y" * 70000),
    *(b"none", b"linear", b"yarn", b"longrope", b"unspecified"),
)


def _number(rng: random.Random, near: float = 0) -> int:
    near = int(near) if near == near and abs(near) != float("inf") else 0
    pick = rng.randrange(6)
    if pick == 0:
        return near + rng.choice((-2, -1, 1, 2, 3))
    if pick == 1:
        return near * rng.choice((2, 3, 4, 256, -1))
    if pick == 2:
        return near // rng.choice((2, 3, 4))
    if pick == 3:
        return rng.randrange(1 << rng.choice((4, 8, 12, 16, 32, 64)))
    return rng.choice(NUMBERS)


def _value(rng: random.Random, kind: int, near: float | bytes = 0) -> float | bytes:
    if kind == STRING:
        pools: tuple[tuple[bytes, ...], ...] = (STRINGS, TOKENIZERS, PRE_TOKENIZERS, ARCHITECTURES)
        return rng.choice(rng.choice(pools))
    if kind in (6, 12) and rng.random() < 0.8:
        return rng.choice(FLOATS)
    if kind == 7:
        return rng.choice((0, 1, 1, 0, 2, 255))
    return _number(rng, 0 if isinstance(near, bytes) else near)


def _simple_pairs(image: Image) -> list[Pair]:
    return [pair for pair in image.pairs if pair.kind in SIMPLE]


def change_value(image: Image, rng: random.Random) -> None:
    """Another value for a metadata entry that is no array."""
    pairs = [pair for pair in image.pairs if pair.kind != ARRAY]
    own = [pair for pair in pairs if pair.key.startswith(image.arch + b".")]
    pair = rng.choice(own if own and rng.random() < 0.7 else pairs)
    size = struct.calcsize(SIMPLE.get(pair.kind, "0s"))
    # an earlier change may have left bytes of another type
    near = struct.unpack("<" + SIMPLE[pair.kind], pair.payload)[0] if 0 < size == len(pair.payload) else 0
    pair.payload = scalar(pair.kind, _value(rng, pair.kind, near))


def change_type(image: Image, rng: random.Random) -> None:
    """Another type for a metadata entry, with a value of that type, or with the old bytes."""
    pair = rng.choice(image.pairs)
    kind = rng.choice((*SIMPLE, STRING, ARRAY))
    if rng.random() < 0.2:
        pair.kind = rng.choice((kind, 13, 255))
    elif kind == ARRAY:
        element = rng.choice((*SIMPLE, STRING))
        values = [_value(rng, element) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 600)))]
        pair.kind, pair.payload = kind, array(element, values)  # type: ignore[arg-type]
    else:
        pair.kind, pair.payload = kind, scalar(kind, _value(rng, kind))


def add_key(image: Image, rng: random.Random) -> None:
    """A key that some architecture or tokenizer reads, with a value that it may not expect."""
    pick = rng.random()
    if pick < 0.55:
        key, kind = image.arch + b"." + rng.choice(INTEGER_KEYS), rng.choice((4, 4, 4, 4, 5, 10))
    elif pick < 0.7:
        key, kind = rng.choice(SPECIAL_KEYS), 4
    else:
        name, kind = rng.choice(OTHER_KEYS)
        key = name.replace(b"%s", image.arch)
    payload = scalar(kind, _value(rng, kind)) if kind != ARRAY else b""
    if kind == ARRAY or rng.random() < 0.1:
        element = rng.choice((5, 5, 4, 6, 7, 10, STRING))
        values = [_value(rng, element) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 8, 512, 513)))]
        kind, payload = ARRAY, array(element, values)  # type: ignore[arg-type]
    old = image.find(key)
    if old is not None and rng.random() < 0.9:
        old.kind, old.payload = kind, payload
    else:
        image.pairs.insert(rng.randrange(len(image.pairs) + 1), Pair(key, kind, payload))


def drop_key(image: Image, rng: random.Random) -> None:
    """One metadata entry less."""
    image.pairs.remove(rng.choice(image.pairs))


def rename_key(image: Image, rng: random.Random) -> None:
    """A metadata entry under the key of another, or twice."""
    pair, other = rng.choice(image.pairs), rng.choice(image.pairs)
    if rng.random() < 0.3:
        image.pairs.append(Pair(pair.key, pair.kind, pair.payload))
    else:
        pair.key = rng.choice((other.key, b"", pair.key + b"x", pair.key[:-1], b"k" * 70000, b"\xff\xff"))


def change_array(image: Image, rng: random.Random) -> None:
    """Shorter, longer, of another type, or with odd elements."""
    arrays = [pair for pair in image.pairs if pair.kind == ARRAY]
    if not arrays:
        return change_value(image, rng)
    pair = rng.choice(arrays)
    try:
        element, values = array_values(pair.payload)
    except struct.error:  # damaged by an earlier change
        return change_value(image, rng)
    pick = rng.randrange(7)
    if pick == 0:
        values = values[: rng.choice((0, 1, len(values) // 2, max(0, len(values) - 1)))]
    elif pick == 1:
        values = values + values[: rng.choice((1, 2, len(values)))]
    elif pick == 2:
        element = rng.choice((*SIMPLE, STRING))
        values = [_value(rng, element) for _ in values[:5000]]  # type: ignore[assignment]
    elif pick == 3:  # a count that does not fit the bytes
        count = _number(rng, len(values)) & (2**64 - 1)
        pair.payload = struct.pack("<IQ", element, count) + pair.payload[12:]
        return None
    else:
        for _ in range(rng.choice((1, 1, 2, 10, 100))):
            if values:
                at = rng.randrange(len(values))
                values[at] = _value(rng, element, values[at])
        if pick == 4 and values:
            rng.shuffle(values)
    pair.payload = array(element, values)
    return None


def change_special(image: Image, rng: random.Random) -> None:
    """Token ids of special roles that are out of range, or another tokenizer altogether."""
    if rng.random() < 0.4:
        pair = image.find(b"tokenizer.ggml." + rng.choice((b"model", b"pre")))
        if pair is not None:
            pair.payload = scalar(STRING, rng.choice(TOKENIZERS if pair.key.endswith(b"model") else PRE_TOKENIZERS))
            return
    pairs = [pair for pair in image.pairs if pair.key.endswith(b"_token_id")]
    for pair in rng.sample(pairs, min(len(pairs), rng.choice((1, 2, 20)))):
        pair.kind, pair.payload = 4, scalar(4, _number(rng, 300))


def change_architecture(image: Image, rng: random.Random) -> None:
    """The name of another architecture, with the keys moved to it or not."""
    pair, old, new = image.find(b"general.architecture"), image.arch, rng.choice(ARCHITECTURES)
    if pair is None:
        return
    pair.payload = scalar(STRING, new)
    if rng.random() < 0.9:
        for other in image.pairs:
            if other.key.startswith(old + b"."):
                other.key = new + other.key[len(old) :]


def _reshape(rng: random.Random, row: Row) -> None:
    pick = rng.randrange(6)
    if pick == 0 and len(row.shape) > 1:
        row.shape.reverse()
    elif pick == 1:
        row.shape.append(rng.choice((0, 1, 2, 3, 1 << 32)))
    elif pick == 2 and row.shape:
        row.shape.pop()
    elif row.shape:
        at = rng.randrange(len(row.shape))
        row.shape[at] = _number(rng, row.shape[at]) if pick < 5 else rng.choice((0, 1, 32, 64, 96))


def change_tensor(image: Image, rng: random.Random) -> None:
    """Another shape, type, name or place for tensors; half of the time the file is made consistent again."""
    if not image.rows:
        return change_value(image, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        row = rng.choice(image.rows)
        pick = rng.randrange(7)
        if pick < 2:
            _reshape(rng, row)
        elif pick < 4:
            row.storage = rng.choice((*STORAGE, *range(50), 1 << 31))
        elif pick == 4:
            row.name = rng.choice((b"", b"x" * 64, rng.choice(image.rows).name, row.name + b"s", b"\xff", b"a\0b"))
        elif pick == 5:
            row.offset = _number(rng, row.offset)
        elif len(image.rows) > 1:
            image.rows.remove(row)
    if rng.random() < 0.6:
        image.lay_out()
    return None


def swap_tensors(image: Image, rng: random.Random) -> None:
    """Every tensor of one kind gone, or of another type, or in another order."""
    if not image.rows:
        return change_value(image, rng)
    kind = rng.choice(image.rows).name.split(b".")[-2:]
    same = [row for row in image.rows if row.name.split(b".")[-2:] == kind]
    pick = rng.randrange(3)
    if pick == 0:
        image.rows = [row for row in image.rows if row not in same] or image.rows
    elif pick == 1:
        storage = rng.choice(tuple(STORAGE))
        for row in same:
            row.storage = storage
    else:
        rng.shuffle(image.rows)
    image.lay_out()
    return None


def spoil_data(image: Image, rng: random.Random) -> None:
    """Weights that no training gives: not a number, infinite, or noise."""
    if not image.rows:
        return change_value(image, rng)
    for row in rng.sample(image.rows, min(len(image.rows), rng.choice((1, 2, 50)))):
        size = len(row.data)
        pick = rng.randrange(4)
        if pick == 0:
            row.data = rng.randbytes(size)
        elif pick == 1:
            row.data = (rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\0\0\0\0")) * size)[:size]
        elif pick == 2:
            row.data = bytes([rng.randrange(256)]) * size
        elif size:
            at = rng.randrange(size)
            row.data = row.data[:at] + rng.randbytes(8) + row.data[at + 8 :]
    return None


def change_header(image: Image, rng: random.Random) -> None:
    """Magic, version, counts and alignment."""
    pick = rng.randrange(5)
    if pick == 0:
        image.magic = rng.choice((b"GGUE", b"ggml", b"\0\0\0\0", b"FUGG"))
    elif pick == 1:
        image.version = rng.choice((0, 1, 2, 4, 3 << 24, 0xFFFFFFFF))
    elif pick == 2:
        image.n_pairs = _number(rng, len(image.pairs))
    elif pick == 3:
        image.n_rows = _number(rng, len(image.rows))
    else:
        alignment = rng.choice((0, 1, 2, 4, 8, 16, 64, 256, 3, 33, 1 << 16, 1 << 31))
        image.pairs.append(Pair(b"general.alignment", rng.choice((4, 4, 4, 5, 10)), b""))
        image.pairs[-1].payload = scalar(image.pairs[-1].kind, alignment)
        if 0 < alignment <= 1 << 16:
            image.alignment = alignment
            image.lay_out()


STRUCTURED: dict[Callable[[Image, random.Random], None], int] = {
    change_value: 20,
    add_key: 20,
    change_array: 12,
    change_tensor: 14,
    change_type: 6,
    change_special: 5,
    change_architecture: 6,
    swap_tensors: 5,
    spoil_data: 5,
    drop_key: 4,
    rename_key: 3,
    change_header: 4,
}


def _damage(raw: bytes, header: int, rng: random.Random) -> bytes:
    """Damage that knows nothing of the format, mostly in the header."""
    data = bytearray(raw)
    limit = header if rng.random() < 0.9 else len(data)
    pick = rng.randrange(5)
    if pick == 0:
        for _ in range(rng.choice((1, 1, 2, 8, 32))):
            data[rng.randrange(limit)] ^= 1 << rng.randrange(8)
    elif pick == 1:
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(limit)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif pick == 2:
        at = rng.randrange(limit)
        data[at : at + 8] = struct.pack("<Q", _number(rng) & (2**64 - 1))
    elif pick == 3:
        del data[rng.choice((rng.randrange(header), rng.randrange(len(data)), len(data) - 1)) :]
    else:
        at, size = rng.randrange(limit), rng.choice((1, 4, 8, 100))
        if rng.random() < 0.5:
            del data[at : at + size]
        else:
            data[at:at] = bytes(data[at : at + size])
    return bytes(data)


def mutant(base: Image, seed: int, *, header_only: bool = False) -> tuple[str, bytes]:
    """Damage a file.

    Args:
        base: The sound file; it is not changed.
        seed: Which damage.
        header_only: Leave the tensors alone.

    Returns:
        tuple[str, bytes]: What was done, and the damaged file.
    """
    rng = random.Random(seed)
    image = base.copy()
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.15:
            done.append("bytes")
            continue
        kinds = [kind for kind in STRUCTURED if not (header_only and kind in (spoil_data, swap_tensors, change_tensor))]
        kind = rng.choices(kinds, [STRUCTURED[kind] for kind in kinds])[0]
        if image.pairs:
            kind(image, rng)
            done.append(kind.__name__)
    raw = image.to_bytes()
    for name in done:
        if name == "bytes" and len(raw) > 1:
            raw = _damage(raw, min(len(image.header()), len(raw) - 1), rng)
    return "+".join(done), raw
