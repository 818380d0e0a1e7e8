from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacore.core.adapters import LoraAdapter, apply_control_vector, apply_lora
from llamacore.core.batch import Batch
from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.errors import (
    AdapterError,
    BusyError,
    ClosedError,
    InvalidArgumentError,
    InvalidModelError,
    ModelNotFoundError,
)
from llamacore.testing import tiny_lora, tiny_model

N_LAYER, N_EMBD = 3, 64


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("adapters") / "tiny.gguf", n_layer=N_LAYER, n_embd=N_EMBD)


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    with Model.load(model_path) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def lora_path(model_path: Path) -> Path:
    return tiny_lora(model_path.with_name("lora.gguf"), model_path, seed=1)


@pytest.fixture
def lora(model: Model, lora_path: Path) -> Iterator[LoraAdapter]:
    with LoraAdapter.load(model, lora_path) as adapter:
        yield adapter


@pytest.fixture
def ctx(model: Model) -> Iterator[Context]:
    with model.context(n_ctx=64, n_threads=1) as context:
        yield context


def logits(ctx: Context) -> np.ndarray:
    """Logits after a few tokens, from an empty memory."""
    ctx.memory.clear()
    batch = Batch(8)
    for position, token in enumerate((5, 9, 14)):
        batch.add(token, pos=position, seq_ids=(0,), output=position == 2)
    ctx.decode(batch)
    return ctx.logits(-1)


# loading


def test_what_an_adapter_says(model: Model, lora: LoraAdapter, lora_path: Path) -> None:
    assert lora.model is model
    assert lora.path == str(lora_path)
    assert lora.metadata["adapter.type"] == "lora"
    assert lora.metadata["general.architecture"] == "llama"
    assert lora.alora_invocation_tokens == []
    assert "lora.gguf" in repr(lora)


def write_lora(path: Path, change: Callable[[Any, dict[str, np.ndarray]], None] | None = None, **keys: Any) -> Path:
    """Write an adapter of rank 2 for blk.0.attn_q; `change` may alter its tensors and add keys."""
    python = pytest.importorskip("gguf")
    metadata = {"general.type": "adapter", "adapter.type": "lora", **keys}
    writer = python.GGUFWriter(path, metadata.pop("general.architecture", "llama"))
    for key, value in metadata.items():
        writer.add_string(key, value)
    rng = np.random.default_rng(0)
    tensors = {
        "blk.0.attn_q.weight.lora_a": rng.normal(size=(2, N_EMBD)).astype(np.float32),
        "blk.0.attn_q.weight.lora_b": rng.normal(size=(N_EMBD, 2)).astype(np.float32),
    }
    if change is not None:
        change(writer, tensors)
    if not metadata.get("no_alpha"):
        writer.add_float32("adapter.lora.alpha", 2.0)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_invocation_tokens(model: Model, tmp_path: Path) -> None:
    path = write_lora(
        tmp_path / "alora.gguf",
        lambda writer, _: writer.add_key_value(
            "adapter.alora.invocation_tokens", [3, 5, 8], value_type("ARRAY"), value_type("UINT32")
        ),
    )
    assert LoraAdapter.load(model, path).alora_invocation_tokens == [3, 5, 8]


def value_type(name: str) -> Any:
    return pytest.importorskip("gguf").GGUFValueType[name]


A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


def shape(name: str, *dims: int) -> Callable[[Any, dict[str, np.ndarray]], None]:
    return lambda _, tensors: tensors.update({name: np.zeros(dims, dtype=np.float32)})


def rename(old: str, new: str) -> Callable[[Any, dict[str, np.ndarray]], None]:
    return lambda _, tensors: tensors.update({new: tensors.pop(old)})


@pytest.mark.parametrize(
    ("keys", "change", "why"),
    [
        ({"general.type": "model"}, None, "general.type"),
        ({"adapter.type": "other"}, None, "adapter.type"),
        ({"general.architecture": "gemma3"}, None, "architecture"),
        ({}, shape(A, 2, N_EMBD + 1), "shape"),
        ({}, shape(B, N_EMBD + 1, 2), "shape"),
        ({}, shape(A, 3, N_EMBD), "shapes"),
        ({}, shape(A, 4, 2, N_EMBD), "shape"),
        ({}, lambda _, tensors: tensors.pop(B), "missing"),
        ({}, lambda _, tensors: tensors.pop(A), "no tensors"),
        ({}, lambda _, tensors: tensors.clear(), "no tensors"),
        ({}, lambda _, tensors: tensors.update({A: tensors[A].astype(np.float64)}), "f64"),
        ({}, lambda _, tensors: tensors.update({B: tensors[B].astype(np.int32)}), "i32"),
        ({}, lambda _, tensors: tensors.update({"blk.0.other": tensors[A]}), "suffix"),
        ({}, lambda _, t: t.update({k.replace("blk.0", "blk.9"): t.pop(k) for k in (A, B)}), "base model"),
    ],
)
def test_files_that_do_not_fit(
    model: Model, tmp_path: Path, keys: dict[str, Any], change: Callable[[Any, dict[str, np.ndarray]], None], why: str
) -> None:
    path = write_lora(tmp_path / "bad.gguf", change, **keys)
    with pytest.raises(AdapterError, match=why):
        LoraAdapter.load(model, path)


def test_embedding_adapters_with_ranks_that_differ(model: Model, tmp_path: Path) -> None:
    # upstream loads these, and asserts in the next decode
    def change(_: Any, tensors: dict[str, np.ndarray]) -> None:
        tensors.clear()
        tensors["token_embd.weight.lora_a"] = np.zeros((model.n_vocab, 2), dtype=np.float32)
        tensors["token_embd.weight.lora_b"] = np.zeros((N_EMBD, 3), dtype=np.float32)

    with pytest.raises(AdapterError, match="shapes"):
        LoraAdapter.load(model, write_lora(tmp_path / "bad.gguf", change))


def test_embedding_adapter(model: Model, ctx: Context, tmp_path: Path) -> None:
    def change(_: Any, tensors: dict[str, np.ndarray]) -> None:
        tensors.clear()
        tensors["token_embd.weight.lora_a"] = np.ones((model.n_vocab, 2), dtype=np.float32)
        tensors["token_embd.weight.lora_b"] = np.random.default_rng(0).normal(size=(N_EMBD, 2)).astype(np.float32)

    base = logits(ctx)
    with LoraAdapter.load(model, write_lora(tmp_path / "embd.gguf", change)) as adapter:
        ctx.set_lora({adapter: 1.0})
        assert not np.allclose(logits(ctx), base)
        ctx.set_lora({})


def test_metadata_of_the_wrong_type(model: Model, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "bad.gguf", lambda w, _: w.add_uint32("adapter.lora.alpha", 3), no_alpha="yes")
    with pytest.raises(InvalidModelError, match="alpha"):
        LoraAdapter.load(model, path)
    path = write_lora(tmp_path / "bad2.gguf", lambda w, _: w.add_array("adapter.alora.invocation_tokens", ["a", "b"]))
    with pytest.raises(AdapterError):
        LoraAdapter.load(model, path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, ModelNotFoundError),
        (b"", InvalidModelError),
        (b"GGUF", InvalidModelError),
        (b"x" * 99, InvalidModelError),
    ],
)
def test_files_that_are_no_gguf(model: Model, tmp_path: Path, content: bytes | None, error: type[Exception]) -> None:
    path = tmp_path / "lora.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        LoraAdapter.load(model, path)


def test_truncated_file(model: Model, lora_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(lora_path.read_bytes()[:-100])
    with pytest.raises((InvalidModelError, AdapterError)):
        LoraAdapter.load(model, path)


def test_models_without_weights(model_path: Path, lora_path: Path) -> None:
    with Model.load(model_path, vocab_only=True) as model, pytest.raises(AdapterError, match="weights"):
        LoraAdapter.load(model, lora_path)


def test_model_that_is_closed(model_path: Path, lora_path: Path) -> None:
    model = Model.load(model_path)
    model.close()
    with pytest.raises(ClosedError):
        LoraAdapter.load(model, lora_path)


# use


def test_an_adapter_changes_what_the_model_says(ctx: Context, lora: LoraAdapter) -> None:
    base = logits(ctx)
    ctx.set_lora({lora: 1.0})
    changed = logits(ctx)
    assert not np.allclose(changed, base)
    ctx.set_lora({lora: 0.0})
    assert np.allclose(logits(ctx), base)
    ctx.set_lora({lora: 1.0})
    assert np.allclose(logits(ctx), changed)
    ctx.set_lora({})
    assert np.allclose(logits(ctx), base)


def test_the_change_is_the_product_of_its_matrices(model_path: Path, lora_path: Path, tmp_path: Path) -> None:
    python = pytest.importorskip("gguf")
    delta = {t.name: np.array(t.data) for t in python.GGUFReader(lora_path).tensors}
    reader = python.GGUFReader(model_path)
    writer = python.GGUFWriter(tmp_path / "merged.gguf", "llama")
    for key, value in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(
                key, value.contents(), value.types[0], value.types[-1] if len(value.types) > 1 else None
            )
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        if f"{tensor.name}.lora_a" in delta:
            a, b = delta[f"{tensor.name}.lora_a"], delta[f"{tensor.name}.lora_b"]
            data = data + 0.5 * (8.0 / len(a)) * (b @ a)
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Model.load(tmp_path / "merged.gguf") as merged, merged.context(n_ctx=64, n_threads=1) as ctx:
        expected = logits(ctx)
    with Model.load(model_path) as model, model.context(n_ctx=64, n_threads=1) as ctx:
        ctx.set_lora({LoraAdapter.load(model, lora_path): 0.5})
        assert np.allclose(logits(ctx), expected, atol=1e-3 * np.abs(expected).max())


def test_two_adapters(ctx: Context, lora: LoraAdapter, model_path: Path) -> None:
    other = LoraAdapter.load(ctx.model, tiny_lora(model_path.with_name("other.gguf"), model_path, seed=2))
    ctx.set_lora({lora: 1.0})
    one = logits(ctx)
    ctx.set_lora({lora: 1.0, other: 0.5})
    assert not np.allclose(logits(ctx), one)
    with pytest.raises(BusyError):
        other.close()
    ctx.set_lora({lora: 1.0})
    other.close()
    assert np.allclose(logits(ctx), one)
    ctx.set_lora({})


def test_adapter_in_use_cannot_be_closed(model: Model, lora_path: Path) -> None:
    adapter = LoraAdapter.load(model, lora_path)
    with model.context(n_ctx=32, n_threads=1) as one, model.context(n_ctx=32, n_threads=1) as two:
        one.set_lora({adapter: 1.0})
        two.set_lora({adapter: 0.5})
        with pytest.raises(BusyError):
            adapter.close()
        one.set_lora({})
        with pytest.raises(BusyError):
            adapter.close()
        logits(two)
    adapter.close()
    adapter.close()
    assert adapter.closed


def test_a_context_keeps_its_adapters(model: Model, lora_path: Path) -> None:
    adapter = LoraAdapter.load(model, lora_path)
    gone = weakref.ref(adapter)
    with model.context(n_ctx=64, n_threads=1) as ctx:
        base = logits(ctx)
        ctx.set_lora({adapter: 1.0})
        del adapter
        gc.collect()
        assert gone() is not None
        assert not np.allclose(logits(ctx), base)
        ctx.set_lora({})
        gc.collect()
        assert gone() is None
        assert np.allclose(logits(ctx), base)


def test_closing_the_model_closes_all(model_path: Path, lora_path: Path) -> None:
    model = Model.load(model_path)
    adapter = LoraAdapter.load(model, lora_path)
    ctx = model.context(n_ctx=32, n_threads=1)
    ctx.set_lora({adapter: 1.0})
    model.close()
    assert (ctx.closed, adapter.closed) == (True, True)
    with pytest.raises(ClosedError):
        ctx.set_lora({})


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "1", None])
def test_scales_that_are_no_numbers(ctx: Context, lora: LoraAdapter, scale: Any) -> None:
    if scale == "1":
        ctx.set_lora({lora: scale})  # what float() takes is a number
        ctx.set_lora({})
        return
    with pytest.raises(InvalidArgumentError):
        ctx.set_lora({lora: scale})


def test_adapters_that_are_none(ctx: Context, lora: LoraAdapter, model_path: Path, lora_path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        ctx.set_lora({"lora.gguf": 1.0})  # type: ignore[dict-item]
    closed = LoraAdapter.load(ctx.model, lora_path)
    closed.close()
    ctx.set_lora({lora: 1.0})
    before = logits(ctx)
    with pytest.raises(ClosedError):
        ctx.set_lora({lora: 0.5, closed: 1.0})
    with Model.load(model_path) as other, pytest.raises(AdapterError, match="another model"):
        ctx.set_lora({LoraAdapter.load(other, lora_path): 1.0})
    assert np.allclose(logits(ctx), before)
    ctx.set_lora({})


def test_context_in_use(model: Model, ctx: Context, lora: LoraAdapter, lora_path: Path) -> None:
    errors: list[BaseException] = []

    def use() -> None:
        for call in (
            lambda: LoraAdapter.load(model, lora_path),
            lambda: apply_lora(ctx, {lora: 1.0}),
            lambda: apply_control_vector(ctx, None),
        ):
            try:
                call()
            except BaseException as exc:
                errors.append(exc)

    ctx._enter()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    lora.close()  # not waited for: the model frees it
    ctx._exit()
    assert [type(exc) for exc in errors] == [BusyError] * 3
    assert np.isfinite(logits(ctx)).all()


# control vectors


def test_a_control_vector_is_added_to_the_layers(ctx: Context) -> None:
    base = logits(ctx)
    direction = np.random.default_rng(0).normal(size=(N_LAYER - 1, N_EMBD)).astype(np.float32)
    ctx.set_control_vector(direction)
    both = logits(ctx)
    assert not np.allclose(both, base)
    ctx.set_control_vector(direction * [[1], [0]])
    first = logits(ctx)
    assert not np.allclose(first, both)
    ctx.set_control_vector(direction, layer_start=1, layer_end=1)
    assert np.allclose(logits(ctx), first)
    ctx.set_control_vector(direction[:1])  # nothing of the earlier one stays behind
    assert np.allclose(logits(ctx), first)
    ctx.set_control_vector(direction / 2, scale=2.0)
    assert np.allclose(logits(ctx), both)
    ctx.set_control_vector(direction, scale=0)
    assert np.allclose(logits(ctx), base)
    ctx.set_control_vector(np.zeros((1, N_EMBD)))
    assert np.allclose(logits(ctx), base)
    ctx.set_control_vector(direction)
    ctx.set_control_vector(None)
    assert np.allclose(logits(ctx), base)


def test_data_is_copied(ctx: Context) -> None:
    direction = np.ones((N_LAYER - 1, N_EMBD), dtype=np.float32)
    ctx.set_control_vector(direction)
    before = logits(ctx)
    direction[:] = 5
    del direction
    assert np.allclose(logits(ctx), before)
    ctx.set_control_vector(np.asfortranarray(np.ones((N_LAYER - 1, N_EMBD), dtype=np.float64)))
    assert np.allclose(logits(ctx), before)


@pytest.mark.parametrize(
    ("data", "first", "last", "error"),
    [
        (np.ones(N_EMBD), 1, -1, AdapterError),
        (np.ones((1, N_EMBD + 1)), 1, -1, AdapterError),
        (np.ones((0, N_EMBD)), 1, -1, AdapterError),
        (np.ones((N_LAYER, N_EMBD)), 1, -1, AdapterError),
        (np.ones((1, N_EMBD)), 0, -1, InvalidArgumentError),
        (np.ones((1, N_EMBD)), 1, N_LAYER, AdapterError),
        (np.ones((1, N_EMBD)), 2, 1, AdapterError),
        (np.ones((1, N_EMBD)), 1, -2, InvalidArgumentError),
        (np.ones((1, N_EMBD)), 1.5, -1, InvalidArgumentError),
        (np.full((1, N_EMBD), np.nan), 1, -1, InvalidArgumentError),
        ("up", 1, -1, InvalidArgumentError),
        ([[1.0], [2.0, 3.0]], 1, -1, InvalidArgumentError),
    ],
)
def test_control_vectors_that_do_not_fit(
    ctx: Context, data: Any, first: Any, last: Any, error: type[Exception]
) -> None:
    base = logits(ctx)
    with pytest.raises(error):
        ctx.set_control_vector(data, first, last)
    assert np.allclose(logits(ctx), base)


def test_closed_context(model: Model) -> None:
    ctx = model.context(n_ctx=32, n_threads=1)
    ctx.close()
    with pytest.raises(ClosedError):
        ctx.set_control_vector(np.ones((1, N_EMBD)))


def test_model_of_one_layer(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "one.gguf", n_layer=1)
    with Model.load(path) as model, model.context(n_ctx=32, n_threads=1) as ctx:
        with pytest.raises(AdapterError, match="one layer"):
            ctx.set_control_vector(np.ones((1, 64)))
        ctx.set_control_vector(None)
