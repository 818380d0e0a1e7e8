"""The PEP 517 door: setuptools' own, plus requirements that depend on the machine, and settings.

`pip install .` gets cmake and ninja from PyPI only where the machine lacks them, and pip itself (which downloads the
pinned source, and libraries that add-ons are linked to) only where it may have to.
`-C profile=portable -C backend=cuda` are the options of `build_lib.py build`, as are the `LLAMACORE_BUILD_*` variables.
"""

from __future__ import annotations

import os
from typing import Any

from setuptools import build_meta

from build_support.builder import pin
from build_support.config import (
    ENV_ALLOW_UNPINNED,
    ENV_BACKENDS,
    ENV_CUDA_ARCH,
    ENV_JOBS,
    ENV_PROFILE,
    ENV_SOURCE,
    BuildConfig,
)
from build_support.errors import BuildError
from build_support.source import needs_download
from build_support.toolchain import missing_tools

Settings = dict[str, Any] | None

_VARIABLES = {
    "profile": ENV_PROFILE,
    "backend": ENV_BACKENDS,
    "source": ENV_SOURCE,
    "allow-unpinned": ENV_ALLOW_UNPINNED,
    "jobs": ENV_JOBS,
    "cuda-arch": ENV_CUDA_ARCH,
}

build_sdist = build_meta.build_sdist
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def _requirements(settings: Settings) -> list[str]:
    _apply(settings)
    requirements = missing_tools()
    try:
        config = BuildConfig.from_environment()
        if (config.source is None and needs_download(pin())) or {"cuda", "blas"}.intersection(config.addons):
            requirements.append("pip")
    except BuildError as error:
        raise SystemExit(f"error: {error}") from None  # one message instead of a traceback
    return requirements


def _apply(settings: Settings) -> Settings:
    """Moves our settings into the environment, where setup.py reads them; returns those of setuptools."""
    rest = dict(settings or {})
    for name, variable in _VARIABLES.items():
        value = rest.pop(name, None)
        if value is not None:
            os.environ[variable] = " ".join(value) if isinstance(value, list) else str(value)
    return rest


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """PEP 517."""
    return _requirements(config_settings)


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """PEP 660."""
    return _requirements(config_settings)


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """PEP 517."""
    return str(build_meta.build_wheel(wheel_directory, _apply(config_settings), metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """PEP 660."""
    return str(build_meta.build_editable(wheel_directory, _apply(config_settings), metadata_directory))
