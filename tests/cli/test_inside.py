"""`llamacore capture` and `llamacore steer` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from llamacore.core.control_vector import ControlVector
from llamacore.steering import Activations

HAPPY = [f"It was a happy day, and {name} laughed and danced and sang for joy." for name in "ABCDEFGH"]
SAD = [f"It was a sad day, and {name} wept and sat alone in the dark and cried." for name in "ABCDEFGH"]


def run(*args, stdin=""):
    """Run the command and return (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "llamacore.cli.app", *map(str, args)]
    done = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two files of texts and the vector between them."""
    path = tmp_path_factory.mktemp("steer")
    (path / "happy.txt").write_text("\n".join(HAPPY) + "\n\n")
    (path / "sad.txt").write_text("\n".join(SAD))
    code, out, err = run(
        "steer", "train", "--positive", path / "happy.txt", "--negative", path / "sad.txt", "-o", path / "v.gguf",
        "--json", "-q", "-t", 1,
    )  # fmt: skip
    assert (code, err) == (0, "")
    (path / "report.json").write_text(out)
    return path


def test_capture_writes_arrays_and_what_they_are(tmp_path):
    """Texts of the command line and of a file, chosen layers, with metadata; one line says what was written."""
    (tmp_path / "texts.txt").write_text("a\\nb\n\nthird text")
    code, out, err = run(
        "capture", "first", "-f", tmp_path / "texts.txt", "--layers", "1,3-4", "--rows", "all", "-t", 1,
        "-o", tmp_path / "a.npz",
    )  # fmt: skip
    assert code == 0 and out == "" and "layers 1, 3, 4 of 3 texts" in err.splitlines()[-1]
    found = Activations.load(tmp_path / "a.npz")
    assert found.layers == (1, 3, 4) and set(found.texts.tolist()) == {0, 1, 2}
    assert found.metadata["rows"] == "all" and found.metadata["arch"] == "qwen35"
    code, out, err = run("capture", "x", "--layers", "5", "-t", 1, "-o", tmp_path / "b.npz", "--json", "-q")
    report = json.loads(out)
    assert (code, err) == (0, "") and report["layers"] == [5] and report["rows"] == 1
    assert Activations.load(tmp_path / "b.npz").values[5].shape == (1, report["n_embd"])


def test_train_reports_quality_and_show_says_what_is_there(folder):
    """Held-out accuracy of each layer; the file is what was reported."""
    report = json.loads((folder / "report.json").read_text())
    assert report["layers"] == [1, 2, 3, 4] and report["n_positive"] == report["n_negative"] == 6
    assert report["quality"][str(report["best_layer"])]["pair_accuracy"] == 1.0
    code, out, err = run("steer", "show", folder / "v.gguf", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, "") and shown["layers"] == report["layers"] and shown["model_hint"] == "qwen35"
    np.testing.assert_allclose(shown["norms"], report["norms"])
    code, out, _ = run("steer", "show", folder / "v.gguf")
    assert code == 0 and "4 layers" in out and "qwen35" in out


def test_apply_steers_and_zero_does_not(folder):
    """A scale of 0 is the plain text, both ways with it and without a layer range; another scale is another text."""
    vector = folder / "v.gguf"
    common = ("Once upon a time", "--raw", "--temp", 0, "-n", 24, "-q", "-t", 1)
    code, plain, err = run("generate", *common)
    assert (code, err) == (0, "")
    assert run("steer", "apply", *common, "--control-vector-scaled", f"{vector}:0") == (0, plain, "")
    steered = run("steer", "apply", *common, "--control-vector-scaled", f"{vector}:3")
    assert steered[0] == 0 and steered[1] != plain
    part = ("--control-vector-layer-range", 2, 2)
    assert run("steer", "apply", *common, "--control-vector-scaled", f"{vector}:3", *part)[1] != steered[1]
    total = ControlVector.load(vector) * 3
    total.save(folder / "three.gguf")
    assert run("steer", "apply", *common, "--control-vector", folder / "three.gguf") == steered


@pytest.mark.parametrize(
    "arguments",
    [
        ("capture",), ("capture", "x", "--layers", "9"), ("capture", "x", "--layers", "a"),
        ("capture", "x", "--layers", "3-1"), ("capture", "x", "--rows", "some"), ("capture", "-f", "none.txt"),
        ("capture", "x", "-o", "no/such/folder.npz"), ("capture", "x", "-m", "none.gguf"),
        ("steer", "train", "--positive", "none.txt", "--negative", "none.txt"),
        ("steer", "apply", "x"), ("steer", "apply", "x", "--control-vector", "none.gguf"),
        ("steer", "apply", "x", "--control-vector-scaled", "none.gguf"), ("steer", "show", "none.gguf"),
        ("steer", "apply", "x", "--control-vector-scaled", "V:1", "--control-vector-layer-range", "5", "9"),
        ("steer", "apply", "x", "--control-vector-scaled", "V:nan"), ("steer", "show", "T"),
        ("steer", "train", "--positive", "T", "--negative", "T", "--layers", "0"),
        ("steer", "train", "--positive", "T", "--negative", "T", "--method", "x"),
        ("steer", "train", "--positive", "T", "--negative", "T", "--held-out", "1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder, tmp_path, monkeypatch, arguments):
    """One line on stderr, exit code 1, and no file."""
    monkeypatch.chdir(tmp_path)
    places = {"V:1": f"{folder}/v.gguf:1", "V:nan": f"{folder}/v.gguf:nan", "T": folder / "happy.txt"}
    code, out, err = run(*(places.get(item, item) for item in arguments), *(() if "show" in arguments else ("-q",)))
    assert code == 1 and out == ""
    assert err.startswith("llamacore: ") and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
