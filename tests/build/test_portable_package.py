"""What is released: portable libraries, built and packaged in two checkouts, used where no build tree is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging_fixtures import copy_files

import llamacore as lc
from build_support.platforms import this_platform
from build_support.release_manifest import MANIFEST
from build_support.source import sha256_of

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = f"llamacore-{lc.__version__}-{this_platform()}-companions.tar.gz"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="packaging reads ELF libraries")]


def package(checkout: Path, dist: Path) -> Path:
    """The files of a copy of this checkout, packaged there."""
    command = [sys.executable, "build_lib.py", "package", "--no-wheel", "--output", str(dist)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("LLAMACORE_LIB_DIR")}
    done = subprocess.run(
        command,
        cwd=checkout,
        env={**env, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dist


@pytest.fixture(scope="module")
def dist(portable_checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = package(portable_checkout, tmp_path_factory.mktemp("first") / "dist")
    assert not (portable_checkout / "llamacore_sys" / "lib").exists(), "what is installed in a checkout stays as it is"
    return made


@pytest.fixture(scope="module")
def top(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with tarfile.open(dist / ARCHIVE) as tar:
        tar.extractall(elsewhere)
    [found] = elsewhere.iterdir()
    return found


def test_it_is_small_and_for_many_machines(dist: Path):
    assert (dist / ARCHIVE).stat().st_size < 25_000_000
    entry = json.loads((dist / MANIFEST).read_text())["platforms"][this_platform()]
    assert entry["profile"] == "portable"
    assert entry["backends"] == ["cpu", "rpc"]
    assert tuple(map(int, entry["glibc"].split("."))) <= (2, 34)


def test_every_variant_is_there_and_nothing_else_is_needed(top: Path):
    description = json.loads((top / "companion.json").read_text())
    variants = [name for name in description["modules"] if name.startswith("libggml-cpu-")]
    assert len(variants) > 3
    assert description["requires"] == []


def test_no_path_of_the_building_machine_is_in_it(top: Path, dist: Path):
    for path in top.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(dist.parent).encode() not in data, path.name
            assert str(Path.home()).encode() + b"/" not in data, path.name


def test_it_generates(top: Path, run_python):
    code = (
        "import llamacore as lc, llamacore_sys, os\n"
        "assert os.path.samefile(llamacore_sys.lib_dir, os.environ['LLAMACORE_LIB_DIR'])\n"
        "with lc.Llama(n_threads=1) as llm: print(llm.generate('Once', max_tokens=8, temperature=0).text)"
    )
    native = run_python(code.replace("assert", "0 and"), LLAMACORE_LIB_DIR="")
    portable = run_python(code, LLAMACORE_LIB_DIR=str(top / "lib"))
    assert portable.returncode == 0, portable.stderr
    assert portable.stdout == native.stdout


@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("cmake") is None, reason="needs cc and cmake")
def test_a_c_program_runs_with_it(top: Path, demo_path: Path, tmp_path: Path):
    shutil.copytree(ROOT / "examples" / "c", tmp_path / "example")
    command = f"cmake -S example -B build -DCMAKE_PREFIX_PATH='{top}' && cmake --build build && build/generate "
    done = subprocess.run(
        f"{command} '{demo_path}' 'Once upon a time' 8",
        shell=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Once upon a time" in done.stdout


@pytest.mark.skipif(
    shutil.which("ccache") is None and shutil.which("sccache") is None, reason="compiles all once more without ccache"
)
def test_another_checkout_gives_the_same_bytes(dist: Path, tmp_path: Path):
    other = package(copy_files(tmp_path / "a rather different place"), tmp_path / "dist")
    assert {path.name: sha256_of(path) for path in other.iterdir()} == {
        path.name: sha256_of(path) for path in dist.iterdir()
    }
