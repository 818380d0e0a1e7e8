"""Layer outputs collected from many texts."""

from __future__ import annotations

import json

import numpy as np
import pytest

import llamacore as lc
from llamacore.core.tap import LayerTap
from llamacore.steering import Activations, capture_activations

TEXTS = [[10 + k * 7 % 300 for k in range(n)] for n in (5, 1, 700, 30, 31, 3)] + [[40 + i, 41, 42] for i in range(20)]


def one_by_one(model, layer):
    """The output of a layer for each text on its own."""
    tap = LayerTap([layer])
    with model.context(n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=1, capture=tap) as ctx:
        found = []
        for text in TEXTS:
            ctx.memory.clear()
            batch = lc.Batch(len(text))
            batch.add_tokens(text, outputs="all")
            ctx.decode(batch)
            found.append(tap.layer(layer))
        return found


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
@pytest.mark.parametrize("rows", ["last", "first", "mean", "all"])
def test_rows_are_those_of_each_text(tiny, arch, rows):
    """Many texts share decodes, a long one takes several; each row is as if its text were alone."""
    model = tiny(arch, n_layer=3, n_ctx_train=1024)
    found = capture_activations(model, TEXTS, [0, 2], rows=rows, n_threads=1)
    assert found.layers == (0, 2) and found.metadata["n_texts"] == len(TEXTS) and found.metadata["arch"] == arch
    if rows == "all":
        assert found.texts.tolist() == [i for i, text in enumerate(TEXTS) for _ in text]
        assert found.positions.tolist() == [pos for text in TEXTS for pos in range(len(text))]
        assert found.tokens.tolist() == [token for text in TEXTS for token in text]
    else:
        assert found.texts.tolist() == list(range(len(TEXTS)))
        assert found.tokens.tolist() == [text[0] if rows == "first" else text[-1] for text in TEXTS]
    pick = {"last": lambda v: v[-1:], "first": lambda v: v[:1], "mean": lambda v: v.mean(0)[None], "all": lambda v: v}
    for layer in (0, 2):
        wanted = np.concatenate([pick[rows](values) for values in one_by_one(model, layer)])
        assert found.values[layer].shape == wanted.shape
        assert np.linalg.norm(found.values[layer] - wanted) < 0.01 * np.linalg.norm(wanted)


def test_files_come_back(tiny, tmp_path):
    """What is written is read, and numpy alone reads it too."""
    found = capture_activations(tiny("llama", n_layer=3), ["Hello", "good day"], [1], n_threads=1)
    path = found.save(tmp_path / "a.npz")
    assert [path] == list(tmp_path.iterdir())
    back = Activations.load(path)
    np.testing.assert_array_equal(back.values[1], found.values[1])
    for name in ("texts", "positions", "tokens"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
    assert back.metadata == found.metadata
    with np.load(path) as file:
        assert set(file) == {"layer_1", "texts", "positions", "tokens", "metadata"}
        assert json.loads(str(file["metadata"]))["layers"] == [1]


def test_progress_and_cancelling(tiny):
    """Told after each group; False ends it."""
    seen = []
    model = tiny("llama", n_layer=3)
    capture_activations(model, TEXTS[3:], [0], n_threads=1, progress=lambda *state: seen.append(state))
    assert seen[-1] == (23, 23) and len(seen) > 1
    with pytest.raises(lc.AbortedError):
        capture_activations(model, TEXTS[3:], [0], n_threads=1, progress=lambda *_: False)


def test_wrong_arguments_are_named(tiny, tmp_path):
    """No texts, no tokens, no layers, unknown ones, an encoder; files that are none."""
    model = tiny("llama", n_layer=3)
    for texts, layers in (
        ([], [0]),
        ([[]], [0]),
        (["a"], []),
        ([[-1]], [0]),
        ([5], [0]),
        ([["a"]], [0]),
        (["a"], [-1]),
    ):
        with pytest.raises(lc.InvalidArgumentError):
            capture_activations(model, texts, layers)
    with pytest.raises(lc.InvalidArgumentError):
        capture_activations(model, ["a"], [0], rows="some")
    with pytest.raises(lc.OutOfRangeError):
        capture_activations(model, ["a"], [3])
    with pytest.raises(lc.UnsupportedError):
        capture_activations(tiny("bert"), ["a"], [0])
    sound = capture_activations(model, ["a"], [0], n_threads=1).save(tmp_path / "a.npz").read_bytes()
    for content in (b"", b"nonsense", sound[: len(sound) // 2], sound[:300] + b"?" + sound[301:]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(lc.InvalidArgumentError, match="no activations"):
            Activations.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(lc.InvalidArgumentError):
        Activations.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        Activations.load(tmp_path / "none.npz")
