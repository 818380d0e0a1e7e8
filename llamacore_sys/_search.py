"""Which folder the libraries come from, and opening those of a folder that is not the package's own.

In this order:

1. `LLAMACORE_LIB_DIR`, when set and not empty: a folder with the libraries, or a companion set with `lib/` inside.
2. The companion set that `llamacore libs install` has made active for the llama.cpp commit that this package was
   compiled for: the folder whose absolute path is the one line of
   `<user data>/llamacore/libs/<commit>/active` (`LLAMACORE_DATA_DIR`, `XDG_DATA_HOME` or the platform's folder).
3. `lib/` beside this file.

A companion set is tied to the commit, so that an upgraded package goes back to its own libraries. Modules are found in
`_modules.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

ENV_LIB_DIR = "LLAMACORE_LIB_DIR"
ENV_DATA_DIR = "LLAMACORE_DATA_DIR"
COMPANION_FILE = "companion.json"
_OURS = ("libllamacore", "llamacore")
_BACKENDS = tuple(f"{start}-ggml-{name}." for start in _OURS for name in ("cpu", "rpc"))


class LibraryFolder(NamedTuple):
    """An absolute folder, and what chose it.

    Attributes:
        path: The folder with the libraries.
        origin: What chose it, in words for messages.
        chosen_by: The same in one word: `environment`, `companion set` or `package`.
    """

    path: str
    origin: str
    chosen_by: str

    @property
    def bundled(self) -> bool:
        """Whether it is the package's own."""
        return self.chosen_by == "package"


def data_dir() -> str:
    """The folder for data of this user: companion sets live in `libs/` under it. It need not exist."""
    environ = os.environ
    if environ.get(ENV_DATA_DIR):
        return os.path.abspath(os.path.expanduser(environ[ENV_DATA_DIR]))
    if sys.platform == "win32":
        base = environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Application Support")
    else:
        base = environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "llamacore")


def companion_marker(commit: str) -> str:
    """The file whose one line names the active companion set for this llama.cpp commit."""
    return os.path.join(data_dir(), "libs", commit, "active")


def addon_marker(commit: str, backend: str) -> str:
    """The file whose one line names the active add-on set of a back end for this llama.cpp commit."""
    return os.path.join(data_dir(), "libs", commit, "addons", backend)


def find_library_folder(commit: str) -> LibraryFolder:
    """The folder to load the libraries from.

    Raises:
        ImportError: `LLAMACORE_LIB_DIR` or the companion marker names a folder that is not there.
    """
    wanted = os.environ.get(ENV_LIB_DIR)
    if wanted:
        path = os.path.abspath(os.path.expanduser(wanted))
        if not os.path.isdir(path):
            raise ImportError(
                f"{ENV_LIB_DIR}={wanted} is no folder: correct it, or unset it to use the bundled libraries"
            )
        if os.path.isfile(os.path.join(path, COMPANION_FILE)):
            path = os.path.join(path, "lib")
        return LibraryFolder(path, f"{ENV_LIB_DIR}={wanted}", "environment")
    marker = companion_marker(commit)
    try:
        with open(marker, encoding="utf-8", errors="surrogateescape") as file:
            path = file.read().strip()
    except FileNotFoundError:
        return LibraryFolder(
            os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"), "the bundled libraries", "package"
        )
    if not os.path.isabs(path) or not os.path.isdir(path):
        raise ImportError(
            f"the companion set named in {marker} is gone ({path!r}): "
            "run `llamacore libs install` again, or delete that file to use the bundled libraries"
        )
    return LibraryFolder(path, f"the companion set named in {marker}", "companion set")


def libraries_of(folder: str, names: Sequence[str]) -> list[str]:
    """The libraries that a folder has, or should have, each after those that it depends on.

    A package and a set may be of different profiles: with one of them the CPU is a library that is linked in, with the
    other a module. So back ends count only where they are.

    Args:
        folder: The folder.
        names: The libraries that the package itself was built with, in order.
    """
    try:
        there = {name for name in os.listdir(folder) if name.startswith(_OURS)}
    except OSError:
        there = set()
    wanted = [name for name in names if name in there or not name.startswith(_BACKENDS)]
    return [*sorted(there.difference(names)), *wanted]


def prepare(folder: LibraryFolder, names: Sequence[str]) -> None:
    """Makes the libraries of a folder the ones that the extension, loaded next, will find.

    The bundled folder is found through the extension's own run path. Libraries of another folder are opened first, by
    absolute path; the loader then takes them by name for the extension too. They find each other by their run paths.

    Args:
        folder: Where they lie.
        names: The libraries that the package was built with, each after those that it depends on.

    Raises:
        OSError: One is missing, cut off or cannot be opened.
    """
    from llamacore_sys._complete import why_incomplete

    for name in libraries_of(folder.path, names):
        problem = why_incomplete(os.path.join(folder.path, name))
        if problem:
            raise OSError(problem)
    if sys.platform == "win32":
        os.add_dll_directory(folder.path)
    if folder.bundled:
        return
    import ctypes  # only here: most imports never need it

    for name in names:
        if not name.startswith(_BACKENDS):
            ctypes.CDLL(os.path.join(folder.path, name))  # RTLD_LOCAL: its symbols stay out of the global space
