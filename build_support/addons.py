"""Add-ons: back ends that are built for themselves, each as one module that loads beside a base of either profile.

What an add-on needs to be built is looked for before anything is started, and named when it is missing.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from build_support.config import BACKENDS, BuildConfig
from build_support.cuda import find_cublas, find_toolkit
from build_support.errors import BuildError
from build_support.openblas import FUNCTIONS, PACKAGE, PREFIX, find_openblas
from build_support.process import Console

_PREFIXES = (sys.prefix, "/usr/local", "/usr", "/opt/homebrew")


@dataclass(frozen=True)
class Addon:
    """An add-on whose SDK is there.

    Attributes:
        backend: Its back end.
        free_bytes: What its build folder takes.
        options: CMake options that only this add-on has.
    """

    backend: str
    free_bytes: int
    options: Mapping[str, str] = field(default_factory=dict)

    def cmake_options(self) -> dict[str, str]:
        """All CMake options for this add-on."""
        options = {f"GGML_{backend.upper()}": "ON" if backend == self.backend else "OFF" for backend in BACKENDS}
        options |= {"GGML_NATIVE": "OFF", "GGML_BACKEND_DL": "ON", "GGML_CPU_ALL_VARIANTS": "OFF"}
        return {**options, "LLAMACORE_ADDON": self.backend, **self.options}


def module_name(backend: str) -> str:
    """The file name of a back end's module, which ggml dictates."""
    return f"ggml-{backend}.dll" if sys.platform == "win32" else f"libggml-{backend}.so"


def find_addons(config: BuildConfig, console: Console) -> list[Addon]:
    """The add-ons of a build, each with what it needs.

    Raises:
        BuildError: Something is missing; it says what, and how to get it.
    """
    finders = {"cuda": _cuda, "vulkan": _vulkan, "blas": _blas}
    return [finders[backend](config, console) for backend in config.addons]


def _cuda(config: BuildConfig, console: Console) -> Addon:
    toolkit = find_toolkit()
    options = {
        "CMAKE_CUDA_COMPILER": toolkit.nvcc,
        "LLAMACORE_CUBLAS_DIR": str(find_cublas(toolkit, console) or ""),
        # From the module's place in an installed package to that of NVIDIA's packages.
        "LLAMACORE_ADDON_RPATH": f"../../{toolkit.package_folder}/lib",
    }
    if config.cuda_arch is not None:
        options["CMAKE_CUDA_ARCHITECTURES"] = config.cuda_arch.replace(",", ";")
    return Addon("cuda", 600 << 20, options)


def _vulkan(config: BuildConfig, console: Console) -> Addon:
    if shutil.which("glslc") is None and _find("bin/glslc") is None:
        raise _missing("glslc", "glslc", "glslc")
    headers = _find("include/vulkan/vulkan_core.h")
    if headers is None:
        raise _missing("vulkan/vulkan_core.h", "libvulkan-dev", "vulkan-headers vulkan-loader-devel")
    if "VK_EXT_layer_settings" not in headers.read_text(encoding="utf-8", errors="replace"):
        raise BuildError(
            f"the Vulkan headers in {headers.parent} are older than 1.3.272",
            "install newer ones (the Vulkan SDK, https://vulkan.lunarg.com, or Debian 13, Ubuntu 24.10 or later) and "
            "name their folder in VULKAN_SDK or CMAKE_PREFIX_PATH",
        )
    if all(_find(f"{folder}/cmake/SPIRV-Headers") is None for folder in ("share", "lib")):
        raise _missing("SPIRV-Headers", "spirv-headers", "spirv-headers-devel")
    return Addon("vulkan", 300 << 20)


def _blas(config: BuildConfig, console: Console) -> Addon:
    if sys.platform == "darwin":
        return Addon("blas", 50 << 20, {"GGML_BLAS_VENDOR": "Apple"})
    include, library = find_openblas(console)
    options = {
        "GGML_BLAS_VENDOR": "OpenBLAS",
        "BLAS_INCLUDE_DIRS": str(include),
        "BLAS_LIBRARIES": str(library),
        "LLAMACORE_ADDON_DEFINITIONS": ";".join(f"{name}={PREFIX}{name}" for name in FUNCTIONS),
        "LLAMACORE_ADDON_RPATH": f"../../{PACKAGE}/lib",
    }
    return Addon("blas", 50 << 20, options)


def _find(*names: str) -> Path | None:
    """The first of some files or folders, given as in `include/x.h`, below the places where SDKs are installed."""
    prefixes = [os.environ.get("VULKAN_SDK", ""), *os.environ.get("CMAKE_PREFIX_PATH", "").split(os.pathsep)]
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for prefix in filter(None, (*prefixes, *_PREFIXES)):
        for name in names:
            kind, rest = name.split("/", 1)
            for path in (Path(prefix, kind, rest), Path(prefix, kind, multiarch, rest)):
                if path.exists():
                    return path.resolve()
    return None


def _missing(part: str, debian: str, fedora: str) -> BuildError:
    return BuildError(
        f"the Vulkan back end was asked for and {part} is not found",
        f"install it (Debian, Ubuntu: `apt install {debian}`; Fedora: `dnf install {fedora}`), "
        "or name the folder that it is installed to in CMAKE_PREFIX_PATH",
    )
