"""The wheel as a stranger gets it: built from the checkout, installed into an empty environment, run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from build_support.builder import pin
from build_support.process import Console
from build_support.source import pinned_source

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the file names are those of Linux")]

LIBRARIES = {
    "libllamacore-common.so.0",
    "libllamacore-ggml-base.so.0",
    "libllamacore-ggml-cpu.so.0",
    "libllamacore-ggml-rpc.so.0",
    "libllamacore-ggml.so.0",
    "libllamacore-llama.so.0",
    "libllamacore-mtmd.so.0",
    "libllamacore_shim.so",
}
SYSTEM = r"lib(c|m|dl|pthread|rt|stdc\+\+|gcc_s)\.so\.\d+|ld-linux-[\w-]+\.so\.\d"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip makes of this checkout, through the build folder that is there already."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("LLAMACORE_BUILD_")}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel and what it depends on; returns its bin folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--only-binary", ":all:", "--quiet", wheel]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # where pip would find it installed
    subprocess.run(command, env=env, check=True)
    return folder / "bin"


def test_the_tag_is_abi3(wheel: Path):
    assert re.fullmatch(r"llamacore-[\d.]+-cp310-abi3-linux_\w+\.whl", wheel.name)


def test_each_library_is_there_once(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        links = [info.filename for info in file.infolist() if (info.external_attr >> 16) & 0o170000 == 0o120000]
    assert {name.split("/")[-1] for name in names if name.startswith("llamacore_sys/lib/")} == LIBRARIES
    assert sorted(name for name in names if ".so" in name and "/lib/" not in name) == ["llamacore_sys/_native.abi3.so"]
    assert len(names) == len(set(names))
    assert links == []


def test_the_rest_is_what_the_package_needs_at_run_time(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    top = {name.split("/")[0] for name in names}
    assert {re.sub(r"-[\d.]+\.dist-info$", ".dist-info", name) for name in top} == {
        "llamacore",
        "llamacore.dist-info",
        "llamacore_sys",
    }
    assert {"llamacore/py.typed", "llamacore/cli/app.py", "llamacore/core/model.py"} <= names
    assert {name for name in names if name.endswith(".gguf")} == {
        "llamacore/data/llamacore-demo-q8_0.gguf",
        "llamacore/data/llamacore-demo-draft-q8_0.gguf",
    }
    assert not [
        name for name in names if re.search(r"\.(h|cpp|c|txt)$|/cdef/|/shim/", name) and ".dist-info/" not in name
    ]


def test_the_licences_are_those_of_the_pinned_source(unpacked: Path, console: Console):
    [licences] = unpacked.glob("*.dist-info/licenses")
    assert (licences / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    source = pinned_source(pin(), console).path
    for name, original in {
        "llama.cpp": "LICENSE",
        "nlohmann-json": "licenses/LICENSE-jsonhpp",
        "cpp-httplib": "vendor/cpp-httplib/LICENSE",
        "sha256": "vendor/hash/sha256/LICENSE",
        "rotate-bits": "vendor/hash/rotate-bits/LICENSE.md",
        "xxhash": "vendor/hash/xxhash/LICENSE",
    }.items():
        text = (licences / "llamacore_sys" / "licenses" / f"{name}.txt").read_bytes()
        assert text == (source / original).read_bytes(), name
    header = (source / "ggml/src/ggml-cpu/llamafile/sgemm.cpp").read_text().split("\n\n")[0]
    text = (licences / "llamacore_sys" / "licenses" / "llamafile-sgemm.txt").read_text()
    assert [line[2:].strip() for line in header.splitlines()] == [line.strip() for line in text.rstrip().splitlines()]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_nothing_depends_on_anything_but_the_system_and_each_other(unpacked: Path):
    sys_dir = unpacked / "llamacore_sys"
    for path in [*sys_dir.glob("*.so"), *(sys_dir / "lib").iterdir()]:
        dynamic = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
        assert needed
        outside = {name for name in needed - LIBRARIES if not re.fullmatch(SYSTEM, name)}
        assert outside == set(), path.name
        soname = re.findall(r"\(SONAME\).*\[(.*)\]", dynamic)
        assert soname in ([path.name], []) if path.parent == sys_dir else soname == [path.name]
        expected = "$ORIGIN/lib" if path.parent == sys_dir else "$ORIGIN"
        assert re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic) == [expected], path.name


def test_no_path_of_the_building_machine_is_in_it(unpacked: Path):
    home, checkout = str(Path.home()).encode() + b"/", str(ROOT).encode() + b"/"
    for path in (unpacked / "llamacore_sys").rglob("*.so*"):
        data = path.read_bytes()
        assert home not in data, path.name
        assert checkout not in data, path.name


def test_it_runs_in_an_empty_environment_without_a_compiler(installed: Path, tmp_path: Path):
    code = (
        "import llamacore_sys as s, shutil, sys\n"
        "assert sys.prefix != sys.base_prefix and s.__file__.startswith(sys.prefix), s.__file__\n"
        "assert not any(map(shutil.which, ('cc', 'gcc', 'c++', 'g++', 'cmake', 'ninja')))\n"
        "assert s.lib.llc_backend_init() == s.lib.LLC_OK\n"
        "print(s.UPSTREAM.version, s.lib.ggml_backend_dev_count() >= 1)\n"
    )
    env = {"PATH": str(installed), "HOME": str(tmp_path)}
    result = subprocess.run(
        [installed / "python", "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == (f"{pin().version} True\n", "")


def test_the_command_writes_text_there(installed: Path, tmp_path: Path):
    env = {"PATH": str(installed), "HOME": str(tmp_path)}
    command = ["llamacore", "generate", "Once upon a time", "--max-tokens", "8", "--temp", "0", "--threads", "2"]
    command[0] = str(installed / "llamacore")
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
