"""The portable profile: CPU variants that are opened at run time, built and used away from this checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from build_support.elf import read_elf

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the files are named as on Linux"),
]

USE = """
import llamacore as lc, llamacore_sys
from llamacore.core import backend
from pathlib import Path
assert Path(llamacore_sys.lib_dir).is_relative_to(Path.cwd()), llamacore_sys.lib_dir
assert [device.name for device in backend.devices()] == ["CPU"]
with lc.Llama(n_threads=1) as llm:
    assert llm.generate("Once upon a time", max_tokens=8, seed=1).text
    assert llm.engine.stats().completion_tokens == 8
"""
MOST_COMPRESSED_BYTES = 25_000_000
NEWEST_SYMBOLS = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29)}  # as docs/building.md says


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which the portable profile was built."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout.split(b"\0")
    if not any(listed):
        pytest.skip("no checkout to copy")
    folder = tmp_path_factory.mktemp("portable")
    for name in filter(None, map(os.fsdecode, listed)):
        if name.startswith(("llamacore", "build_", "setup.py", "pyproject.toml")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "build_lib.py", "build", "--profile", "portable"]
    built = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=1500, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def libraries(checkout: Path) -> list[Path]:
    return sorted((checkout / "llamacore_sys" / "lib").iterdir())


def test_it_generates(checkout: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.pop("LLAMACORE_LIB_DIR", None)
    command = [sys.executable, "-c", USE]
    used = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert used.returncode == 0, used.stderr[-2000:]


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
def test_modules_show_two_functions(libraries: list[Path]) -> None:
    for path in libraries:
        if path.name.startswith("libggml-"):
            lines = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True)
            names = {line.split()[-1] for line in lines.stdout.splitlines()}
            assert names - {"ggml_backend_score"} == {"ggml_backend_init"}, path.name


def test_every_back_end_is_a_module(libraries: list[Path]) -> None:
    names = {path.name for path in libraries}
    assert len([name for name in names if re.fullmatch(r"libggml-cpu-\w+\.so", name)]) > 3
    assert {name for name in names if not name.startswith("libggml-cpu-")} == {
        "libggml-rpc.so",
        "libllamacore-common.so.0",
        "libllamacore-ggml-base.so.0",
        "libllamacore-ggml.so.0",
        "libllamacore-llama.so.0",
        "libllamacore-mtmd.so.0",
        "libllamacore_shim.so",
    }


def test_it_asks_no_newer_system_than_promised(libraries: list[Path]) -> None:
    for path in libraries:
        needed = " ".join(read_elf(path).versions)
        for name, newest in NEWEST_SYMBOLS.items():
            versions = [tuple(map(int, found.split("."))) for found in re.findall(rf"\b{name}_([\d.]+)", needed)]
            assert max(versions) <= newest, path.name


def test_it_is_small(libraries: list[Path], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "lib.tar.gz", "w:gz") as archive:
        for path in libraries:
            archive.add(path, path.name)
    assert (tmp_path / "lib.tar.gz").stat().st_size < MOST_COMPRESSED_BYTES
