"""What the pyproject.toml of an add-on cannot say: its package is a companion set, for one platform and any Python."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

from build_support.builder import BUILD_ROOT, ROOT, build_addons, pin
from build_support.companions import Making, make_set
from build_support.config import ENV_BACKENDS, BuildConfig
from build_support.errors import BuildError
from build_support.gate import Gate
from build_support.libraries import collect, split
from build_support.platforms import this_platform
from build_support.process import Console
from build_support.source import pinned_source
from build_support.tarball import source_date
from build_support.toolchain import missing_tools
from build_support.versions import project_version


def setup_addon(backend: str) -> None:
    """The `setup()` of the project in `addons/<backend>`; everything built stays out of the project's folder.

    Args:
        backend: The back end; the `LLAMACORE_BUILD_*` variables say how it is built.
    """

    class BuildPackage(build_py):  # type: ignore[misc]
        def run(self) -> None:
            super().run()
            try:
                _fill(Path(self.build_lib, f"llamacore_{backend}"), backend)
            except BuildError as error:
                raise SystemExit(f"error: {error}") from None

    class BuildWheel(bdist_wheel):  # type: ignore[misc]
        def get_tag(self) -> tuple[str, str, str]:
            return "py3", "none", super().get_tag()[2]

    work = BUILD_ROOT / f"project-{backend}"
    shutil.rmtree(work, ignore_errors=True)  # files of an earlier build must not get into a wheel
    work.mkdir(parents=True)
    options: dict[str, dict[str, Any]] = {
        "build": {"build_base": str(work)},
        "egg_info": {"egg_base": str(work)},
    }
    setup(
        cmdclass={"build_py": BuildPackage, "bdist_wheel": BuildWheel},
        distclass=type("Platform", (Distribution,), {"has_ext_modules": lambda self: True}),
        options=options,
        setup_requires=["pip", *missing_tools()],  # pip downloads what is linked to
    )


def _fill(package: Path, backend: str) -> None:
    """Puts the companion set of an add-on into its package."""
    config = BuildConfig.from_environment({**os.environ, ENV_BACKENDS: backend})
    console = Console()
    [module] = build_addons(config, console)
    platform = this_platform()
    _, sets = split(collect([module.parent], platform), [backend])
    gate = Gate(pin().version, pin().commit, {})  # structs are the base's business
    source = pinned_source(pin(), console).path
    making = Making(project_version(ROOT), platform, gate, ROOT, source, source_date(ROOT))
    with tempfile.TemporaryDirectory(dir=package.parent) as aside:
        shutil.copytree(make_set(Path(aside), making, sets[backend], backend), package, dirs_exist_ok=True)
