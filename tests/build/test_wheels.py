"""Wheels from files: the same bytes from the same files, tagged by auditwheel, nothing carried along."""

from __future__ import annotations

import csv
import io
import random
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from build_support import openblas
from build_support.config import ADDON_BACKENDS
from build_support.errors import BuildError
from build_support.versions import project_version
from build_support.wheels import normalise, tag

ROOT = Path(__file__).resolve().parents[2]

auditwheel = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("auditwheel") is None or shutil.which("cc") is None,
    reason="needs Linux, auditwheel (it is in the extra dev) and a C compiler",
)


def pack(path: Path, files: dict[str, bytes], *, mode: int = 0o600, year: int = 2001) -> Path:
    """A wheel as some tool may pack it."""
    metadata = {
        "thing-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: thing\nVersion: 1\n",
        "thing-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n",
    }
    metadata["thing-1.dist-info/RECORD"] = "".join(f"{name},,\n" for name in (*files, *metadata)).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**files, **metadata}.items():
            info = zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            file.writestr(info, data)
    return path


def test_the_bytes_depend_on_the_files_alone(tmp_path: Path):
    files = {f"thing/{number}.py": bytes([number]) * 5000 for number in range(20)} | {"thing/lib/libx.so.0": b"\x7fELF"}
    shuffled = list(files.items())
    random.Random(1).shuffle(shuffled)
    made = []
    for number, (order, mode, year) in enumerate([(files, 0o600, 2001), (dict(shuffled), 0o777, 2020)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        wheel = pack(folder / "thing-1-py3-none-linux_x86_64.whl", order, mode=mode, year=year)
        made.append(normalise(wheel, folder / "made", 1_700_000_000))
    assert made[0].read_bytes() == made[1].read_bytes()
    assert made[0].name == "thing-1-py3-none-linux_x86_64.whl"
    other = normalise(tmp_path / "0" / made[0].name, tmp_path / "other", 1_700_000_002)
    assert other.read_bytes() != made[0].read_bytes()


def test_a_normalised_wheel_is_whole(tmp_path: Path):
    files = {"thing/__init__.py": b"a = 1\n", "thing/lib/libx.so.0": b"\x7fELF"}
    made = normalise(pack(tmp_path / "thing-1-py3-none-any.whl", files), tmp_path / "made", 0)
    with zipfile.ZipFile(made) as file:
        infos = {info.filename: info for info in file.infolist()}
        record = list(csv.reader(io.StringIO(file.read("thing-1.dist-info/RECORD").decode())))
        assert {name: file.read(name) for name in files} == files
    assert [row[0] for row in record] == list(infos)
    assert record[-1] == ["thing-1.dist-info/RECORD", "", ""]
    assert {name: infos[name].external_attr >> 16 for name in files} == {
        "thing/__init__.py": 0o100644,
        "thing/lib/libx.so.0": 0o100755,
    }
    assert {info.date_time for info in infos.values()} == {(1980, 1, 1, 0, 0, 0)}
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(made)]
    subprocess.run(command, check=True, capture_output=True)  # pip checks every hash of RECORD
    assert (target / "thing" / "__init__.py").read_bytes() == b"a = 1\n"


@pytest.fixture
def library(tmp_path: Path) -> bytes:
    """A library that needs another, `libelsewhere.so.1`, which lies in `tmp_path`."""
    (tmp_path / "a.c").write_text("int elsewhere(void);\nint here(void) { return elsewhere(); }\n")
    (tmp_path / "b.c").write_text("int elsewhere(void) { return 1; }\n")
    other = ["cc", "-shared", "-fPIC", "b.c", "-Wl,-soname,libelsewhere.so.1", "-o", "libelsewhere.so.1"]
    subprocess.run(other, cwd=tmp_path, check=True)
    subprocess.run(["cc", "-shared", "-fPIC", "a.c", "libelsewhere.so.1", "-o", "libhere.so"], cwd=tmp_path, check=True)
    return (tmp_path / "libhere.so").read_bytes()


@auditwheel
@pytest.mark.parametrize("found", [False, True])
def test_a_library_from_elsewhere_is_refused(
    library: bytes, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wheel = pack(tmp_path / "thing-1-py3-none-linux_x86_64.whl", {"thing/lib/libhere.so": library})
    if found:
        monkeypatch.setenv("AUDITWHEEL_LD_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(BuildError, match="libelsewhere"):
        tag(wheel, tmp_path / "tagged")


@auditwheel
def test_a_library_that_the_set_names_is_looked_for_elsewhere(library: bytes, tmp_path: Path):
    described = b'{"requires": [{"library": "libelsewhere.so.1"}]}'
    files = {"llamacore_thing/lib/libhere.so": library, "llamacore_thing/companion.json": described}
    tagged = tag(pack(tmp_path / "thing-1-py3-none-linux_x86_64.whl", files), tmp_path / "tagged")
    assert re.fullmatch(r"thing-1-py3-none-manylinux[\w.]+\.whl", tagged.name)
    with zipfile.ZipFile(tagged) as file:
        assert {name for name in file.namelist() if not name.endswith("/")} >= set(files)


def test_the_projects_of_the_add_ons_are_of_this_version():
    version = project_version(ROOT)  # compares those of all projects
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert sorted(path.parent.name for path in ROOT.glob("addons/*/pyproject.toml")) == sorted(ADDON_BACKENDS)
    for backend in ADDON_BACKENDS:
        project = (ROOT / "addons" / backend / "pyproject.toml").read_text(encoding="utf-8")
        assert f'\nname = "llamacore-{backend}"\n' in project
        [dependencies] = re.findall(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
        assert f'"llamacore=={version}"' in dependencies.split(", ")
        assert f'\n{backend} = ["llamacore-{backend}=={version}"]\n' in extras
        assert (ROOT / "addons" / backend / f"llamacore_{backend}" / "__init__.py").exists()
        assert f'\nsetup_addon("{backend}")\n' in (ROOT / "addons" / backend / "setup.py").read_text(encoding="utf-8")


def test_what_is_built_against_is_what_is_installed_with_it():
    project = (ROOT / "addons" / "blas" / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"{openblas.REQUIREMENT}"' in project
    cuda = (ROOT / "addons" / "cuda" / "pyproject.toml").read_text(encoding="utf-8")
    [lowest, next_major] = map(int, re.findall(r'"nvidia-cublas>=(\d+)\.\d+,<(\d+)"', cuda)[0])
    assert next_major == lowest + 1
    assert f"CUDA :: {lowest}" in cuda
