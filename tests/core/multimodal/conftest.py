"""Three text models with projectors, random weights: one for each way of decoding an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from media import Pair

from llamacore.core.model import Model
from llamacore.core.multimodal import MultimodalContext
from llamacore.testing import tiny_model
from llamacore.testing.vision import tiny_mmproj


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("multimodal")


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
