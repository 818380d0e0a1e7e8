"""The libraries in use give the process nothing but what somebody asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llamacore_sys
from build_support.elf import read_elf

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="symbols are those of Linux"),
    pytest.mark.skipif(not shutil.which("nm"), reason="needs nm"),
]
PACKAGE = Path(llamacore_sys.__file__).parent
LIBRARIES = sorted((PACKAGE / "lib").iterdir())


def exported(path: Path) -> dict[str, str]:
    """Names, and what kind of symbol each is."""
    lines = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1]: line.split()[-2] for line in lines.splitlines()}


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name)
def test_no_symbol_is_unique_in_the_process(path: Path):
    assert "u" not in exported(path).values()


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name)
def test_a_library_has_a_name_of_its_own_and_a_module_shows_two_functions(path: Path):
    elf = read_elf(path)
    assert elf.runpath.split(":")[0] == "$ORIGIN"
    if path.name.startswith("libllamacore"):
        assert elf.soname == path.name
    else:
        assert exported(path).keys() - {"ggml_backend_score"} == {"ggml_backend_init"}


def test_the_shim_shows_its_functions_and_the_extension_its_entry():
    assert all(name.startswith("llc_") for name in exported(PACKAGE / "lib" / "libllamacore_shim.so"))
    [extension] = PACKAGE.glob("_native.*")
    assert exported(extension).keys() == {"PyInit__native"}
