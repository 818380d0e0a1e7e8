"""The tools that a build needs, found before anything is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from build_support.errors import BuildError

CMAKE_MINIMUM = (3, 21)
_COMPILERS = {"CC": ("cc", "gcc", "clang", "cl"), "CXX": ("c++", "g++", "clang++", "cl")}
_INSTALL_COMPILER = (
    "install a C and a C++ compiler (Debian, Ubuntu: `apt install build-essential`; Fedora: `dnf install gcc-c++`; "
    "macOS: `xcode-select --install`; Windows: the Visual Studio build tools, in their developer prompt), "
    "or name them in CC and CXX"
)


@dataclass(frozen=True)
class Toolchain:
    """Absolute paths of the tools, and what the extension is compiled against."""

    cmake: str
    ninja: str
    launcher: str | None
    python_include: tuple[str, ...]
    python_library: str | None
    extension_file: str
    limited_api: bool

    def cmake_options(self) -> dict[str, str]:
        """The CMake options that name these tools."""
        options = {"CMAKE_MAKE_PROGRAM": self.ninja, "CMAKE_BUILD_TYPE": "Release"}
        for language in ("C", "CXX", "CUDA"):
            options[f"CMAKE_{language}_COMPILER_LAUNCHER"] = self.launcher or ""
        return options

    def extension_options(self) -> dict[str, str]:
        """The CMake options that say what the extension is compiled against."""
        return {
            "LLAMACORE_PYTHON_INCLUDE": ";".join(self.python_include),
            "LLAMACORE_PYTHON_LIBRARY": self.python_library or "",
            "LLAMACORE_EXTENSION_FILE": self.extension_file,
            "LLAMACORE_LIMITED_API": "ON" if self.limited_api else "OFF",
        }


def cmake_version(cmake: str) -> tuple[int, int] | None:
    """Version of a cmake, None when it does not run."""
    try:
        output = subprocess.run([cmake, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2])) if found else None


def missing_tools() -> list[str]:
    """What of cmake and ninja this machine lacks, as requirements for pip."""
    missing = []
    cmake = shutil.which("cmake")
    if cmake is None or (cmake_version(cmake) or (0, 0)) < CMAKE_MINIMUM:
        missing.append("cmake>={}.{}".format(*CMAKE_MINIMUM))
    if shutil.which("ninja") is None:
        missing.append("ninja")
    return missing


def find_toolchain() -> Toolchain:
    """Finds every tool that a build of the base needs.

    Raises:
        BuildError: One is missing; it says which and how to get it.
    """
    _prefer_tools_of_this_python()
    missing = missing_tools()
    if missing:
        quoted = " ".join(f"'{name}'" if ">" in name else name for name in missing)
        raise BuildError(
            f"{' and '.join(missing)} not found on PATH",
            f"python -m pip install {quoted}   (`pip install .` does this by itself)",
        )
    for variable, names in _COMPILERS.items():
        wanted = os.environ.get(variable)
        if wanted:
            if shutil.which(wanted.split()[0]) is None:
                raise BuildError(f"no compiler: {variable}={wanted} is not found", f"correct or unset {variable}")
        elif not any(shutil.which(name) for name in names):
            kind = "C" if variable == "CC" else "C++"
            raise BuildError(f"no {kind} compiler: none of {', '.join(names)} is on PATH", _INSTALL_COMPILER)
    limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")
    return Toolchain(
        cmake=shutil.which("cmake") or "",
        ninja=shutil.which("ninja") or "",
        launcher=shutil.which("ccache") or shutil.which("sccache"),
        python_include=_python_include(),
        python_library=_python_library(limited_api=limited_api),
        extension_file="_native" + _extension_suffix(limited_api=limited_api),
        limited_api=limited_api,
    )


def _prefer_tools_of_this_python() -> None:
    """Puts the scripts folder of this Python behind PATH, where `pip install cmake ninja` put them."""
    scripts = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if scripts not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((path, scripts))


def _python_include() -> tuple[str, ...]:
    folders = tuple(dict.fromkeys((sysconfig.get_path("include"), sysconfig.get_path("platinclude"))))
    if not any((Path(folder) / "Python.h").is_file() for folder in folders):
        raise BuildError(
            f"the C headers of this Python are missing: no Python.h in {' or '.join(folders)}",
            "install them (Debian, Ubuntu: `apt install python3-dev`; Fedora: `dnf install python3-devel`)",
        )
    return folders


def _python_library(*, limited_api: bool) -> str | None:
    if os.name != "nt":
        return None  # the interpreter that loads the extension provides Python's symbols
    name = "python3.lib" if limited_api else f"python{sys.version_info[0]}{sys.version_info[1]}t.lib"
    return str(Path(sys.base_prefix) / "libs" / name)


def _extension_suffix(*, limited_api: bool) -> str:
    if os.name == "nt":
        return ".pyd" if limited_api else str(sysconfig.get_config_var("EXT_SUFFIX"))
    return ".abi3.so" if limited_api else str(sysconfig.get_config_var("EXT_SUFFIX"))


def default_jobs() -> int:
    """Compiler processes at once: one a core, and one a GiB of memory, since ggml's largest files need that much."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return cores
    return max(1, min(cores, memory >> 30))
