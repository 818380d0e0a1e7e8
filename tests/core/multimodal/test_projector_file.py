"""Loading a projector: what it tells, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import MARKER, Pair, picture

from llamacore import gguf
from llamacore.core._native import lib
from llamacore.core.bitmap import Bitmap
from llamacore.core.model import Model
from llamacore.core.multimodal import MultimodalContext, default_marker
from llamacore.core.multimodal_params import MultimodalParams
from llamacore.core.projector_file import Capabilities, capabilities
from llamacore.errors import (
    InvalidArgumentError,
    InvalidModelError,
    LoadCancelledError,
    ModelLoadError,
    ModelNotFoundError,
    UnsupportedError,
)
from llamacore.testing.vision import tiny_mmproj


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
