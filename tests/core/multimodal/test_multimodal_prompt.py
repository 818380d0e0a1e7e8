"""Prompts with images and audio become chunks, and chunks become embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import MARKER, Pair, picture, tone, wav

from llamacore import gguf
from llamacore.core._native import ffi, lib
from llamacore.core.bitmap import Bitmap
from llamacore.core.multimodal import MultimodalContext
from llamacore.errors import (
    InvalidArgumentError,
    UnsupportedError,
)
from llamacore.testing.vision import tiny_mmproj


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
