"""Built files into the package `llamacore_sys`, checked first, all or nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from build_support.errors import BuildError

RECORD = "_build.py"


def built_files(package: Path) -> list[Path]:
    """The built files that lie in a package folder now, sorted."""
    return sorted([*package.glob("_native.*"), *package.glob(RECORD), *(package / "lib").glob("*")])


def stage(
    cmake: str,
    base_dir: Path,
    addon_dirs: Sequence[Path],
    kept: Sequence[Path],
    sys_dir: Path,
    record: str,
    stage_dir: Path,
) -> Path:
    """Makes a whole `llamacore_sys` of the built files under `stage_dir`, and imports it once.

    The import resolves every symbol and runs the gate, so what passes here can be loaded. Modules of add-ons are not
    opened, since that may take a driver.

    Args:
        cmake: The program.
        base_dir: Build folder of the base.
        addon_dirs: Build folders of add-ons.
        kept: Modules of add-ons that were built before.
        sys_dir: The package's source folder.
        record: Text of `_build.py`.
        stage_dir: The folder that receives it.

    Returns:
        The staged package, built files only.

    Raises:
        BuildError: The files could not be copied, or cannot be imported.
    """
    package = stage_dir / "llamacore_sys"
    package.mkdir()
    for build_dir, target in ((base_dir, package), *((path, package / "lib") for path in addon_dirs)):
        command = [cmake, "--install", str(build_dir), "--component", "llamacore", "--prefix", str(target)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BuildError(
                f"installing the built files failed: {result.stderr.strip()[-500:]}",
                "free space or correct permissions",
            )
    for path in kept:
        shutil.copy2(path, package / "lib")
    (package / RECORD).write_text(record, encoding="utf-8")
    python_files = [path for path in sys_dir.glob("*.py") if path.name != RECORD]
    for path in python_files:
        shutil.copy2(path, package)
    env = {key: value for key, value in os.environ.items() if key != "LLAMACORE_LIB_DIR"}
    env["LLAMACORE_DATA_DIR"] = str(stage_dir / "no-companions")
    code = f"import sys; sys.path.insert(0, {str(stage_dir)!r}); import llamacore_sys; llamacore_sys.lib"
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = result.stderr.strip().splitlines()[-12:] or [f"exit status {result.returncode}"]
        raise BuildError(
            "the built libraries cannot be imported:\n" + "\n".join(f"    {line}" for line in last),
            "correct the declarations or the shim (undefined symbols are declared, not defined); nothing was installed",
        )
    for path in python_files:
        (package / path.name).unlink()
    shutil.rmtree(package / "__pycache__", ignore_errors=True)
    return package


def install(staged: Path, package: Path) -> list[Path]:
    """Puts staged files into a package folder, all or none.

    Files that a running process has open are replaced, never written to.

    Args:
        staged: What `stage` returned.
        package: The folder of `llamacore_sys`, in the source tree or in a wheel's build folder.

    Returns:
        The files as installed.
    """
    package.mkdir(parents=True, exist_ok=True)
    sweep(package, ".install-*")
    work = Path(tempfile.mkdtemp(prefix=".install-", dir=package))
    moved: list[tuple[Path, Path]] = []
    try:
        shutil.copytree(staged, work / "new")  # onto this file system, so that all that follows is renaming
        (work / "old").mkdir()
        for target, source in ((work / "old", package), (package, work / "new")):
            for path in _parts(source):
                os.replace(path, target / path.name)
                moved.append((path, target / path.name))
    except BaseException:
        for path, target in reversed(moved):
            os.replace(target, path)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return built_files(package)


def sweep(folder: Path, pattern: str) -> None:
    """Removes what a process that was killed left in a folder; the caller holds the lock of that folder."""
    for path in folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


def _parts(package: Path) -> list[Path]:
    """The built files of a package, the libraries as one folder. The record is last to come, it marks a whole set."""
    return [*package.glob("_native.*"), *package.glob("lib"), *package.glob(RECORD)]


def remove(package: Path) -> None:
    """Removes the built files from a package folder."""
    for path in built_files(package):
        path.unlink()
    shutil.rmtree(package / "lib", ignore_errors=True)
