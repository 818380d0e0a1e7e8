"""Images and audio against real projectors with random weights, and every refusal in between."""

from __future__ import annotations

import gc
import io
import os
import resource
import stat
import struct
import sys
import threading
import wave
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacore import gguf
from llamacore.core._native import ffi, lib
from llamacore.core.batch import Batch
from llamacore.core.bitmap import Bitmap, Video
from llamacore.core.capture import TensorCapture
from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.multimodal import MultimodalContext, default_marker
from llamacore.core.multimodal_params import MultimodalParams
from llamacore.core.projector_file import Capabilities, capabilities
from llamacore.errors import (
    AbortedError,
    BusyError,
    ClosedError,
    DecodeError,
    InvalidArgumentError,
    InvalidModelError,
    LoadCancelledError,
    ModelLoadError,
    ModelNotFoundError,
    NoKvSlotError,
    OutOfRangeError,
    UnsupportedError,
)
from llamacore.testing import tiny_model
from llamacore.testing.vision import tiny_mmproj

MARKER = "<__media__>"


@dataclass
class Pair:
    model: Model
    mm: MultimodalContext
    path: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("multimodal")


def context(pair: Pair, **options: Any) -> Context:
    return pair.model.context(n_threads=1, **options)  # of work this small, more threads only wait for each other


def _pair(folder: Path, arch: str, projector: str | None, *, audio: bool = False) -> Iterator[Pair]:
    model = Model.load(tiny_model(folder / f"{arch}.gguf", arch=arch, n_ctx_train=2048))
    path = tiny_mmproj(folder / f"{projector}-{audio}.gguf", projector=projector, audio=audio)
    with model:
        yield Pair(model, MultimodalContext.load(path, model, n_threads=1), path)


@pytest.fixture(scope="module")
def llava(folder: Path) -> Iterator[Pair]:
    """16 tokens for every image, plain positions; takes audio too."""
    yield from _pair(folder, "llama", "mlp", audio=True)


@pytest.fixture(scope="module")
def gemma(folder: Path) -> Iterator[Pair]:
    """4 tokens for every image, decoded without causal attention."""
    yield from _pair(folder, "gemma3", "gemma3")


@pytest.fixture(scope="module")
def qwen(folder: Path) -> Iterator[Pair]:
    """As many tokens as the image is large, M-RoPE positions, hybrid memory."""
    yield from _pair(folder, "qwen35", "qwen3vl_merger")


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


# what is loaded


def test_queries(llava: Pair, gemma: Pair, qwen: Pair) -> None:
    assert (llava.mm.supports_vision, llava.mm.supports_audio, llava.mm.audio_sample_rate) == (True, True, 16000)
    assert (gemma.mm.supports_vision, gemma.mm.supports_audio, gemma.mm.audio_sample_rate) == (True, False, None)
    assert [pair.mm.uses_mrope for pair in (llava, gemma, qwen)] == [False, False, True]
    assert [pair.mm.uses_non_causal() for pair in (llava, gemma, qwen)] == [False, True, False]
    assert llava.mm.marker == default_marker() == MARKER
    assert llava.mm.supports_video is bool(lib.mtmd_helper_support_video(llava.mm._core.ptr))
    assert llava.mm.n_embd == llava.model.n_embd_inp == 64


def test_capabilities(folder: Path, llava: Pair, gemma: Pair) -> None:
    assert capabilities(llava.path) == Capabilities(vision=True, audio=True)
    assert capabilities(gemma.path) == Capabilities(vision=True, audio=False)
    deaf = tiny_mmproj(folder / "audio.gguf", projector=None, audio=True)
    assert capabilities(deaf) == Capabilities(vision=False, audio=True)
    with MultimodalContext.load(deaf, llava.model) as mm:
        assert not mm.supports_vision
        with pytest.raises(UnsupportedError, match="no images"):
            mm.tokenize(MARKER, [Bitmap.from_rgb(picture())])


def test_every_parameter_reaches_upstream(llava: Pair) -> None:
    params = MultimodalParams(
        use_gpu=False, print_timings=False, n_threads=1, media_marker="<img>", flash_attn="disabled", warmup=False,
        image_min_tokens=4, image_max_tokens=64, batch_max_tokens=32, device="CPU",
    )  # fmt: skip
    with MultimodalContext.load(llava.path, llava.model, params) as mm:
        assert mm.marker == "<img>"
        chunks = mm.tokenize("a <img> b", [Bitmap.from_rgb(picture())])
        (slow,) = mm.encode([chunks[1]])
    (fast,) = llava.mm.encode([llava.mm.tokenize(MARKER, [Bitmap.from_rgb(picture())])[0]])
    np.testing.assert_allclose(slow, fast, rtol=0, atol=2e-2)


def test_image_token_limits(qwen: Pair) -> None:
    def n_tokens(**limits: int) -> int:
        with MultimodalContext.load(qwen.path, qwen.model, **limits) as mm:  # type: ignore[arg-type]
            return mm.tokenize(MARKER, [Bitmap.from_rgb(picture(200, 200))])[1].n_tokens

    assert n_tokens(image_max_tokens=9) <= 9 < n_tokens() < 400 <= n_tokens(image_min_tokens=400)


def test_loading_is_refused(folder: Path, llava: Pair) -> None:
    load = MultimodalContext.load
    with pytest.raises(ModelNotFoundError):
        load(folder / "none.gguf", llava.model)
    with pytest.raises(ModelNotFoundError):
        load(folder, llava.model)
    with pytest.raises(InvalidModelError, match="'llama', not a multimodal projector"):
        load(llava.model.paths[0], llava.model)
    wide = tiny_mmproj(folder / "wide.gguf", n_embd=96)
    with pytest.raises(ModelLoadError, match=r"mismatch.*n_embd = 64.*n_embd = 96.*width 64"):
        load(wide, llava.model)
    short = folder / "short.gguf"
    short.write_bytes(wide.read_bytes()[:-1000])
    with pytest.raises(InvalidModelError):
        load(short, llava.model)
    with pytest.raises(InvalidModelError):
        capabilities(short)
    with pytest.raises(ModelLoadError, match="nonesuch"):
        load(tiny_mmproj(folder / "x.gguf", metadata={"clip.vision.projector_type": "nonesuch"}), llava.model)
    with pytest.raises(InvalidModelError, match="neither"):
        load(tiny_mmproj(folder / "x.gguf", metadata={"clip.has_vision_encoder": False}), llava.model)
    with Model.load(llava.model.paths[0], vocab_only=True) as words, pytest.raises(UnsupportedError):
        load(llava.path, words)


@pytest.mark.parametrize(
    ("kinds", "broken"),
    [
        ({}, {"clip.vision.image_size": 64}),  # more patches than position embeddings
        ({}, {"clip.vision.attention.head_count": 0}),
        ({}, {"clip.vision.embedding_length": 64}),
        ({}, {"clip.vision.block_count": 9}),
        ({"projector": "gemma3"}, {"clip.vision.image_size": 0}),
        ({"projector": "gemma3"}, {"clip.vision.projector.scale_factor": 9}),
        ({"projector": None, "audio": True}, {"clip.audio.num_mel_bins": 64}),
        ({"projector": None, "audio": True}, {"clip.audio.block_count": 0}),
        ({"projector": None, "audio": True}, {"clip.audio.projector.stack_factor": 7}),
    ],
)
def test_contradicting_metadata_is_an_error(
    folder: Path, llava: Pair, kinds: dict[str, Any], broken: dict[str, Any]
) -> None:
    with pytest.raises(ModelLoadError):
        MultimodalContext.load(tiny_mmproj(folder / "broken.gguf", metadata=broken, **kinds), llava.model)


@pytest.mark.parametrize(
    "tensor",
    ["v.patch_embd.weight", "v.position_embd.weight", "v.blk.1.attn_q.weight", "mm.0.bias", "mm.2.weight"],
)
def test_a_missing_tensor_is_an_error(folder: Path, llava: Pair, tensor: str) -> None:
    whole = tiny_mmproj(folder / "whole.gguf").read_bytes()
    assert tensor in gguf.read(folder / "whole.gguf").tensors
    lacking = folder / "lacking.gguf"  # a name nobody asks for, of the same length
    lacking.write_bytes(whole.replace(tensor.encode(), b"x" * len(tensor), 1))
    with pytest.raises(InvalidModelError, match=tensor.replace(".", r"\.")):
        MultimodalContext.load(lacking, llava.model)


@pytest.mark.parametrize(
    "options",
    [
        {"n_threads": 0}, {"n_threads": 513}, {"image_min_tokens": 0}, {"image_max_tokens": 2**15 + 1},
        {"image_min_tokens": 9, "image_max_tokens": 8}, {"batch_max_tokens": 0}, {"media_marker": ""},
        {"media_marker": "a\0"}, {"flash_attn": "fast"}, {"device": "none such"}, {"n_thread": 2},
    ],
)  # fmt: skip
def test_wrong_options(llava: Pair, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        MultimodalContext.load(llava.path, llava.model, **options)


def test_progress(llava: Pair) -> None:
    seen: list[float] = []
    MultimodalContext.load(llava.path, llava.model, progress=seen.append).close()
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert len(seen) > 10
    with pytest.raises(LoadCancelledError):
        MultimodalContext.load(llava.path, llava.model, progress=lambda done: done < 0.3)

    def fail(done: float) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        MultimodalContext.load(llava.path, llava.model, progress=fail)


# bitmaps


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


# tokenizing


def test_chunks(llava: Pair) -> None:
    image, sound = Bitmap.from_rgb(picture(), id="cat"), Bitmap.from_audio(tone(), id="meow")
    chunks = llava.mm.tokenize(f"see {MARKER} and hear {MARKER} now", [image, sound])
    assert [(c.type, c.n_tokens, c.n_pos, c.id) for c in chunks] == [
        ("text", len(chunks[0].tokens), len(chunks[0].tokens), ""),
        ("image", 16, 16, "cat"),
        ("text", len(chunks[2].tokens), len(chunks[2].tokens), ""),
        ("audio", 375, 375, "meow"),
        ("text", len(chunks[4].tokens), len(chunks[4].tokens), ""),
    ]
    tokenize = llava.model.vocab.tokenize
    assert [list(chunks[i].tokens) for i in (0, 2, 4)] == [
        tokenize("see ", add_special=True), tokenize(" and hear ", add_special=False),
        tokenize(" now", add_special=False),
    ]  # fmt: skip
    assert chunks.n_tokens == chunks.n_pos == sum(c.n_tokens for c in chunks)
    assert chunks[-1].tokens == chunks[4].tokens
    with pytest.raises(IndexError):
        chunks[5]
    assert llava.mm.tokenize(MARKER, [Bitmap.from_audio(tone(31))])[-1].n_tokens == 375  # two pieces of 30 seconds
    assert sum(c.n_tokens for c in llava.mm.tokenize(MARKER, [Bitmap.from_audio(tone(31))])) == 750


@pytest.mark.parametrize("prompt", ["", "plain <s> text", f"{MARKER}", f"{MARKER}{MARKER}", f"a{MARKER}b\0c{MARKER}ü"])
@pytest.mark.parametrize("special", [False, True])
def test_same_as_upstreams_tokenizer(gemma: Pair, prompt: str, special: bool) -> None:
    bitmaps = [Bitmap.from_rgb(picture(seed=i)) for i in range(prompt.count(MARKER))]
    ours = gemma.mm.tokenize(prompt, bitmaps, add_special=special, parse_special=special)
    raw = prompt.encode()
    words = ffi.new("struct mtmd_input_text *")
    buffer = ffi.from_buffer(raw)
    words.text, words.text_len, words.add_special, words.parse_special = buffer, len(raw), special, special
    theirs = lib.mtmd_input_chunks_init()
    try:
        assert lib.mtmd_tokenize(gemma.mm._core.ptr, theirs, words, [b._core.ptr for b in bitmaps], len(bitmaps)) == 0
        assert lib.mtmd_input_chunks_size(theirs) == len(ours)
        count = ffi.new("size_t *")
        for i, chunk in enumerate(ours):
            native = lib.mtmd_input_chunks_get(theirs, i)
            assert lib.mtmd_input_chunk_get_n_tokens(native) == chunk.n_tokens
            tokens = lib.mtmd_input_chunk_get_tokens_text(native, count)
            assert tuple(ffi.unpack(tokens, count[0]) if count[0] else ()) == chunk.tokens
    finally:
        lib.mtmd_input_chunks_free(theirs)


def test_parts_take_markers_as_text(llava: Pair) -> None:
    image = Bitmap.from_rgb(picture())
    chunks = llava.mm.tokenize(["say ", image, f" {MARKER} ", image])
    assert [c.type for c in chunks] == ["text", "image", "text", "image"]
    assert llava.model.vocab.detokenize(chunks[2].tokens) == f" {MARKER} "


def test_positions_of_an_mrope_model(qwen: Pair) -> None:
    chunk = qwen.mm.tokenize(MARKER, [Bitmap.from_rgb(picture(200, 100))])[1]
    assert chunk.type == "image"
    assert chunk.n_pos < chunk.n_tokens


def test_frames_are_merged(qwen: Pair) -> None:
    frames = [Bitmap.from_rgb(picture(seed=i), mergeable=True) for i in range(4)]
    still = [Bitmap.from_rgb(picture(seed=i)) for i in range(4)]
    merged, single = qwen.mm.tokenize(frames), qwen.mm.tokenize(still)
    assert [c.type for c in merged].count("image") == 2
    assert [c.type for c in single].count("image") == 4
    rows = qwen.mm.encode([c for c in merged if c.type == "image"])
    assert np.abs(rows[0] - rows[1]).max() > 0.01


def test_tokenizing_is_refused(llava: Pair, gemma: Pair, folder: Path) -> None:
    image = Bitmap.from_rgb(picture())
    for text, bitmaps in ((MARKER, []), ("none", [image]), (f"{MARKER} {MARKER}", [image]), (MARKER, [image, image])):
        with pytest.raises(InvalidArgumentError, match="marker"):
            llava.mm.tokenize(text, bitmaps)
    with pytest.raises(InvalidArgumentError):
        llava.mm.tokenize(["a", image], [image])
    with pytest.raises(InvalidArgumentError, match="ndarray"):
        llava.mm.tokenize(["a", picture()])  # type: ignore[list-item]
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        llava.mm.tokenize("\udc80")
    with pytest.raises(UnsupportedError, match="no audio"):
        gemma.mm.tokenize(MARKER, [Bitmap.from_audio(tone())])
    click = Bitmap.from_buffer(wav(np.zeros(1, np.float32)), llava.mm)
    with pytest.raises(InvalidArgumentError, match="1 samples"):
        llava.mm.tokenize([click])
    tiles = tiny_mmproj(folder / "tiles.gguf", projector="idefics3")
    with MultimodalContext.load(tiles, llava.model) as mm, pytest.raises(UnsupportedError, match="vocabulary"):
        mm.tokenize(MARKER, [image])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3000), (3000, 1), (2, 2), (31, 33), (257, 1023)])
@pytest.mark.parametrize("pair", ["llava", "gemma", "qwen"])
def test_any_size_of_image(pair: str, width: int, height: int, request: pytest.FixtureRequest) -> None:
    mm: MultimodalContext = request.getfixturevalue(pair).mm
    chunks = mm.tokenize([Bitmap.from_rgb(picture(width, height))])
    (rows,) = mm.encode([c for c in chunks if c.type == "image"])
    assert rows.shape[1] == mm.n_embd
    assert np.isfinite(rows).all()


# encoding


def test_embeddings_match_numpy(folder: Path, llava: Pair) -> None:
    path = tiny_mmproj(folder / "shallow.gguf", n_layer=1, seed=3)  # llava skips the last layer: none is left
    file = gguf.read(path)
    raw = path.read_bytes()

    def tensor(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        entry = file.tensors[name]
        return np.frombuffer(raw, np.float32, entry.n_elements, entry.offset).reshape(entry.shape[::-1])

    pixels = picture(32, 32)
    with MultimodalContext.load(path, llava.model) as mm:
        (rows,) = mm.encode([mm.tokenize([Bitmap.from_rgb(pixels)])[0]])

    normal = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    patches = normal.reshape(4, 8, 4, 8, 3).transpose(0, 2, 4, 1, 3).reshape(16, -1)
    x = patches @ tensor("v.patch_embd.weight").reshape(32, -1).T + tensor("v.patch_embd.bias")
    x = x + tensor("v.position_embd.weight")
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = x * tensor("v.post_ln.weight") + tensor("v.post_ln.bias")
    x = x @ tensor("mm.0.weight").T + tensor("mm.0.bias")
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    x = x @ tensor("mm.2.weight").T + tensor("mm.2.bias")
    assert rows.shape == (16, 64)
    np.testing.assert_allclose(rows, x, atol=5e-3)


@pytest.mark.parametrize("pair", ["llava", "gemma", "qwen"])
def test_encoding_is_deterministic_and_sees_the_image(pair: str, request: pytest.FixtureRequest) -> None:
    mm: MultimodalContext = request.getfixturevalue(pair).mm

    def media(seed: int) -> Any:
        return next(c for c in mm.tokenize([Bitmap.from_rgb(picture(seed=seed))]) if c.type == "image")

    one, two = media(1), media(2)
    together = mm.encode([one, two, one])
    for rows, chunk in zip(together, (one, two, one), strict=True):
        np.testing.assert_array_equal(rows, mm.encode([chunk])[0])
    assert np.abs(together[0] - together[1]).max() > 0.01
    assert mm.encode([]) == []


def test_encoding_audio(llava: Pair) -> None:
    low, high = tone(), tone()[::3].copy()
    chunks = llava.mm.tokenize([Bitmap.from_audio(low), Bitmap.from_audio(high)])
    rows = llava.mm.encode(list(chunks))
    assert [r.shape for r in rows] == [(375, 64), (375, 64)]
    assert np.isfinite(rows[0]).all()
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    (shortest,) = llava.mm.encode(list(llava.mm.tokenize([Bitmap.from_audio(np.zeros(2, np.float32))])))
    assert shortest.shape == (375, 64)


# decoding


@pytest.mark.parametrize("pair", ["llava", "gemma", "qwen"])
def test_eval_equals_decoding_the_embeddings_by_hand(pair: str, request: pytest.FixtureRequest) -> None:
    found: Pair = request.getfixturevalue(pair)
    mm = found.mm
    chunks = mm.tokenize(f"see {MARKER} what is it?", [Bitmap.from_rgb(picture(90, 60))])
    with context(found, n_ctx=256, n_seq_max=2) as ctx:
        n_past = mm.eval_chunks(ctx, chunks, seq_id=1)
        expected = ctx.logits()
        assert n_past == chunks.n_pos
        assert ctx.memory.seq_pos_max(1) == n_past - 1
        assert ctx.memory.seq_pos_max(0) == -1
        assert ctx.causal_attn

    with context(found, n_ctx=256) as ctx:
        position = 0
        for i, chunk in enumerate(chunks):
            if chunk.type == "text":
                batch = Batch(chunk.n_tokens)
                batch.add_tokens(chunk.tokens, position, outputs="last" if i == len(chunks) - 1 else "none")
            else:
                (rows,) = mm.encode([chunk])
                batch = Batch(chunk.n_tokens, n_embd=mm.n_embd)
                width = chunk.n_pos if not mm.uses_mrope else _columns(mm, chunk)
                for k, row in enumerate(rows):
                    place = (position, position + k // width, position + k % width, 0)
                    batch.add_embd(row, place if mm.uses_mrope else position + k)
            ctx.set_causal_attn(chunk.type == "text" or not mm.uses_non_causal(chunk))
            ctx.decode(batch)
            position += chunk.n_pos
        ctx.set_causal_attn(True)
        np.testing.assert_allclose(ctx.logits(), expected, atol=1e-4)


def _columns(mm: MultimodalContext, chunk: Any) -> int:
    image = lib.mtmd_input_chunk_get_tokens_image(lib.mtmd_input_chunks_get(chunk._chunks._core.ptr, chunk._index))
    places = [lib.mtmd_image_tokens_get_decoder_pos(image, 0, k) for k in range(chunk.n_tokens)]
    return int(max(place.x for place in places)) + 1


def test_logits_depend_on_the_image_and_on_nothing_else(llava: Pair) -> None:
    def logits(seed: int, n_batch: int | None = None) -> Any:
        with context(llava, n_ctx=128) as ctx:
            llava.mm.eval_chunks(
                ctx, llava.mm.tokenize(f"see {MARKER} ?", [Bitmap.from_rgb(picture(seed=seed))]), n_batch=n_batch
            )
            return ctx.logits()

    np.testing.assert_array_equal(logits(1), logits(1))
    np.testing.assert_allclose(logits(1), logits(1, n_batch=5), atol=1e-4)
    assert np.abs(logits(1) - logits(2)).max() > 0.01


def test_single_chunks_with_kept_embeddings(llava: Pair) -> None:
    chunks = llava.mm.tokenize(f"a {MARKER} b", [Bitmap.from_rgb(picture())])
    (rows,) = llava.mm.encode([chunks[1]])
    with context(llava, n_ctx=128, n_seq_max=2) as ctx:
        llava.mm.eval_chunks(ctx, chunks)
        expected = ctx.logits()
        n_past = llava.mm.eval_chunk(ctx, chunks[0], seq_id=1)
        n_past = llava.mm.eval_chunk(ctx, chunks[1], n_past, seq_id=1, embeddings=rows)
        assert n_past == chunks[0].n_pos + 16
        n_past = llava.mm.eval_chunk(ctx, chunks[2], n_past, seq_id=1, logits_last=True)
        assert n_past == chunks.n_pos
        np.testing.assert_allclose(ctx.logits(), expected, atol=1e-4)
        assert llava.mm.eval_chunks(ctx, llava.mm.tokenize("", add_special=False), n_past, seq_id=1) == n_past


def test_causal_attention_stays_as_it_was(gemma: Pair) -> None:
    chunks = gemma.mm.tokenize([Bitmap.from_rgb(picture())])
    with context(gemma, n_ctx=128) as ctx:
        ctx.set_causal_attn(False)
        gemma.mm.eval_chunks(ctx, chunks)
        assert not ctx.causal_attn


def test_an_embedding_context(llava: Pair) -> None:
    chunks = llava.mm.tokenize([Bitmap.from_rgb(picture()), " what is it?"])
    with context(llava, n_ctx=128, n_outputs_max=8, embeddings=True, pooling_type="none") as ctx:
        llava.mm.eval_chunks(ctx, chunks)
        assert ctx.embeddings().shape == (64,)


def test_a_capture_sees_the_rows_of_an_image(llava: Pair) -> None:
    chunks = llava.mm.tokenize(["see ", Bitmap.from_rgb(picture()), " now"])
    capture = TensorCapture.for_layers(0)
    with context(llava, n_ctx=128, capture=capture) as ctx:
        n_past = llava.mm.eval_chunk(ctx, chunks[0])
        assert capture.get_layer(0).shape == (chunks[0].n_tokens, 64)
        n_past = llava.mm.eval_chunk(ctx, chunks[1], n_past)
        assert capture.get_layer(0).shape == (16, 64)


def test_no_room_and_cancelled(llava: Pair) -> None:
    chunks = llava.mm.tokenize(["hear ", Bitmap.from_audio(tone()), " now"])
    with context(llava, n_ctx=256, n_batch=128) as ctx:
        with pytest.raises(NoKvSlotError):
            llava.mm.eval_chunks(ctx, chunks)
        assert ctx.memory.seq_pos_max(0) > 0
        ctx.memory.clear()
        ctx.cancel()
        with pytest.raises(AbortedError):
            llava.mm.eval_chunk(ctx, chunks[1])
        ctx.resume()
        assert llava.mm.eval_chunk(ctx, chunks[0]) == chunks[0].n_pos


def test_evaluating_is_refused(llava: Pair, gemma: Pair, folder: Path) -> None:
    mm, image = llava.mm, Bitmap.from_rgb(picture())
    chunks = mm.tokenize(["a", image, "b"])
    rows = np.zeros((16, 64), np.float32)
    with context(llava, n_ctx=64, n_batch=32) as ctx, context(gemma, n_ctx=64) as other:
        refused: list[tuple[type[Exception], Callable[[], object]]] = [
            (InvalidArgumentError, lambda: mm.eval_chunks(other, chunks)),
            (InvalidArgumentError, lambda: gemma.mm.eval_chunks(other, chunks)),
            (InvalidArgumentError, lambda: gemma.mm.encode([chunks[1]])),
            (InvalidArgumentError, lambda: mm.encode([chunks[0]])),
            (InvalidArgumentError, lambda: mm.eval_chunks(ctx, mm.tokenize(["a", image]))),
            (InvalidArgumentError, lambda: mm.eval_chunk(ctx, chunks[1], logits_last=True)),
            (InvalidArgumentError, lambda: mm.eval_chunk(ctx, chunks[0], embeddings=rows)),
            (InvalidArgumentError, lambda: mm.eval_chunk(ctx, chunks[1], embeddings=rows[:15])),
            (InvalidArgumentError, lambda: mm.eval_chunk(ctx, chunks[1], embeddings=rows.astype(np.float64))),
            (OutOfRangeError, lambda: mm.eval_chunks(ctx, chunks, -1)),
            (OutOfRangeError, lambda: mm.eval_chunks(ctx, chunks, 2**31 - 5)),
            (OutOfRangeError, lambda: mm.eval_chunks(ctx, chunks, seq_id=1)),
            (OutOfRangeError, lambda: mm.eval_chunks(ctx, chunks, seq_id=-1)),
            (OutOfRangeError, lambda: mm.eval_chunks(ctx, chunks, n_batch=0)),
            (OutOfRangeError, lambda: mm.eval_chunks(ctx, chunks, n_batch=33)),
            (DecodeError, lambda: mm.encode([mm.tokenize([Bitmap.from_size(9, 9)])[0]])),
        ]
        for error, call in refused:
            with pytest.raises(error):
                call()
        assert ctx.memory.seq_pos_max(0) == -1
        assert mm.eval_chunks(ctx, chunks) == chunks.n_pos  # nothing was broken by any of it
        with pytest.raises(DecodeError):  # positions that the memory has already
            mm.eval_chunks(ctx, chunks, 3)

    whole = gemma.mm.tokenize([image, "b"])
    with context(gemma, n_ctx=64, n_batch=32, n_ubatch=2) as ctx:
        with pytest.raises(InvalidArgumentError, match="one piece"):
            gemma.mm.eval_chunks(ctx, whole)
        assert ctx.memory.seq_pos_max(0) == -1
    bert = Model.load(tiny_model(folder / "bert.gguf", arch="bert"))
    with bert, MultimodalContext.load(llava.path, bert) as reader:
        pictured, memoryless = reader.tokenize([image]), bert.context()
        with pytest.raises(UnsupportedError, match="memory"):
            reader.eval_chunks(memoryless, pictured, logits_last=False)


# lifetimes and threads


def test_closing(folder: Path, llava: Pair) -> None:
    model = Model.load(llava.model.paths[0])
    mm = MultimodalContext.load(llava.path, model)
    image = Bitmap.from_rgb(picture())
    chunks = mm.tokenize(["a", image, "b"])
    media = chunks[1]
    ctx = model.context(n_ctx=64)
    image.close()
    with pytest.raises(ClosedError):
        mm.tokenize([image])
    with pytest.raises(ClosedError):
        image.to_numpy()
    assert mm.encode([media])[0].shape == (16, 64)  # the chunk has what it needs of the image
    chunks.close()
    with pytest.raises(ClosedError):
        mm.encode([media])
    with pytest.raises(ClosedError):
        mm.eval_chunks(ctx, chunks)
    kept = mm.tokenize("more")
    model.close()
    assert mm.closed
    assert kept.closed
    calls: list[Callable[[], object]] = [
        lambda: mm.tokenize("a"), lambda: mm.eval_chunk(ctx, kept[0]), lambda: mm.uses_non_causal(),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    with pytest.raises(ClosedError):
        Bitmap.from_buffer(png(picture()), mm)


def test_dropping_frees_without_the_collector(llava: Pair) -> None:
    gc.disable()
    try:
        mm = MultimodalContext.load(llava.path, llava.model)
        chunks = mm.tokenize(["a", Bitmap.from_rgb(picture())])
        media = chunks[1]
        gone: list[weakref.ref[Any]] = [weakref.ref(chunks), weakref.ref(mm)]
        del chunks, mm
        assert all(ref() is not None for ref in gone)  # a chunk keeps what it is a part of
        del media
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_one_thread_at_a_time(llava: Pair) -> None:
    mm, image = llava.mm, Bitmap.from_rgb(picture())
    chunks = mm.tokenize(["a", image, "b"])
    caught: list[BaseException] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as exc:
            caught.append(exc)

    with context(llava, n_ctx=64) as ctx:
        for handle in (mm, ctx):
            handle._enter()
            try:
                thread = threading.Thread(target=attempt, args=(lambda: mm.eval_chunks(ctx, chunks),))
                thread.start()
                thread.join()
            finally:
                handle._exit()
        assert [type(exc) for exc in caught] == [BusyError, BusyError]
        assert mm.eval_chunks(ctx, chunks) == chunks.n_pos  # a refusal leaves nothing taken


def test_no_leak(llava: Pair) -> None:
    pixels = picture(300, 300)

    def rounds(count: int) -> None:
        with context(llava, n_ctx=64) as ctx:
            for _ in range(count):
                ctx.memory.clear()
                llava.mm.eval_chunks(ctx, llava.mm.tokenize(["a", Bitmap.from_rgb(pixels), "b"]))

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    rounds(20)
    before = resident()
    rounds(150)  # 40 MB of pixels
    assert resident() - before < 8 << 20


# video: programs that answer as ffprobe and ffmpeg do stand in for them, which need not be installed

FFPROBE = """#!{python}
import sys
if "nothing" in sys.argv[-1]:
    sys.exit(1)
if sys.argv[-1] == "pipe:0":
    sys.stdin.buffer.read()
print("width=6\\nheight=4\\nr_frame_rate=10/1\\nnb_frames=4\\nduration=0.4")
"""
FFMPEG = """#!{python}
import sys
open({log!r}, "w").write(" ".join(sys.argv[1:]))
if "cache:pipe:0" in sys.argv:
    sys.stdin.buffer.read()
for i in range(4):
    sys.stdout.buffer.write(bytes([i]) * (6 * 4 * 3))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, code in (("ffprobe", FFPROBE), ("ffmpeg", FFMPEG)):
        (folder / name).write_text(code.format(python=sys.executable, log=str(tmp_path / "arguments")))
        (folder / name).chmod(stat.S_IRWXU)
    return folder


@pytest.mark.skipif(os.name == "nt", reason="the programs are scripts")
@pytest.mark.parametrize("in_memory", [False, True])
def test_video(qwen: Pair, programs: Path, tmp_path: Path, in_memory: bool) -> None:
    if not qwen.mm.supports_video:
        pytest.skip("built without video")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"frames")
    source = clip.read_bytes() if in_memory else clip
    with Video.open(source, qwen.mm, fps=0, timestamp_interval_ms=200, ffmpeg_dir=programs) as video:
        assert (video.width, video.height, video.fps, video.n_frames) == (6, 4, 10.0, 4)
        items = list(video)
        assert video.read_next() is None
    frames = [item for item in items if isinstance(item, Bitmap)]
    assert [item for item in items if isinstance(item, str)] == ["Video:", "[0m0.00s]", "[0m0.20s]"]
    assert [int(frame.to_numpy().max()) for frame in frames] == [0, 1, 2, 3]
    assert ("cache:pipe:0" if in_memory else str(clip)) in (tmp_path / "arguments").read_text().split()
    chunks = qwen.mm.tokenize(items)
    assert [c.type for c in chunks].count("image") == 3  # frames 1 and 2 have no text between them: merged
    with context(qwen, n_ctx=256) as ctx:
        assert qwen.mm.eval_chunks(ctx, chunks) == chunks.n_pos


@pytest.mark.skipif(os.name == "nt", reason="the programs are scripts")
def test_video_is_refused(qwen: Pair, programs: Path, tmp_path: Path) -> None:
    if not qwen.mm.supports_video:
        pytest.skip("built without video")
    (tmp_path / "nothing.mp4").write_bytes(b"x")
    with pytest.raises(InvalidArgumentError, match="ffprobe failed"):
        Video.open(tmp_path / "nothing.mp4", qwen.mm, ffmpeg_dir=programs)
    with pytest.raises(InvalidArgumentError, match="no such file"):
        Video.open("concat:a|b", qwen.mm, ffmpeg_dir=programs)
    with pytest.raises(InvalidArgumentError):
        Video.open(b"", qwen.mm, ffmpeg_dir=programs)
    with pytest.raises(InvalidArgumentError, match="fps"):
        Video.open(b"x", qwen.mm, fps=-1, ffmpeg_dir=programs)
    with pytest.raises(UnsupportedError, match="no ffmpeg"):
        Video.open(b"x", qwen.mm, ffmpeg_dir=tmp_path)
    video = Video.open(b"x", qwen.mm, ffmpeg_dir=programs)
    video.close()
    with pytest.raises(ClosedError):
        video.read_next()
