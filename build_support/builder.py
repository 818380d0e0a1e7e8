"""The whole build, in order."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from build_support.bindings import generate_extension
from build_support.config import BuildConfig
from build_support.errors import BuildError
from build_support.lock import exclusive
from build_support.package import RECORD, built_files, install, remove, stage, sweep
from build_support.pin import Pin, read_pin
from build_support.process import Console, run_logged
from build_support.source import Source, local_source, pinned_source
from build_support.toolchain import Toolchain, default_jobs, find_toolchain

ROOT = Path(__file__).resolve().parent.parent
SYS_DIR = ROOT / "llamacore_sys"
BUILD_ROOT = ROOT / "build"
_FREE_BYTES_WANTED = 200 << 20


def pin() -> Pin:
    """The pin of this source tree."""
    return read_pin(SYS_DIR / "UPSTREAM")


def fetch(console: Console) -> Path:
    """Downloads and unpacks the pinned source, for building offline later; returns its folder."""
    with _file_errors():
        return pinned_source(pin(), console).path


def _source(config: BuildConfig, console: Console) -> Source:
    if config.source is not None:
        return local_source(config.source, pin(), allow_unpinned=config.allow_unpinned)
    return pinned_source(pin(), console)


def build(config: BuildConfig, package: Path = SYS_DIR, console: Console | None = None) -> list[Path]:
    """Builds what is not built yet and installs it into a package folder.

    Args:
        config: What to build.
        package: The folder that receives the extension, the libraries (`lib/`) and the record of the build.
        console: Where progress is shown.

    Returns:
        The installed files.

    Raises:
        BuildError: Something failed; the package folder is as it was.
    """
    console = console or Console()
    with _file_errors(), exclusive(BUILD_ROOT / "lock", console.say):
        build_dir = BUILD_ROOT / f"cmake-{config.name}"
        log = build_dir / "build.log"
        build_dir.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        sweep(build_dir, "stage-*")
        free = shutil.disk_usage(build_dir).free
        if not (build_dir / "build.ninja").exists() and free < _FREE_BYTES_WANTED:
            raise BuildError(
                f"{free >> 20} MiB are free for {build_dir}; a build takes {_FREE_BYTES_WANTED >> 20} MiB",
                "free some space and run the command again",
            )
        toolchain = find_toolchain(config.backends)
        source = _source(config, console)
        generated = build_dir / "generated" / "_native.c"
        generate_extension(SYS_DIR, source.path, generated)
        _configure(config, toolchain, source, generated, build_dir, log, console)
        _compile(config, toolchain, build_dir, log, console)
        return _install(config, toolchain, source, build_dir, package)


def clean(console: Console) -> None:
    """Removes every build folder and the built files in the package; the downloaded source stays."""
    with _file_errors(), exclusive(BUILD_ROOT / "lock", console.say):
        remove(SYS_DIR)
        for path in BUILD_ROOT.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


def _configure(
    config: BuildConfig, tools: Toolchain, source: Source, generated: Path, build_dir: Path, log: Path, console: Console
) -> None:
    options = {
        **config.cmake_options(),
        **tools.cmake_options(),
        "LLAMACORE_UPSTREAM_DIR": str(source.path),
        "LLAMACORE_VERSION": source.version,
        "LLAMACORE_COMMIT": source.commit,
        "LLAMACORE_EXTENSION_C": str(generated),
    }
    command = [tools.cmake, "-G", "Ninja", "-S", str(SYS_DIR), "-B", str(build_dir)]
    command += [f"-D{key}={value}" for key, value in options.items()]
    compilers = {key: os.environ.get(key, "") for key in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDACXX")}
    asked = json.dumps([command, compilers])
    stamp = build_dir / "configured.json"
    if (build_dir / "build.ninja").exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == asked:
        return
    stamp.unlink(missing_ok=True)
    # CMake keeps what it found at first; a new toolchain is a new search. Objects stay, ninja knows which still fit.
    (build_dir / "CMakeCache.txt").unlink(missing_ok=True)
    for found in (build_dir / "CMakeFiles").glob("[0-9]*.[0-9]*"):
        shutil.rmtree(found)
    console.say(
        f"configuring llama.cpp {source.version} ({source.commit}): {config.profile}, {', '.join(config.backends)}"
    )
    run_logged(command, log, console, what="configuring the build")
    stamp.write_text(asked, encoding="utf-8")


def _compile(config: BuildConfig, tools: Toolchain, build_dir: Path, log: Path, console: Console) -> None:
    jobs = config.jobs or default_jobs()
    env = {
        "NINJA_STATUS": "[%f/%t] ",
        "CCACHE_BASEDIR": str(ROOT),  # a checkout elsewhere finds the same entries
        "CCACHE_NOHASHDIR": "1",
    }
    command = [tools.ninja, "-C", str(build_dir), "-j", str(jobs), "llamacore"]
    run_logged(command, log, console, what="compiling", env=env)


def _install(config: BuildConfig, tools: Toolchain, source: Source, build_dir: Path, package: Path) -> list[Path]:
    libraries = [line.split(" ", 1) for line in (build_dir / "libraries.txt").read_text(encoding="utf-8").splitlines()]
    record = _record(config, source, libraries)
    stamp = build_dir / f"installed-{hashlib.sha256(str(package).encode()).hexdigest()[:12]}.json"
    state = json.dumps([record, _state(build_dir, [name for _, name in libraries]), _listing(package)])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        return built_files(package)
    with tempfile.TemporaryDirectory(prefix="stage-", dir=build_dir) as folder:
        staged = stage(tools.cmake, build_dir, SYS_DIR, record, Path(folder))
        files = install(staged, package)
    state = json.dumps([record, _state(build_dir, [name for _, name in libraries]), _listing(package)])
    stamp.write_text(state, encoding="utf-8")
    return files


def _record(config: BuildConfig, source: Source, libraries: list[list[str]]) -> str:
    """The text of `_build.py`: what was built, for the package to read without opening a library."""
    linked = tuple(name for kind, name in libraries if kind == "SHARED_LIBRARY")
    modules = tuple(name for kind, name in libraries if kind != "SHARED_LIBRARY")
    return (
        '"""What this copy of the libraries is. Written by build_lib.py."""\n\n'
        f"VERSION = {source.version!r}\n"
        f"COMMIT = {source.commit!r}\n"
        f"PROFILE = {config.profile!r}\n"
        f"BACKENDS: tuple[str, ...] = {config.backends!r}\n"
        "# In the order in which they can be opened one by one.\n"
        f"LIBRARIES: tuple[str, ...] = {linked!r}\n"
        "# Opened at run time by explicit path.\n"
        f"MODULES: tuple[str, ...] = {modules!r}\n"
    )


def _state(build_dir: Path, names: list[str]) -> list[tuple[str, int, int]]:
    """Size and time of everything that an install copies, and of what checks it."""
    paths = [*(build_dir / "bin" / name for name in names), *build_dir.glob("_native.*"), *SYS_DIR.glob("*.py")]
    stats = [(path, path.stat()) for path in paths if path.exists() and path.name != RECORD]
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _listing(package: Path) -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_size) for path in built_files(package)]


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cause, cure = f"the disk is full: {error}", "free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            cause, cure = f"a file cannot be written: {error}", "correct permissions, close programs that use it,"
        else:
            raise
        raise BuildError(cause, f"{cure} and run the command again; it continues where this run ended") from error
