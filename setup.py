"""What pyproject.toml cannot say: the native build as `build_ext`."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build import build as _build
from setuptools.command.build_ext import build_ext as _build_ext

import build_lib

ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")


class build(_build):
    """Starts from an empty folder: files of an earlier build must not get into a wheel."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class build_ext(_build_ext):
    """Runs `build_lib.build` into the wheel's folder, or into the source tree for an editable install."""

    installed: tuple[Path, ...] = ()

    def run(self) -> None:
        config = build_lib.BuildConfig.from_environment()
        in_place = self.inplace or self.editable_mode
        usual = config.profile == build_lib.BuildConfig().profile and not config.addons
        try:
            if in_place or usual:
                # The usual build stays in the checkout too: Python started there finds that copy of the package first.
                self.installed = tuple(build_lib.build(config))
            if not in_place:
                package = Path(self.build_lib).resolve() / "llamacore_sys"
                self.installed = tuple(build_lib.build(config, package))
        except build_lib.BuildError as error:
            raise SystemExit(f"error: {error}") from None

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.installed]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable install finds the built files where they are


setup(
    packages=find_packages(include=["llamacore", "llamacore.*", "llamacore_sys"]),
    # No sources: the entry makes the wheel platform-specific and names the extension.
    ext_modules=[Extension("llamacore_sys._native", sources=[], py_limited_api=ABI3)],
    cmdclass={"build": build, "build_ext": build_ext},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ABI3 else {},
)
