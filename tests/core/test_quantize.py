from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacore import gguf
from llamacore.core import log
from llamacore.core._native import lib
from llamacore.core.imatrix import load_imatrix
from llamacore.core.model import Model
from llamacore.core.quantize import Ftype, QuantizeParams, quantize
from llamacore.errors import (
    InvalidArgumentError,
    InvalidModelError,
    ModelNotFoundError,
    QuantizeError,
    UnsupportedError,
)
from llamacore.hub import demo_model_path
from llamacore.testing import tiny_model

N_LAYER = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random 32-bit weights whose rows fit every type."""
    return tiny_model(
        tmp_path_factory.mktemp("quantize") / "tiny.gguf", n_layer=N_LAYER, n_embd=256, n_head=4, n_ff=256, dtype="f32"
    )


@pytest.fixture(scope="module")
def weights(source: Path) -> dict[str, np.ndarray]:
    """An importance matrix for every tensor."""
    tensors = gguf.read(source).tensors.values()
    rng = np.random.default_rng(0)
    return {t.name: rng.uniform(0.5, 1.5, t.shape[0]).astype(np.float32) for t in tensors if len(t.shape) == 2}


# file types


def test_every_file_type_of_upstream_is_known() -> None:
    native = {
        int(getattr(lib, name))
        for name in dir(lib)
        if name.startswith("LLAMA_FTYPE_") and name != "LLAMA_FTYPE_GUESSED"
    }
    assert {item.value for item in Ftype} == native
    assert all(item.description and "unknown" not in item.description for item in Ftype)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Q4_K_M", Ftype.Q4_K_M),
        ("q4_k_m", Ftype.Q4_K_M),
        ("q4_k", Ftype.Q4_K_M),
        ("f16", Ftype.F16),
        (Ftype.Q8_0, Ftype.Q8_0),
    ],
)
def test_names_of_file_types(name: str | Ftype, kind: Ftype) -> None:
    assert Ftype.parse(name) is kind


@pytest.mark.parametrize("name", ["", "Q9", "MOSTLY_Q8_0", "7", None])
def test_names_that_are_no_file_type(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="Q4_K_M"):
        Ftype.parse(name)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if kind.name.startswith(("IQ1", "IQ2", "IQ3")) else [])
        for kind in Ftype
        if kind.quantizable
    ],
)
def test_every_file_type(source: Path, weights: dict[str, np.ndarray], tmp_path: Path, kind: Ftype) -> None:
    result = quantize(source, tmp_path / "out.gguf", kind, imatrix=weights, n_threads=2)
    assert result.outputs == (str(tmp_path / "out.gguf"),)
    assert sorted(os.listdir(tmp_path)) == ["out.gguf"]
    written = gguf.read(tmp_path / "out.gguf")
    assert written.metadata["general.file_type"] == kind.value
    assert {t.name: t.storage.name for t in written.tensors.values()} == {t.name: t.type_after for t in result.tensors}
    assert result.size_after == sum(t.nbytes for t in written.tensors.values())
    assert result.size_before == sum(t.nbytes for t in gguf.read(source).tensors.values())
    with Model.load(tmp_path / "out.gguf") as model:
        assert model.n_layer == N_LAYER


def test_file_type_that_cannot_be_made(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        quantize(source, tmp_path / "out.gguf", "nvfp4")


def test_accuracy(source: Path, tmp_path: Path) -> None:
    python = pytest.importorskip("gguf")
    quantize(source, tmp_path / "out.gguf", "q8_0")
    before = {t.name: np.array(t.data) for t in python.GGUFReader(source).tensors}
    for tensor in python.GGUFReader(tmp_path / "out.gguf").tensors:
        after = python.dequantize(tensor.data, tensor.tensor_type)
        assert np.abs(after - before[tensor.name]).max() <= np.abs(before[tensor.name]).max() / 127


# options


def test_default_output_name(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes(source.read_bytes())
    result = quantize(copy, ftype="Q5_1")
    assert result.outputs == (str(tmp_path / "model-q5_1.gguf"),)
    assert sorted(os.listdir(tmp_path)) == ["model-q5_1.gguf", "model.gguf"]


def test_dry_run_tells_what_a_run_does(source: Path, tmp_path: Path) -> None:
    plan = quantize(source, tmp_path / "out.gguf", "Q4_K_M", dry_run=True)
    assert plan.outputs == ()
    assert os.listdir(tmp_path) == []
    done = quantize(source, tmp_path / "out.gguf", "Q4_K_M")
    assert plan.tensors == done.tensors
    assert plan.bits_per_weight == done.bits_per_weight
    assert 4 < done.bits_per_weight < 9


def test_dry_run_warns_of_a_missing_importance_matrix(source: Path) -> None:
    assert quantize(source, ftype="IQ2_S", dry_run=True).requires_imatrix
    assert not quantize(source, ftype="Q4_0", dry_run=True).requires_imatrix


def test_types_of_tensors(source: Path, tmp_path: Path) -> None:
    result = quantize(
        source,
        tmp_path / "out.gguf",
        "Q4_0",
        output_tensor_type="q8_0",
        token_embedding_type="F16",
        tensor_types={r"blk\.0\.attn_q": "q6_K", "ffn_down": "bf16"},
        pure=True,
    )
    types = {tensor.name: tensor.type_after for tensor in result.tensors}
    assert types["token_embd.weight"] == "f16"
    assert types.get("output.weight", "q8_0") == "q8_0"
    assert types["blk.0.attn_q.weight"] == "q6_K"
    assert types["blk.1.attn_q.weight"] == "q4_0"
    assert types["blk.1.ffn_down.weight"] == "bf16"


def test_copy(source: Path, tmp_path: Path) -> None:
    result = quantize(source, tmp_path / "out.gguf", only_copy=True)
    assert result.ftype is None
    assert all(tensor.type_before == tensor.type_after for tensor in result.tensors)


def test_pruned_layers(source: Path, tmp_path: Path) -> None:
    result = quantize(source, tmp_path / "out.gguf", "Q8_0", prune_layers=[1, 2, 1])
    assert {t.name.split(".")[1] for t in result.tensors if t.name.startswith("blk.")} == {"0", "1"}
    with Model.load(tmp_path / "out.gguf") as model:
        assert model.n_layer == N_LAYER - 2


def test_pruned_layers_with_an_importance_matrix(source: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    wide = {name: values for name, values in weights.items() if "blk.0." not in name}
    refused(QuantizeError, "blk.0", source, tmp_path, ftype="Q2_K_S", imatrix=wide, prune_layers=[1])
    assert quantize(source, tmp_path / "out.gguf", "Q2_K_S", imatrix=wide, prune_layers=[0]).outputs


def test_metadata_overrides(source: Path, tmp_path: Path) -> None:
    quantize(
        source, tmp_path / "out.gguf", "Q8_0", kv_overrides={"general.name": "tiny", "a.b": 7, "a.c": True, "a.d": 0.5}
    )
    metadata = gguf.read(tmp_path / "out.gguf").metadata
    assert [metadata[key] for key in ("general.name", "a.b", "a.c", "a.d")] == ["tiny", 7, True, 0.5]


def test_importance_matrix_from_a_file(source: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    python = pytest.importorskip("gguf")
    writer = python.GGUFWriter(tmp_path / "imatrix.gguf", "imatrix")
    writer.add_array("imatrix.datasets", ["some.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in weights.items():
        writer.add_tensor(f"{name}.in_sum2", values[None, :] * 4)
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 4.0, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = load_imatrix(tmp_path / "imatrix.gguf")
    assert loaded.keys() == weights.keys()
    assert all(np.allclose(loaded[name], weights[name]) for name in weights)
    quantize(source, tmp_path / "a.gguf", "Q2_K_S", imatrix=weights)
    quantize(source, tmp_path / "b.gguf", "Q2_K_S", imatrix=tmp_path / "imatrix.gguf")
    a, b = gguf.read(tmp_path / "a.gguf"), gguf.read(tmp_path / "b.gguf")
    assert b.metadata["quantize.imatrix.file"] == str(tmp_path / "imatrix.gguf")[:127]
    assert b.metadata["quantize.imatrix.entries_count"] == len(weights)
    assert (tmp_path / "a.gguf").read_bytes()[a.data_offset :] == (tmp_path / "b.gguf").read_bytes()[b.data_offset :]


def test_split_models(source: Path, tmp_path: Path) -> None:
    split(source, tmp_path, 3)
    first = tmp_path / "part-00001-of-00003.gguf"
    together = quantize(first, ftype="Q8_0")
    assert together.outputs == (str(tmp_path / "part-q8_0.gguf"),)
    parts = quantize(first, tmp_path / "new.gguf", "Q8_0", keep_split=True)
    assert [os.path.basename(path) for path in parts.outputs] == [f"new-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert {t.name: t for t in parts.tensors} == {t.name: t for t in together.tensors}
    assert not [name for name in os.listdir(tmp_path) if ".part" in name]
    with Model.load(parts.outputs[0]) as model:
        assert model.n_layer == N_LAYER
    with pytest.raises(InvalidArgumentError, match="is the input"):
        quantize(first, tmp_path / "part", "Q8_0", keep_split=True)
    (tmp_path / "part-00002-of-00003.gguf").unlink()
    with pytest.raises(ModelNotFoundError, match="00002"):
        quantize(first, ftype="Q8_0")


def split(source: Path, folder: Path, count: int) -> None:
    """Write a model as several files."""
    python = pytest.importorskip("gguf")
    reader = python.GGUFReader(source)
    tensors = np.array_split(np.arange(len(reader.tensors)), count)
    for number, chosen in enumerate(tensors):
        writer = python.GGUFWriter(folder / f"part-{number + 1:05d}-of-{count:05d}.gguf", "llama")
        if number == 0:
            for key, value in reader.fields.items():
                if not key.startswith("GGUF.") and key != "general.architecture":
                    sub = value.types[-1] if len(value.types) > 1 else None
                    writer.add_key_value(key, value.contents(), value.types[0], sub)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for index in chosen:
            tensor = reader.tensors[index]
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def test_progress(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    result = quantize(source, tmp_path / "out.gguf", "Q8_0", progress=lambda *step: seen.append(step))
    assert [number for number, _, _ in seen] == list(range(1, len(result.tensors) + 1))
    assert {total for _, total, _ in seen} == {len(result.tensors)}
    assert [name for _, _, name in seen] == [tensor.name for tensor in result.tensors]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_progress_raises_is_raised_and_nothing_is_left(
    source: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    def stop(number: int, total: int, name: str) -> None:
        raise error

    with pytest.raises(error):
        quantize(source, tmp_path / "out.gguf", "Q8_0", progress=stop)
    assert os.listdir(tmp_path) == []


def test_params_and_options(source: Path, tmp_path: Path) -> None:
    params = QuantizeParams(dry_run=True, n_threads=1)
    assert quantize(source, tmp_path / "out.gguf", "Q8_0", params).outputs == ()
    assert quantize(source, tmp_path / "out.gguf", "Q8_0", params, dry_run=False).outputs
    with pytest.raises(InvalidArgumentError, match="n_threads"):
        quantize(source, tmp_path / "out.gguf", "Q8_0", n_thread=1)  # type: ignore[call-arg]


# what goes wrong


def refused(error: type[Exception], match: str, source: Path, tmp_path: Path, **options: Any) -> None:
    ftype = options.pop("ftype", "Q8_0")
    with pytest.raises(error, match=match):
        quantize(source, tmp_path / "out.gguf", ftype, **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ftype": None}, "file type"),
        ({"ftype": "Q4"}, "file type"),
        ({"n_threads": -1}, "n_threads"),
        ({"n_threads": 100_000}, "n_threads"),
        ({"max_buf_size": -1}, "max_buf_size"),
        ({"output_tensor_type": "q9"}, "q9"),
        ({"output_tensor_type": "i32"}, "i32"),
        ({"token_embedding_type": "q8_K"}, "q8_K"),
        ({"tensor_types": {"attn_q": "nothing"}}, "nothing"),
        ({"tensor_types": {"no_such_tensor": "q4_0"}}, "no tensor"),
        ({"tensor_types": {"(": "q4_0"}}, "parse"),
        ({"tensor_types": {"a" * 300: "q4_0"}}, "no tensor"),
        ({"tensor_types": {"attn_q": "q4_0"}, "ftype": "F16"}, "no effect"),
        ({"prune_layers": [-1]}, "prune_layers"),
        ({"prune_layers": [N_LAYER]}, "prune_layers"),
        ({"prune_layers": range(N_LAYER)}, "prune_layers"),
        ({"kv_overrides": {"a": -1}}, "unsigned"),
        ({"kv_overrides": {"a": 2**32}}, "unsigned"),
        ({"kv_overrides": {"a" * 128: 1}}, "bytes"),
        ({"imatrix": {"token_embd.weight": np.array([np.nan], dtype=np.float32)}}, "finite"),
        ({"imatrix": {"token_embd.weight": np.array([], dtype=np.float32)}}, "empty"),
    ],
)
def test_options_that_are_wrong(source: Path, tmp_path: Path, options: dict[str, Any], match: str) -> None:
    refused(InvalidArgumentError, match, source, tmp_path, **options)


def test_missing_importance_matrix(source: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    refused(QuantizeError, "importance matrix", source, tmp_path, ftype="IQ1_S")
    # llama.cpp asserts on these in a thread where nothing can be caught
    refused(QuantizeError, "token_embd", source, tmp_path, token_embedding_type="iq2_xxs", ftype="Q4_0")
    refused(QuantizeError, "token_embd|output", source, tmp_path, output_tensor_type="iq1_s", ftype="Q4_0")
    short = {**weights, "token_embd.weight": np.ones(3, dtype=np.float32)}
    refused(QuantizeError, "token_embd", source, tmp_path, token_embedding_type="iq2_xs", imatrix=short)
    wrong = {**weights, "blk.0.ffn_up.weight": np.ones(3, dtype=np.float32)}
    refused(QuantizeError, "imatrix size", source, tmp_path, ftype="Q4_0", imatrix=wrong)


def test_quantised_input(tmp_path: Path) -> None:
    refused(QuantizeError, "allow_requantize", demo_model_path(), tmp_path, ftype="Q4_0")
    assert quantize(demo_model_path(), tmp_path / "out.gguf", "Q4_0", allow_requantize=True).size_after < 3_000_000


def test_output_is_the_input(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    for output in (source, source.parent / "." / source.name, link):
        with pytest.raises(InvalidArgumentError, match="is the input"):
            quantize(source, output, "Q8_0")
    assert source.read_bytes() == before


def test_output_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="folder"):
        quantize(source, tmp_path / "none" / "out.gguf", "Q8_0")
    with pytest.raises(InvalidArgumentError, match="folder"):
        quantize(source, tmp_path, "Q8_0")
    with pytest.raises(InvalidArgumentError, match="NUL"):
        quantize(source, f"{tmp_path}/a\0b", "Q8_0")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_full_disk(source: Path, tmp_path: Path) -> None:
    (tmp_path / f"out.gguf.{os.getpid()}.{threading.get_ident()}.part").symlink_to("/dev/full")
    with pytest.raises(QuantizeError):
        quantize(source, tmp_path / "out.gguf", "Q8_0")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda data: b"", InvalidModelError),
        (lambda data: b"GGML" + data[4:], InvalidModelError),
        (lambda data: data[: len(data) // 2], InvalidModelError),
        (lambda data: data[:100], InvalidModelError),
    ],
)
def test_damaged_input(source: Path, tmp_path: Path, damage: Callable[[bytes], bytes], error: type[Exception]) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(source.read_bytes()))
    with pytest.raises(error):
        quantize(bad, tmp_path / "out.gguf", "Q8_0")
    assert os.listdir(tmp_path) == ["bad.gguf"]


def test_missing_input(tmp_path: Path) -> None:
    refused(ModelNotFoundError, "no", tmp_path / "none.gguf", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\xff" * 64, b"\x01\0\0\0\xff\xff\xff\xff", b"\x01\0\0\0\xff\xff\xff\x7f"]
)
def test_files_that_are_no_importance_matrix(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(content)
    with pytest.raises(QuantizeError):
        load_imatrix(path)


def test_importance_matrix_of_the_older_format(tmp_path: Path) -> None:
    values = np.array([2.0, 4.0], dtype="<f4")
    name = b"blk.0.attn_q.weight"
    head = np.array([1, len(name)], dtype="<i4").tobytes() + name
    (tmp_path / "imatrix.dat").write_bytes(head + np.array([2, 2], dtype="<i4").tobytes() + values.tobytes())
    assert {key: list(found) for key, found in load_imatrix(tmp_path / "imatrix.dat").items()} == {
        name.decode(): [1.0, 2.0]
    }


def test_model_files_are_no_importance_matrix(source: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError):
        load_imatrix(source)
    with pytest.raises(QuantizeError):
        load_imatrix(demo_model_path())
    with pytest.raises(ModelNotFoundError):
        load_imatrix(tmp_path / "none")


def test_a_log_level_that_drops_its_lines_does_not_matter(source: Path) -> None:
    log.set_level(logging.ERROR)
    try:
        assert quantize(source, ftype="Q8_0", dry_run=True).tensors
    finally:
        log.set_level(logging.INFO)
