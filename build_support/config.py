"""What to build: profile and back ends, and the CMake options they become."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_support.errors import BuildError

PROFILES = ("native", "portable")
BASE_BACKENDS = ("cpu", "rpc")
ADDON_BACKENDS = ("cuda", "vulkan", "blas")
BACKENDS = BASE_BACKENDS + ADDON_BACKENDS

ENV_PROFILE = "LLAMACORE_BUILD_PROFILE"
ENV_BACKENDS = "LLAMACORE_BUILD_BACKENDS"
ENV_SOURCE = "LLAMACORE_BUILD_SOURCE"
ENV_ALLOW_UNPINNED = "LLAMACORE_BUILD_ALLOW_UNPINNED"
ENV_JOBS = "LLAMACORE_BUILD_JOBS"
ENV_CUDA_ARCH = "LLAMACORE_BUILD_CUDA_ARCH"


@dataclass(frozen=True)
class BuildConfig:
    """One build.

    Args:
        profile: `native` compiles for this machine's CPU; `portable` compiles loadable CPU variants, one of which is
            chosen at run time.
        backends: Any of `BACKENDS`. Those of `BASE_BACKENDS` are always built; each of `ADDON_BACKENDS` becomes a
            module that loads beside a base of either profile.
        source: A llama.cpp checkout instead of the pinned source.
        allow_unpinned: Accept a `source` that is not the pinned version.
        jobs: Compiler processes at once; None chooses from cores and memory.
        cuda_arch: Value of `CMAKE_CUDA_ARCHITECTURES`, such as `90` or `80;90`; None leaves it to upstream.

    Raises:
        BuildError: A value is not one of those allowed.
    """

    profile: str = "native"
    backends: tuple[str, ...] = BASE_BACKENDS
    source: Path | None = None
    allow_unpinned: bool = False
    jobs: int | None = None
    cuda_arch: str | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise BuildError(f"unknown profile {self.profile!r}", f"use one of {', '.join(PROFILES)}")
        for backend in self.backends:
            if backend not in BACKENDS:
                raise BuildError(f"unknown back end {backend!r}", f"use one of {', '.join(BACKENDS)}")
        object.__setattr__(self, "backends", tuple(b for b in BACKENDS if b in (*BASE_BACKENDS, *self.backends)))
        if self.jobs is not None and self.jobs < 1:
            raise BuildError(f"{self.jobs} jobs asked for", "give a number of 1 or more")
        if self.cuda_arch is not None:
            if "cuda" not in self.backends:
                raise BuildError(
                    f"CUDA architectures {self.cuda_arch!r} without the CUDA back end", "add --backend cuda"
                )
            if not re.fullmatch(
                r"(native|all|all-major|\d+[af]?(-real|-virtual)?)([;,]\d+[af]?(-real|-virtual)?)*", self.cuda_arch
            ):
                raise BuildError(f"{self.cuda_arch!r} is no CUDA architecture list", "write it like 90 or 80;90")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> BuildConfig:
        """The build that `pip install` makes: defaults, changed by the `LLAMACORE_BUILD_*` variables."""
        jobs = environ.get(ENV_JOBS) or None
        if jobs is not None and not jobs.isdigit():
            raise BuildError(f"{ENV_JOBS}={jobs!r} is no number", "give a number of 1 or more")
        source = environ.get(ENV_SOURCE)
        return cls(
            profile=environ.get(ENV_PROFILE) or "native",
            backends=tuple(re.findall(r"[^\s,;]+", environ.get(ENV_BACKENDS) or "")),
            source=Path(source).resolve() if source else None,
            allow_unpinned=environ.get(ENV_ALLOW_UNPINNED, "0") not in ("", "0"),
            jobs=int(jobs) if jobs else None,
            cuda_arch=environ.get(ENV_CUDA_ARCH) or None,
        )

    @property
    def addons(self) -> tuple[str, ...]:
        """The add-ons among the back ends."""
        return tuple(backend for backend in self.backends if backend in ADDON_BACKENDS)

    def cmake_options(self) -> dict[str, str]:
        """Upstream's CMake options for the base."""
        portable = self.profile == "portable"
        options = {
            "GGML_NATIVE": "OFF" if portable else "ON",
            "GGML_BACKEND_DL": "ON" if portable else "OFF",
            "GGML_CPU_ALL_VARIANTS": "ON" if portable else "OFF",
        }
        for backend in BACKENDS:
            options[f"GGML_{backend.upper()}"] = "ON" if backend in BASE_BACKENDS else "OFF"
        return options
