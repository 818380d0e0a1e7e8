"""What is installed: the libraries, where they come from, which modules there are. No library is opened for that.

So it can be told of an installation that is broken, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import llamacore_sys
from llamacore_sys import _complete, _gate, _modules, _platform, _search


@dataclass(frozen=True)
class Installation:
    """What this copy of `llamacore_sys` was compiled with, and the libraries that it will use.

    Attributes:
        llama_cpp: Version of llama.cpp.
        commit: Its commit.
        profile: `native` (for the machine that it was built on) or `portable`.
        folder: Absolute path of the folder with the libraries.
        origin: What chose that folder, in words.
        chosen_by: The same in one word: `environment`, `companion set` or `package`.
        libraries: File names of the libraries, each after those that it depends on.
    """

    llama_cpp: str
    commit: str
    profile: str
    folder: str
    origin: str
    chosen_by: str
    libraries: tuple[str, ...]


@dataclass(frozen=True)
class Module:
    """A back end in a file of its own, which is opened at run time.

    Attributes:
        backend: Its back end, as the file is called.
        path: Absolute path of the file.
        origin: What it comes from, in words.
        problem: Why it is not opened; empty when it is.
    """

    backend: str
    path: str
    origin: str
    problem: str


def installation() -> Installation:
    """Tell what is installed.

    Raises:
        ImportError: `llamacore_sys` is not built, or the folder that was chosen is gone; it says what to do.
    """
    upstream, folder = llamacore_sys.UPSTREAM, llamacore_sys.folder
    from llamacore_sys import _build  # behind the line that says so when there is none

    return Installation(
        llama_cpp=str(upstream.version),
        commit=str(upstream.commit),
        profile=str(_build.PROFILE),
        folder=str(folder.path),
        origin=str(folder.origin),
        chosen_by=str(folder.chosen_by),
        libraries=tuple(_search.libraries_of(folder.path, _build.LIBRARIES)),
    )


def modules() -> list[Module]:
    """The modules that there are, in the order in which they are opened, with those that must not be.

    Raises:
        ImportError: As for `installation`.
    """
    return [Module(*found) for found in _modules.find_modules(llamacore_sys.folder, llamacore_sys.UPSTREAM.commit)]


def cpu_variants() -> list[Module]:
    """The CPU back ends that were compiled for different processors; none where the CPU is linked in.

    Raises:
        ImportError: As for `installation`.
    """
    return [Module(*found) for found in _modules.find_cpu_variants(llamacore_sys.folder)]


def why_incomplete(path: str) -> str:
    """What is missing of a library's file, which the loader would crash on; empty for nothing."""
    return _complete.why_incomplete(path)


def struct_sizes() -> dict[str, int]:
    """The structs that travel by value: their bytes by name, as compiled. The one thing here that opens the libraries.

    Raises:
        ImportError: They cannot be opened, or do not fit.
    """
    return _gate.struct_sizes()


def platform_key() -> str:
    """This machine's platform, as in `x86_64-linux`.

    Raises:
        ValueError: llamacore has no name for it.
    """
    return _platform.platform_key()
