"""What a back end lacks is taken from Python packages, wherever the back end lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compiled import REGISTRY, compile_library

import llamacore_sys

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the file names are those of Linux")

LOAD = """
import sys
sys.path += sys.argv[2:]
from llamacore.core import backend
from llamacore.core.installation import Module
found = backend._load(Module("blas", sys.argv[1], "a test", ""))
print(found.loaded, found.reason)
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A back end that is linked with the library of a Python package, which is in `site` and not beside it."""
    place = tmp_path / "site" / "scipy_openblas32" / "lib"
    place.mkdir(parents=True)
    openblas = place / "libscipy_openblas.so"
    compile_library(openblas, "int scipy_answer(void) { return 42; }", f"-Wl,-soname,{openblas.name}")
    source = REGISTRY + "extern int scipy_answer(void);\n"
    source += "void * ggml_backend_init(void) { return scipy_answer() == 42 ? &the_reg : NULL; }\n"
    base = Path(llamacore_sys.lib_dir) / "libllamacore-ggml-base.so.0"
    return compile_library(tmp_path / "libggml-blas.so", source, link=[base, openblas])


def load(module: Path, *path: str) -> str:
    command = [sys.executable, "-c", LOAD, str(module), *path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_package_on_the_path_has_it(module: Path, tmp_path: Path):
    assert load(module, str(tmp_path / "site")) == "True it found no device\n"


def test_no_package_has_it(module: Path, tmp_path: Path):
    assert "libscipy_openblas.so: cannot open" in load(module, str(tmp_path))


def test_what_the_package_has_is_damaged(module: Path, tmp_path: Path):
    (tmp_path / "site" / "scipy_openblas32" / "lib" / "libscipy_openblas.so").write_bytes(b"not a library")
    assert "libscipy_openblas.so" in load(module, str(tmp_path / "site"))
