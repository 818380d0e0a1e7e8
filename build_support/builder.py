"""The whole build, in order."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import runpy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from build_support.addons import Addon, find_addons, module_name
from build_support.bindings import generate_extension, shim_interface
from build_support.config import ADDON_BACKENDS, BASE_BACKENDS, BuildConfig
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
_BASE_BYTES = 200 << 20
_LOG = "build.log"
_VARIABLES = (
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX"),
    *("CMAKE_PREFIX_PATH", "VULKAN_SDK"),
)


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
        toolchain = find_toolchain()
        addons = find_addons(config, console)
        base_dir = BUILD_ROOT / f"cmake-{config.profile}"
        _prepare(base_dir, _BASE_BYTES)
        for addon in addons:
            _prepare(_addon_dir(addon.backend), addon.free_bytes)
        source = _source(config, console)
        generated = base_dir / "generated" / "_native.c"
        generate_extension(SYS_DIR, source.path, generated)
        options = config.cmake_options() | toolchain.extension_options()
        options |= {
            "LLAMACORE_EXTENSION_C": str(generated),
            "LLAMACORE_INTERFACE": shim_interface(SYS_DIR / "shim" / "llamacore_shim.h"),
        }
        _configure(options, config.profile, toolchain, source, base_dir, console)
        _compile(config, toolchain, base_dir, console)
        _make_addons(addons, config, toolchain, source, console)
        return _install(config, toolchain, source, base_dir, package, console)


def build_addons(config: BuildConfig, console: Console | None = None) -> list[Path]:
    """Builds the add-ons of a build and nothing else; installs nothing.

    Args:
        config: What to build.
        console: Where progress is shown.

    Returns:
        The module of each add-on, in its build folder.

    Raises:
        BuildError: Something failed.
    """
    console = console or Console()
    with _file_errors(), exclusive(BUILD_ROOT / "lock", console.say):
        toolchain = find_toolchain()
        addons = find_addons(config, console)
        for addon in addons:
            _prepare(_addon_dir(addon.backend), addon.free_bytes)
        _make_addons(addons, config, toolchain, _source(config, console), console)
        return [_module(addon.backend) for addon in addons]


def _make_addons(addons: list[Addon], config: BuildConfig, tools: Toolchain, source: Source, console: Console) -> None:
    for addon in addons:
        _configure(addon.cmake_options(), addon.backend, tools, source, _addon_dir(addon.backend), console)
        _compile(config, tools, _addon_dir(addon.backend), console)


def _addon_dir(backend: str) -> Path:
    return BUILD_ROOT / f"cmake-addon-{backend}"


def _module(backend: str) -> Path:
    return _addon_dir(backend) / "bin" / module_name(backend)


def _prepare(build_dir: Path, wanted: int) -> None:
    """Makes a build folder, or removes from it what a build that was killed left."""
    build_dir.mkdir(parents=True, exist_ok=True)
    (build_dir / _LOG).unlink(missing_ok=True)
    sweep(build_dir, "stage-*")
    free = shutil.disk_usage(build_dir).free
    if not (build_dir / "build.ninja").exists() and free < wanted:
        raise BuildError(
            f"{free >> 20} MiB are free for {build_dir}; a build takes {wanted >> 20} MiB",
            "free some space and run the command again",
        )


def clean(console: Console) -> None:
    """Removes every build folder and the built files in the package; the downloaded source stays."""
    with _file_errors(), exclusive(BUILD_ROOT / "lock", console.say):
        remove(SYS_DIR)
        for path in BUILD_ROOT.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


def _configure(
    options: dict[str, str], what: str, tools: Toolchain, source: Source, build_dir: Path, console: Console
) -> None:
    options = {
        **options,
        **tools.cmake_options(),
        "LLAMACORE_UPSTREAM_DIR": str(source.path),
        "LLAMACORE_VERSION": source.version,
        "LLAMACORE_COMMIT": source.commit,
    }
    command = [tools.cmake, "-G", "Ninja", "-S", str(SYS_DIR), "-B", str(build_dir)]
    command += [f"-D{key}={value}" for key, value in options.items()]
    compilers = {key: os.environ.get(key, "") for key in _VARIABLES}
    asked = json.dumps([command, compilers])
    stamp = build_dir / "configured.json"
    if (build_dir / "build.ninja").exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == asked:
        return
    stamp.unlink(missing_ok=True)
    # CMake keeps what it found at first; a new toolchain is a new search. Objects stay, ninja knows which still fit.
    (build_dir / "CMakeCache.txt").unlink(missing_ok=True)
    for found in (build_dir / "CMakeFiles").glob("[0-9]*.[0-9]*"):
        shutil.rmtree(found)
    console.say(f"configuring llama.cpp {source.version} ({source.commit}): {what}")
    run_logged(command, build_dir / _LOG, console, what="configuring the build")
    stamp.write_text(asked, encoding="utf-8")


def _compile(config: BuildConfig, tools: Toolchain, build_dir: Path, console: Console) -> None:
    jobs = config.jobs or default_jobs()
    env = {
        "NINJA_STATUS": "[%f/%t] ",
        "CCACHE_BASEDIR": str(ROOT),  # a checkout elsewhere finds the same entries
        "CCACHE_NOHASHDIR": "1",
    }
    command = [tools.ninja, "-C", str(build_dir), "-j", str(jobs), "llamacore"]
    run_logged(command, build_dir / _LOG, console, what="compiling", env=env)


def _install(
    config: BuildConfig, tools: Toolchain, source: Source, base_dir: Path, package: Path, console: Console
) -> list[Path]:
    libraries = [line.split(" ", 1) for line in (base_dir / "libraries.txt").read_text(encoding="utf-8").splitlines()]
    linked = [name for kind, name in libraries if kind == "SHARED_LIBRARY"]
    modules = [name for kind, name in libraries if kind != "SHARED_LIBRARY"]
    kept = [
        path
        for backend in ADDON_BACKENDS
        if backend not in config.addons and (path := package / "lib" / module_name(backend)).exists()
    ]
    if kept and not _is_of(package, source):
        names = ", ".join(path.name for path in kept)
        console.say(f"removing {names}: built from another llama.cpp; build again with --backend to have it back")
        kept = []
    addons = [_module(backend) for backend in config.addons]
    record = _record(config, source, linked, [*modules, *sorted(path.name for path in (*addons, *kept))])
    made = [*(base_dir / "bin" / name for name in (*linked, *modules)), *addons]
    made += [*base_dir.glob("_native.*"), *(path for path in SYS_DIR.glob("*.py") if path.name != RECORD)]
    stamp = base_dir / f"installed-{hashlib.sha256(str(package).encode()).hexdigest()[:12]}.json"
    inputs = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in made]
    state = json.dumps([record, inputs, _listing(package)])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        return built_files(package)
    with tempfile.TemporaryDirectory(prefix="stage-", dir=base_dir) as folder:
        staged = stage(tools.cmake, base_dir, [path.parents[1] for path in addons], kept, SYS_DIR, record, Path(folder))
        files = install(staged, package)
    stamp.write_text(json.dumps([record, inputs, _listing(package)]), encoding="utf-8")
    return files


def _record(config: BuildConfig, source: Source, libraries: list[str], modules: list[str]) -> str:
    """The text of `_build.py`: what was built, for the package to read without opening a library."""
    return (
        '"""What this copy of the libraries is. Written by build_lib.py."""\n\n'
        f"VERSION = {source.version!r}\n"
        f"COMMIT = {source.commit!r}\n"
        f"PROFILE = {config.profile!r}\n"
        "# Of the base; an add-on is a module more.\n"
        f"BACKENDS: tuple[str, ...] = {BASE_BACKENDS!r}\n"
        "# In the order in which they can be opened one by one.\n"
        f"LIBRARIES: tuple[str, ...] = {tuple(libraries)!r}\n"
        "# Opened at run time by explicit path.\n"
        f"MODULES: tuple[str, ...] = {tuple(modules)!r}\n"
    )


def _is_of(package: Path, source: Source) -> bool:
    """Whether what is installed was built from this source."""
    record = package / RECORD
    if not record.exists():
        return False
    values = runpy.run_path(str(record))
    return (values.get("VERSION"), values.get("COMMIT")) == (source.version, source.commit)


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
