"""The CUDA toolkit, and cuBLAS from elsewhere where the toolkit lacks it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_support.cache import cache_dir
from build_support.errors import BuildError
from build_support.pip import cached_package
from build_support.process import Console

_FIRST_WITH_PACKAGE = 13  # PyPI's nvidia-cublas has the versions of the toolkits from here on


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit.

    Attributes:
        nvcc: Its compiler.
        version: Major and minor version.
        cublas: Whether headers and library of cuBLAS are part of it.
    """

    nvcc: str
    version: tuple[int, int]
    cublas: bool

    @property
    def package(self) -> str:
        """The requirement for pip that brings this toolkit's cuBLAS."""
        return "nvidia-cublas=={}.{}.*".format(*self.version)

    @property
    def package_folder(self) -> str:
        """Where NVIDIA's packages put their files, below a folder that Python imports from."""
        return f"nvidia/cu{self.version[0]}"


def find_toolkit(environ: Mapping[str, str] = os.environ) -> Toolkit:
    """Finds the toolkit of CUDACXX, CUDA_PATH, PATH or /usr/local/cuda, whichever comes first.

    Raises:
        BuildError: There is none, or its compiler does not run.
    """
    named = environ.get("CUDACXX", "").split()[:1]
    folders = [Path(environ["CUDA_PATH"], "bin")] if environ.get("CUDA_PATH") else []
    candidates = named or [*(str(folder / "nvcc") for folder in folders), "nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next(filter(None, map(shutil.which, candidates)), None)
    if nvcc is None:
        where = f"CUDACXX={named[0]}" if named else "in CUDA_PATH, on PATH or in /usr/local/cuda"
        raise BuildError(
            f"the CUDA back end was asked for and nvcc is not found ({where})",
            "install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads; Debian, Ubuntu with NVIDIA's "
            "repository: `apt install cuda-toolkit`) and put nvcc on PATH",
        )
    # What the compiler itself searches: a toolkit may be one folder, or be spread over the system's.
    plan = _output(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull)
    found = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    if found is None:
        raise BuildError(f"{nvcc} does not tell its version", "reinstall the CUDA toolkit")
    folders = [Path(path) for path in re.findall(r'"-[IL]([^"]+)"', plan)]
    folders += [Path(top) / name for top in re.findall(r"TOP=(\S+)", plan) for name in ("include", "lib64")]
    folders += [Path("/usr/include"), Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "")]
    cublas = all(any((path / name).exists() for path in folders) for name in ("cublas_v2.h", "libcublas.so"))
    return Toolkit(nvcc, (int(found[1]), int(found[2])), cublas or os.name == "nt")


def find_cublas(toolkit: Toolkit, console: Console, cache: Path | None = None) -> Path | None:
    """The folder with cuBLAS' `include` and `lib`: of an installed package, else of one that pip downloads.

    Returns:
        The folder, or None where the toolkit has cuBLAS itself.

    Raises:
        BuildError: It could not be had.
    """
    if toolkit.cublas:
        return None
    for folder in sys.path:
        path = Path(folder, toolkit.package_folder)
        if _is_complete(path):
            return path.resolve()
    if toolkit.version[0] < _FIRST_WITH_PACKAGE:
        raise BuildError(
            "the CUDA toolkit {}.{} has no cuBLAS".format(*toolkit.version),
            "install it (Debian, Ubuntu with NVIDIA's repository: `apt install libcublas-dev-{}-{}`)".format(
                *toolkit.version
            ),
        )
    home = cached_package(
        toolkit.package,
        _home(toolkit, cache or cache_dir()),
        lambda place: _is_complete(place / toolkit.package_folder),
        console,
        size="500 MiB",
        otherwise="or install cuBLAS with the CUDA toolkit (its package libcublas-dev)",
    )
    return home / toolkit.package_folder


def _home(toolkit: Toolkit, cache: Path) -> Path:
    return cache / "nvidia-cublas-{}.{}".format(*toolkit.version)


def _is_complete(folder: Path) -> bool:
    return (folder / "include" / "cublas_v2.h").is_file() and any((folder / "lib").glob("libcublas.so*"))


def _output(nvcc: str, *arguments: str) -> str:
    try:
        done = subprocess.run([nvcc, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{nvcc} does not run: {error}", "reinstall the CUDA toolkit") from error
    return done.stdout + done.stderr
