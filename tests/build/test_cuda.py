"""The CUDA toolkit and its cuBLAS: what is found, and what is missing, is said before anything is compiled."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from build_support import cuda
from build_support.config import BuildConfig
from build_support.cuda import Toolkit, find_cublas, find_toolkit
from build_support.errors import BuildError
from build_support.process import Console

pytestmark = pytest.mark.skipif(not Path("/bin/sh").exists(), reason="the compilers here are scripts of a shell")

METADATA = "Metadata-Version: 2.1\nName: nvidia-cublas\nVersion: {}\n"


@pytest.fixture
def nvcc(tmp_path: Path) -> Callable[..., Path]:
    """Makes a compiler that tells a version and a folder to search, as nvcc does, below `tmp_path/toolkit`."""

    def make(version: str = "13.0", *, cublas: bool = False, status: int = 0) -> Path:
        top = tmp_path / "toolkit"
        for name in ("bin", "include", "lib64"):
            (top / name).mkdir(parents=True)
        path = top / "bin" / "nvcc"
        path.write_text(
            "#!/bin/sh\n"
            f'echo "Cuda compilation tools, release {version}, V{version}.88"\n'
            f"echo '#$ TOP={top}/bin/..' >&2\n"
            f"echo '#$ INCLUDES=\"-I{top}/bin/../include\"' >&2\n"
            f"exit {status}\n"
        )
        path.chmod(0o755)
        if cublas:
            (top / "include" / "cublas_v2.h").touch()
            (top / "lib64" / "libcublas.so").touch()
        return path

    return make


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Python that has no package installed."""
    monkeypatch.setattr(cuda.sys, "path", [str(tmp_path / "site-packages")])


def package_files(folder: Path) -> Path:
    """What NVIDIA's package puts into a folder, as far as it is looked at; returns the files' own folder."""
    path = folder / "nvidia" / "cu13"
    for name in ("include/cublas_v2.h", "lib/libcublas.so.13", "lib/libcublasLt.so.13"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return path


def test_the_compiler_tells_version_and_folders(nvcc: Callable[..., Path]):
    path = nvcc("13.1", cublas=True)
    for environ in ({"CUDACXX": str(path)}, {"CUDA_PATH": str(path.parents[1])}):
        assert find_toolkit(environ) == Toolkit(str(path), (13, 1), cublas=True)


def test_a_toolkit_without_cublas(nvcc: Callable[..., Path]):
    toolkit = find_toolkit({"CUDACXX": str(nvcc("13.0"))})
    if not Path("/usr/include/cublas_v2.h").exists():
        assert not toolkit.cublas
    assert toolkit.package == "nvidia-cublas==13.0.*"


def test_no_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(BuildError, match=r"nvcc is not found \(CUDACXX=/no/nvcc\)") as caught:
        find_toolkit({"CUDACXX": "/no/nvcc --flag"})
    assert "install the CUDA toolkit" in caught.value.next_step
    monkeypatch.setattr(cuda.shutil, "which", lambda name: None)
    with pytest.raises(BuildError, match="CUDA back end was asked for and nvcc is not found"):
        find_toolkit({})


def test_a_compiler_that_does_not_run_is_named(nvcc: Callable[..., Path]):
    path = nvcc(status=1)
    with pytest.raises(BuildError, match=f"{path} does not run"):
        find_toolkit({"CUDACXX": str(path)})


def test_cublas_of_the_toolkit_comes_first(console: Console, tmp_path: Path):
    toolkit = Toolkit("nvcc", (13, 0), cublas=True)
    assert find_cublas(toolkit, console, tmp_path / "cache") is None


def test_then_an_installed_package(no_packages: None, console: Console, tmp_path: Path):
    toolkit = Toolkit("nvcc", (13, 0), cublas=False)
    path = package_files(tmp_path / "site-packages")
    assert find_cublas(toolkit, console, tmp_path / "cache") == path
    assert not (tmp_path / "cache").exists()


def test_else_pip_downloads_it_once(
    no_packages: None, console: Console, said: Callable[[], str], tmp_path: Path, local_index: Path
):
    make_wheel(local_index, "13.0.7", tmp_path)
    make_wheel(local_index, "13.1.1", tmp_path)
    toolkit = Toolkit("nvcc", (13, 0), cublas=False)
    cache = tmp_path / "cache"
    path = find_cublas(toolkit, console, cache)
    assert path == cache / "nvidia-cublas-13.0" / "nvidia" / "cu13"
    assert (path / "include" / "cublas_v2.h").read_text() == "include/cublas_v2.h"
    assert [folder.name for folder in path.parents[1].glob("*.dist-info")] == ["nvidia_cublas-13.0.7.dist-info"]
    assert not list(cache.glob("download-*"))
    assert "downloading nvidia-cublas==13.0.*" in said()
    shutil.rmtree(local_index)
    assert find_cublas(toolkit, console, cache) == path


def make_wheel(index: Path, version: str, tmp_path: Path) -> None:
    index.mkdir(exist_ok=True)
    stem = f"nvidia_cublas-{version}"
    files = package_files(tmp_path / stem)
    with zipfile.ZipFile(index / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path in filter(Path.is_file, sorted(files.rglob("*"))):
            wheel.write(path, path.relative_to(tmp_path / stem))
        wheel.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: nvidia-cublas\nVersion: {version}\n"
        )
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


def test_a_download_that_fails_leaves_nothing_and_says_what_else_helps(
    no_packages: None, console: Console, tmp_path: Path, local_index: Path
):
    local_index.mkdir()
    toolkit, cache = Toolkit("nvcc", (13, 0), cublas=False), tmp_path / "cache"
    with pytest.raises(BuildError, match=r"nvidia-cublas==13\.0\.\* could not be downloaded") as caught:
        find_cublas(toolkit, console, cache)
    assert "libcublas-dev" in caught.value.next_step
    assert sorted(path.name for path in cache.iterdir()) == ["download.log", "lock"]


def test_an_older_toolkit_brings_its_own_or_none(no_packages: None, console: Console, tmp_path: Path):
    with pytest.raises(BuildError, match=r"CUDA toolkit 12\.4 has no cuBLAS") as caught:
        find_cublas(Toolkit("nvcc", (12, 4), cublas=False), console, tmp_path / "cache")
    assert "libcublas-dev-12-4" in caught.value.next_step


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs the CUDA toolkit")
def test_the_toolkit_of_this_machine():
    toolkit = find_toolkit()
    version = "release {}.{},".format(*toolkit.version)
    assert version in subprocess.run([toolkit.nvcc, "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("architectures", ["90", "80;90a-real", "80,90", "native", "all-major"])
def test_architectures_are_those_that_cmake_takes(architectures: str):
    assert BuildConfig(backends=("cuda",), cuda_arch=architectures).cuda_arch == architectures
