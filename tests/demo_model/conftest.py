"""What the tests of the bundled demo model share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import llamacore as lc

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

Logits = Callable[[lc.Model, list[int]], NDArray[np.float32]]


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, on one thread: the operations are tiny, and waiting for a second one costs more than it gives."""
    module = pytest.importorskip("torch", reason="needs pip install '.[train]'")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def demo_path() -> Path:
    """The bundled Q8_0 file."""
    return ROOT / "llamacore" / "data" / "llamacore-demo-q8_0.gguf"


@pytest.fixture(scope="session")
def demo(demo_path: Path) -> Iterator[lc.Model]:
    """The bundled model, loaded."""
    with lc.Model.load(demo_path) as model:
        yield model


@pytest.fixture(scope="session")
def f32_model(demo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[lc.Model]:
    """The bundled model with its weights dequantised, so that llama.cpp rounds no activations to 8 bits."""
    path = tmp_path_factory.mktemp("demo") / "llamacore-demo-f32.gguf"
    dequantize(demo_path, path)
    with lc.Model.load(path) as model:
        yield model


@pytest.fixture(scope="session")
def native_logits() -> Logits:
    """A function that runs token ids through llama.cpp and returns the logits of all, float32 `[n, n_vocab]`."""

    def run(model: lc.Model, tokens: list[int]) -> NDArray[np.float32]:
        size = len(tokens)
        with model.context(
            n_ctx=size, n_batch=size, n_ubatch=size, n_threads=1, type_k="f32", type_v="f32", flash_attn="disabled"
        ) as context:
            batch = lc.Batch(n_tokens=size)
            batch.add_tokens(tokens, outputs="all")
            context.decode(batch)
            return np.stack([context.logits(row) for row in range(size)])

    return run


def dequantize(source: Path, target: Path) -> None:
    """Copies a GGUF file with every tensor as F32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        item: Any = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=item)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def distance(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Norm of the difference over the norm of the second."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
