"""Images and sounds, from arrays and from files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import Pair, bmp, picture, png, ppm, tone, wav

from llamacore.core.bitmap import Bitmap
from llamacore.errors import (
    InvalidArgumentError,
    UnsupportedError,
)


@pytest.mark.parametrize("encode", [png, bmp, ppm])
def test_image_files(llava: Pair, folder: Path, encode: Callable[[Any], bytes]) -> None:
    pixels = picture(33, 21)
    (folder / "image").write_bytes(encode(pixels))
    for bitmap in (Bitmap.from_buffer(encode(pixels), llava.mm), Bitmap.from_file(folder / "image", llava.mm)):
        assert (bitmap.kind, bitmap.width, bitmap.height, bitmap.nbytes) == ("image", 33, 21, pixels.nbytes)
        assert len(bitmap.id) == 64
        np.testing.assert_array_equal(bitmap.to_numpy(), pixels)
    counted = Bitmap.from_buffer(encode(pixels), llava.mm, placeholder=True)
    assert counted.placeholder
    assert (counted.width, counted.height) == (33, 21)


def test_audio_files(llava: Pair, gemma: Pair) -> None:
    sound = Bitmap.from_buffer(wav(tone()), llava.mm)
    assert (sound.kind, sound.n_samples) == ("audio", 16000)
    np.testing.assert_allclose(sound.to_numpy(), tone(), atol=1e-4)
    assert Bitmap.from_buffer(wav(tone(rate=8000), rate=8000), llava.mm).n_samples == 16000  # resampled
    with pytest.raises(InvalidArgumentError, match="does not support audio"):
        Bitmap.from_buffer(wav(tone()), gemma.mm)


def test_rgb_is_copied_and_need_not_be_contiguous() -> None:
    pixels = picture()
    bitmap = Bitmap.from_rgb(pixels[:, ::-1], id="käse")
    before = pixels[:, ::-1].copy()
    pixels[:] = 0
    np.testing.assert_array_equal(bitmap.to_numpy(), before)
    assert bitmap.id == "käse"
    empty = Bitmap.from_size(7, 5)
    assert (empty.width, empty.height, empty.nbytes, empty.placeholder) == (7, 5, 0, True)


BITMAPS: dict[str, Callable[[], object]] = {
    "grey": lambda: Bitmap.from_rgb(np.zeros((4, 4), np.uint8)),
    "rgba": lambda: Bitmap.from_rgb(np.zeros((4, 4, 4), np.uint8)),
    "float": lambda: Bitmap.from_rgb(np.zeros((4, 4, 3), np.float32)),
    "no rows": lambda: Bitmap.from_rgb(np.zeros((0, 4, 3), np.uint8)),
    "no columns": lambda: Bitmap.from_rgb(np.zeros((4, 0, 3), np.uint8)),
    "size 0": lambda: Bitmap.from_size(0, 4),
    "size -1": lambda: Bitmap.from_size(4, -1),
    "size huge": lambda: Bitmap.from_size(2**16, 2**16),
    "id with NUL": lambda: Bitmap.from_size(1, 1, id="a\0b"),
    "id surrogate": lambda: Bitmap.from_size(1, 1, id="\udc80"),
    "stereo": lambda: Bitmap.from_audio(np.zeros((2, 100), np.float32)),
    "int16": lambda: Bitmap.from_audio(np.zeros(100, np.int16)),
    "one sample": lambda: Bitmap.from_audio(np.zeros(1, np.float32)),
    "not finite": lambda: Bitmap.from_audio(np.array([0.0, np.nan, 0.0], np.float32)),
    "placeholder data": lambda: Bitmap.from_size(2, 2).to_numpy(),
}


@pytest.mark.parametrize("name", BITMAPS)
def test_wrong_bitmaps(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        BITMAPS[name]()


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"not an image at all", png(picture())[:200], b"\x89PNG\r\n\x1a\n", bmp(picture())[:10],
     b"RIFF\x24\0\0\0WAVEfmt ", b"RIFF\x24\0\0\0WEBPVP8 ", b"ID3" + b"\0" * 50, b"GIF89a", b"\0" * 5000],
)  # fmt: skip
def test_bad_bytes_start_no_program(llava: Pair, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("ffmpeg", "ffprobe"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(InvalidArgumentError):
        Bitmap.from_buffer(data, llava.mm)
    assert not (tmp_path / "started").exists()


def test_unreadable_files(llava: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match="No such file"):
        Bitmap.from_file(tmp_path / "none.png", llava.mm)
    with pytest.raises(InvalidArgumentError):
        Bitmap.from_file(tmp_path, llava.mm)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="ffmpeg"):
        Bitmap.from_buffer(b"RIFF\x24\0\0\0WEBPVP8 ", llava.mm, ffmpeg=True)
