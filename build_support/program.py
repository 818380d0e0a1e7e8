"""Programs compiled against the built libraries: the C loop of the benchmarks, upstream's own tools in the tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from build_support.builder import pin
from build_support.cache import cache_dir
from build_support.errors import BuildError
from build_support.process import Console
from build_support.source import pinned_source

_COMPILERS = {
    ".c": ("CC", ("cc", "gcc", "clang"), "-std=gnu11"),
    ".cpp": ("CXX", ("c++", "g++", "clang++"), "-std=c++17"),
}
_HEADERS = ("include", "ggml/include", "common", "vendor")


@dataclass(frozen=True)
class Libraries:
    """Built libraries, as `llamacore_sys` tells of them.

    Attributes:
        folder: Where they lie.
        commit: llama.cpp commit that they were built from.
    """

    folder: Path
    commit: str

    @property
    def files(self) -> list[Path]:
        """The libraries that a program can link: ours, beside which ggml's own names are modules, or upstream's."""
        return sorted(self.folder.glob("libllamacore*")) or sorted(self.folder.glob("lib*.so"))


def upstream_source(libraries: Libraries, console: Console | None = None) -> Path:
    """The source tree that the libraries were built from, downloaded if it has to be.

    Raises:
        BuildError: It could not be had, or the libraries were built from another one.
    """
    if libraries.commit != pin().commit:
        raise BuildError(
            f"the libraries in {libraries.folder} are llama.cpp {libraries.commit}, the pin is {pin().commit}",
            "build them without --source",
        )
    return pinned_source(pin(), console or Console()).path


def compile_program(
    name: str,
    sources: Sequence[Path],
    libraries: Libraries,
    *,
    options: Sequence[str] = ("-O2",),
    folder: Path | None = None,
) -> Path:
    """Compiles a program and links it with the libraries, unless that was done before.

    Args:
        name: Name of the program.
        sources: C or C++ files, all of one language.
        libraries: What it is linked with, and finds at run time.
        options: More options for the compiler.
        folder: Where programs are kept; None for the cache of this user.

    Returns:
        The program.

    Raises:
        BuildError: There is no compiler with gcc's options, or it failed.
    """
    variable, names, standard = _COMPILERS[sources[0].suffix]
    compiler = os.environ.get(variable, "").split() or [next((n for n in names if shutil.which(n)), "")]
    if not shutil.which(compiler[0]):
        raise BuildError(f"no compiler for {sources[0].name}: none of {', '.join(names)} is on PATH", "install one")
    source = upstream_source(libraries)
    command = [*compiler, standard, *options, *(f"-I{source / header}" for header in _HEADERS), *map(str, sources)]
    command += [*map(str, libraries.files), f"-Wl,-rpath,{libraries.folder}", "-pthread", "-lm"]
    digest = hashlib.sha256("\0".join(command).encode())
    for path in sources:
        digest.update(path.read_bytes())
    for path in libraries.files:
        digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    program = (folder or cache_dir() / "programs") / digest.hexdigest()[:16] / name
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as aside:
        made = Path(aside, name)
        result = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BuildError(f"compiling {name} failed:\n{result.stderr.strip()[:2000]}", "read the compiler's message")
        os.replace(made, program)
    return program
