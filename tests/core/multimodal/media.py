"""Images, sounds and the files that carry them, made by hand; a model with its projector."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.multimodal import MultimodalContext

MARKER = "<__media__>"


@dataclass
class Pair:
    model: Model
    mm: MultimodalContext
    path: Path


def context(pair: Pair, **options: Any) -> Context:
    return pair.model.context(n_threads=1, **options)  # of work this small, more threads only wait for each other


def picture(width: int = 60, height: int = 40, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tone(seconds: float = 1.0, rate: int = 16000) -> np.ndarray[Any, np.dtype[np.float32]]:
    wave_form = 0.5 * np.sin(np.arange(int(seconds * rate)) * (440 * 2 * np.pi / rate))
    return np.asarray(wave_form, dtype=np.float32)


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    height, width, _ = pixels.shape
    padding = b"\0" * (-3 * width % 4)
    rows = b"".join(row[:, ::-1].tobytes() + padding for row in pixels[::-1])
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + info + rows


def ppm(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def wav(samples: np.ndarray[Any, np.dtype[np.float32]], rate: int = 16000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()
