"""Decoding prompts with images and audio; who may use what, and until when."""

from __future__ import annotations

import gc
import os
import resource
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import MARKER, Pair, context, picture, png, tone

from llamacore.core._native import lib
from llamacore.core.batch import Batch
from llamacore.core.bitmap import Bitmap
from llamacore.core.capture import TensorCapture
from llamacore.core.model import Model
from llamacore.core.multimodal import MultimodalContext
from llamacore.errors import (
    AbortedError,
    BusyError,
    ClosedError,
    DecodeError,
    InvalidArgumentError,
    NoKvSlotError,
    OutOfRangeError,
    UnsupportedError,
)
from llamacore.testing import tiny_model


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
