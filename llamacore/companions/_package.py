"""What is known of `llamacore_sys` without opening its libraries.

Those that cannot be opened must not keep this package from replacing them. Whatever needs them runs in a process of its
own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import llamacore_sys
from llamacore_sys import _modules, _platform, _search

from ..errors import CompanionError

ADDONS = _modules.ADDONS
_ASK_FOR_SIZES = "import json; from llamacore_sys import _gate; print(json.dumps(_gate.struct_sizes()))"
_PATIENCE_SECONDS = 300


class Pin(NamedTuple):
    """The llama.cpp that this llamacore was compiled for."""

    version: str
    commit: str


def pin() -> Pin:
    """Version and commit of llama.cpp that sets must have.

    Raises:
        CompanionError: This llamacore is not built.
    """
    try:
        from llamacore_sys import _build
    except ImportError:
        raise CompanionError(
            "this llamacore is not built", hint="run `python build_lib.py build` in the checkout, or reinstall it"
        ) from None
    return Pin(_build.VERSION, _build.COMMIT)


def platform_key() -> str:
    """The key of this machine's platform, as in "x86_64-linux".

    Raises:
        CompanionError: llamacore has no name for it.
    """
    try:
        return _platform.platform_key()
    except ValueError as exc:
        raise CompanionError(f"there are no companion sets for this machine: {exc}") from None


def libs_folder() -> Path:
    """Folder of all that is installed for this user, whatever the llama.cpp."""
    return Path(_search.data_dir(), "libs")


def base_marker(commit: str) -> Path:
    """The file that names the `lib` folder of the active base set for a llama.cpp commit."""
    return Path(_search.companion_marker(commit))


def addon_marker(commit: str, backend: str) -> Path:
    """The file that names the folder of the active add-on set of a back end."""
    return Path(_search.addon_marker(commit, backend))


def bundled_folder() -> Path:
    """Folder of the libraries that the package itself has."""
    return Path(llamacore_sys.__path__[0], "lib").absolute()


def lib_dir_variable() -> str | None:
    """The value of the environment variable that wins over what is installed; None when it is not set."""
    return os.environ.get(_search.ENV_LIB_DIR) or None


def library_folder() -> _search.LibraryFolder:
    """Where libraries are taken from now, and what chose it.

    Raises:
        ImportError: What chose it names a folder that is not there.
    """
    return _search.find_library_folder(pin().commit)


def modules(folder: _search.LibraryFolder) -> list[_modules.Module]:
    """The back ends that are there to be opened beside these libraries."""
    return _modules.find_modules(folder, pin().commit)


def run_python(code: str, lib_dir: Path | None) -> subprocess.CompletedProcess[str]:
    """Run code in a new process that finds the same packages as this one.

    Args:
        code: What it runs.
        lib_dir: Folder of the libraries it uses; None for those that are installed for this user, or bundled.

    Raises:
        subprocess.TimeoutExpired: It did not end.
    """
    environ = {name: value for name, value in os.environ.items() if name != _search.ENV_LIB_DIR}
    if lib_dir is not None:
        environ[_search.ENV_LIB_DIR] = str(lib_dir)
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
        env=environ, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
        timeout=_PATIENCE_SECONDS, check=False,
    )  # fmt: skip


@lru_cache(maxsize=1)
def struct_sizes() -> dict[str, int] | None:
    """Bytes of each struct that travels by value, as the extension was compiled.

    Returns:
        Them by name; None when even the bundled libraries, without which nobody can ask, do not load.
    """
    asked = run_python(_ASK_FOR_SIZES, bundled_folder())
    if asked.returncode != 0:
        return None
    sizes: dict[str, int] = json.loads(asked.stdout)
    return sizes
