"""Control vectors: arithmetic, files, and what is refused."""

from __future__ import annotations

import contextlib
import struct

import gguf
import numpy as np
import pytest

import llamacore as lc
from llamacore.core.control_vector import ControlVector, mix

RNG = np.random.default_rng(0)
ONE = ControlVector({3: RNG.normal(size=33), 1: RNG.normal(size=33)}, "llama")
TWO = ControlVector({3: RNG.normal(size=33), 7: RNG.normal(size=33)}, "llama")


def same(one: ControlVector, two: ControlVector) -> bool:
    return one.layers == two.layers and all(np.array_equal(one.directions[k], two.directions[k]) for k in one.layers)


def write(path, tensors, arch="controlvector"):
    """A file of upstream's own writer."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", len(tensors))
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_sums_and_multiples():
    """Directions are added layer by layer; what only one has stays; scales multiply."""
    total = ONE * 2 + 0.5 * TWO
    assert total.layers == (1, 3, 7) and total.n_embd == 33 and total.model_hint == "llama"
    np.testing.assert_allclose(total.directions[3], ONE.directions[3] * 2 + TWO.directions[3] / 2, rtol=1e-6)
    np.testing.assert_array_equal(total.directions[7], TWO.directions[7] / 2)
    assert not (ONE - ONE).directions[1].any()
    assert np.isclose((-ONE).delta_norm, np.sqrt(sum((v.astype(float) ** 2).sum() for v in ONE.directions.values())))
    assert (ONE + ControlVector({1: np.ones(33)}, "mamba")).model_hint == ""
    assert mix({ONE: 1, TWO: 0})[3].tolist() == ONE.directions[3].tolist() and mix([]) == {}
    assert list(mix([(ONE, 1), (ONE, -1), (TWO, 2)])) == [3, 7]


def test_a_vector_is_a_value_that_nobody_changes():
    """The numbers are copied and locked; each vector is a key of its own."""
    numbers = np.ones(4)
    vector = ControlVector({2: numbers})
    numbers[:] = 5
    assert vector.directions[2].tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        vector.directions[2][0] = 3
    with pytest.raises(TypeError):
        vector.directions[3] = numbers
    assert len({vector: 1.0, ControlVector({2: np.ones(4)}): 2.0}) == 2


def test_a_part_and_an_array():
    """for_layers cuts, to_array is what Context.set_control_vector takes, from_array is its inverse."""
    assert TWO.for_layers(4).layers == (7,) and TWO.for_layers(0, 6).layers == (3,)
    rows = TWO.to_array(9)
    assert rows.shape == (8, 33) and rows.dtype == np.float32 and not rows[3].any()
    assert same(ControlVector.from_array(rows), TWO)
    for call in (lambda: TWO.for_layers(8), lambda: TWO.for_layers(3, 2)):
        with pytest.raises(lc.InvalidArgumentError, match="no direction"):
            call()
    with pytest.raises(lc.AdapterError, match="7 layers"):
        TWO.to_array(7)


def test_files_come_back(tmp_path):
    """What is saved is loaded, and the gguf package of upstream reads the same."""
    path = ONE.save(tmp_path / "one.gguf")
    back = ControlVector.load(path)
    assert same(back, ONE) and back.model_hint == "llama"
    assert [path] == list(tmp_path.iterdir())
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.layer_count").contents() == 2
    assert {t.name: t.data.tolist() for t in reader.tensors} == {
        f"direction.{layer}": ONE.directions[layer].tolist() for layer in (1, 3)
    }
    TWO.save(path)
    assert same(ControlVector.load(path), TWO)


def test_files_of_upstreams_writer_are_read(tmp_path):
    """Several tensors of one layer are added up, as upstream does."""
    row = np.arange(8, dtype=np.float32)
    path = write(tmp_path / "v.gguf", {"direction.2": row, "direction.2.more": row, "direction.11": row})
    assert {k: v.tolist() for k, v in ControlVector.load(path).directions.items()} == {
        2: (row * 2).tolist(), 11: row.tolist()
    }  # fmt: skip


def test_a_context_takes_it_whole(tiny):
    """set_control_vector with a vector is the same as with its array."""
    model = tiny("llama", n_layer=4)
    vector = ControlVector({2: np.linspace(-2, 2, model.n_embd)})
    found = []
    for data in (vector, vector.to_array(4), None):
        with model.context(n_ctx=64, n_threads=1) as ctx:
            ctx.set_control_vector(data)
            batch = lc.Batch(8)
            batch.add_tokens(range(5, 13))
            ctx.decode(batch)
            found.append(ctx.logits())
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.01
    with model.context(n_ctx=64) as ctx, pytest.raises(lc.AdapterError):
        ctx.set_control_vector(ControlVector({4: np.ones(model.n_embd)}))


def test_wrong_numbers_are_refused():
    """Each with what is wrong."""
    for wrong in (
        {}, None, [1], {0: np.ones(3)}, {-1: np.ones(3)}, {"a": np.ones(3)}, {1: np.ones((2, 3))}, {1: []}, {1: "x"},
        {1: [np.nan]}, {1: [np.inf, 1]}, {1: [1e300]}, {1: [1, 2], 2: [1]}, {1: None},
    ):  # fmt: skip
        with pytest.raises(lc.InvalidArgumentError), np.errstate(over="ignore"):
            ControlVector(wrong)
    for factor in (float("nan"), float("inf"), "x", None):
        with pytest.raises(lc.InvalidArgumentError):
            _ = ONE * factor
    with pytest.raises(lc.InvalidArgumentError):
        _ = (ONE * 1e38) * 1e38
    with pytest.raises(lc.AdapterError, match="33 and 2"):
        _ = ONE + ControlVector({1: [1, 2]})
    for wrong in (ONE, 3, {ONE: None}, {"x": 1}, [(ONE,)], "ab"):
        with pytest.raises(lc.InvalidArgumentError):
            mix(wrong)
    with pytest.raises(TypeError):
        _ = ONE + 1


def test_wrong_files_are_refused(tmp_path, demo_path):
    """No such file, a model, other names, other types and shapes, garbage, every way to cut a file short."""
    row = np.ones(8, dtype=np.float32)
    with pytest.raises(lc.ModelNotFoundError):
        ControlVector.load(tmp_path / "none.gguf")
    with pytest.raises(lc.AdapterError, match="no control vector"):
        ControlVector.load(demo_path)
    for tensors in (
        {}, {"direction.0": row}, {"direction.x": row}, {"other.1": row}, {"direction.1": row.astype(np.float16)},
        {"direction.1": np.ones((2, 4), np.float32)}, {"direction.1": row, "direction.2": row[:4]},
        {"direction.999999": row},
    ):  # fmt: skip
        with pytest.raises(lc.AdapterError, match="no control vector"):
            ControlVector.load(write(tmp_path / "v.gguf", tensors))
    with pytest.raises(lc.InvalidModelError):
        ControlVector.load(write(tmp_path / "v.gguf", {"direction.1": row * np.nan}))
    sound = ONE.save(tmp_path / "one.gguf").read_bytes()
    for size in (0, 3, 10, 60, 150, 200, len(sound) - 40):
        (tmp_path / "cut.gguf").write_bytes(sound[:size])
        with pytest.raises(lc.ModelLoadError):
            ControlVector.load(tmp_path / "cut.gguf")
    for seed in range(200):
        damaged = bytearray(sound)
        rng = np.random.default_rng(seed)
        for place in rng.integers(4, 250, 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "bad.gguf").write_bytes(damaged)
        with contextlib.suppress(lc.LlamaCoreError):
            ControlVector.load(tmp_path / "bad.gguf")
    with pytest.raises(OSError):
        ONE.save(tmp_path / "no" / "such" / "folder.gguf")
    struct.pack_into("<f", (whole := bytearray(sound)), len(sound) - 160, float("inf"))
    (tmp_path / "inf.gguf").write_bytes(whole)
    with pytest.raises(lc.InvalidModelError):
        ControlVector.load(tmp_path / "inf.gguf")
