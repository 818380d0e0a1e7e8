"""llama.cpp for Python, nothing else: `ffi`, `lib`, the folder of the libraries and the pin.

The libraries are opened when `ffi` or `lib` is first used. `import llamacore_sys` opens nothing and reads nothing, so
that `llamacore_sys._build` (what this copy is), `_search` (where libraries come from), `_modules` (which back ends
there are) and `_platform` can be asked about an installation that is broken.

No Python API lives here, and no back end is loaded; `llamacore.core` does both. What is checked of the libraries is
told in `_gate.py`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

__all__ = ["UPSTREAM", "ffi", "folder", "lib", "lib_dir"]

if TYPE_CHECKING:
    from llamacore_sys._search import LibraryFolder

    UPSTREAM: Upstream
    """The llama.cpp that this package was compiled for."""
    folder: LibraryFolder
    """Where the libraries come from, and what chose it."""
    lib_dir: str
    """Absolute path of that folder."""
    ffi: Any
    lib: Any


class Upstream(NamedTuple):
    """A llama.cpp."""

    version: str
    commit: str


_lock = threading.RLock()


def __getattr__(name: str) -> Any:
    """Finds or opens what is asked for the first time.

    Raises:
        ImportError: The package is not built, or the libraries cannot be found, opened or used; it says what to do.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lock:
        if name not in globals():
            globals().update(_open() if name in ("ffi", "lib") else _found())
        return globals()[name]


def _found() -> dict[str, Any]:
    from llamacore_sys._search import find_library_folder

    try:
        from llamacore_sys import _build
    except ImportError:
        raise ImportError(
            "llamacore_sys is not built: run `python build_lib.py build` in the checkout, or `pip install .`"
        ) from None
    place = find_library_folder(_build.COMMIT)
    return {"UPSTREAM": Upstream(_build.VERSION, _build.COMMIT), "folder": place, "lib_dir": place.path}


def _open() -> dict[str, Any]:
    from llamacore_sys._gate import CURE, check
    from llamacore_sys._search import prepare

    found = _found()
    place = found["folder"]
    try:
        from llamacore_sys import _build

        prepare(place, _build.LIBRARIES)
        from llamacore_sys._native import ffi, lib
    except (ImportError, OSError) as error:
        raise ImportError(
            f"the llama.cpp libraries cannot be loaded from {place.path} ({place.origin}): {error}. To cure: {CURE}."
        ) from error
    check(ffi, lib, place.path, place.origin)
    return {**found, "ffi": ffi, "lib": lib}
