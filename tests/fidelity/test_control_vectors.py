"""Control vectors are read by upstream's tools, and theirs by us."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from upstream_tools import BuildError, Libraries, compile_program, upstream_source

import llamacore as lc
import llamacore_sys
from llamacore.core.control_vector import ControlVector

LIBRARIES = Libraries(Path(llamacore_sys.lib_dir), llamacore_sys.UPSTREAM.commit)
PAIRS = {"positive": ["Mood: happy\\nOnce", "Mood: happy\\nOne"], "negative": ["Mood: sad\\nOnce", "Mood: sad\\nOne"]}


def compiled(name: str, source: Path) -> Path:
    try:
        return compile_program(name, [source], LIBRARIES, options=["-O1"])
    except BuildError as error:
        pytest.skip(str(error))


def test_upstream_reads_what_we_save(tmp_path: Path):
    """Upstream's loader gets the numbers that were saved, of one file and of two with scales."""
    program = compiled("control-vectors", Path(__file__).parent / "control_vectors.cpp")
    rng = np.random.default_rng(0)
    vectors = [ControlVector({layer: rng.normal(size=48) for layer in layers}) for layers in ((1, 4), (2, 4, 6))]
    paths = [vector.save(tmp_path / f"{i}.gguf") for i, vector in enumerate(vectors)]
    for scales in ((1.0,), (0.5, -2.0)):
        arguments = [item for scale, path in zip(scales, paths, strict=False) for item in (str(scale), str(path))]
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=60, check=True)
        read = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.float32)
        total = vectors[0] * scales[0] if len(scales) == 1 else vectors[0] * scales[0] + vectors[1] * scales[1]
        np.testing.assert_allclose(read, total.to_array(total.layers[-1] + 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["mean", "pca"])
def test_we_read_what_upstreams_generator_writes(tmp_path: Path, method: str, tiny_path: Callable[..., Path]):
    """A unit direction for each layer but the last one, and a context takes it."""
    gguf = tiny_path("llama", n_layer=4)  # of the demo model it keeps a layer too many, and asserts
    generator = compiled(
        "llama-cvector-generator", upstream_source(LIBRARIES) / "tools/cvector-generator/cvector-generator.cpp"
    )
    for name, lines in PAIRS.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    made = tmp_path / "made.gguf"
    subprocess.run(
        [str(generator), "-m", str(gguf), "-t", "1", "-o", str(made), "--method", method,
         "--positive-file", str(tmp_path / "positive"), "--negative-file", str(tmp_path / "negative")],
        cwd=llamacore_sys.lib_dir, capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    vector = ControlVector.load(made)
    with lc.Model.load(gguf) as model:
        assert vector.layers == tuple(range(1, model.n_layer)) and vector.n_embd == model.n_embd
        assert vector.model_hint == model.arch
        np.testing.assert_allclose([np.linalg.norm(row) for row in vector.directions.values()], 1, rtol=0.1)
        with model.context(n_ctx=64, n_threads=1) as ctx:
            ctx.set_control_vector(vector)
