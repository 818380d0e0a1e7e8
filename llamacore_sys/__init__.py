"""llama.cpp for Python, nothing else: `ffi`, `lib`, the folder of the libraries and the pin.

No Python API lives here, and no back end is loaded by the import; `llamacore.core` does both. Where the libraries come
from is told in `_search.py`, what is checked of them in `_gate.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from llamacore_sys._gate import CURE, check
from llamacore_sys._search import find_library_folder, prepare

try:
    from llamacore_sys import _build
except ImportError:
    raise ImportError(
        "llamacore_sys is not built: run `python build_lib.py build` in the checkout, or `pip install .`"
    ) from None

__all__ = ["UPSTREAM", "ffi", "lib", "lib_dir"]


class Upstream(NamedTuple):
    """The llama.cpp that this package was compiled for."""

    version: str
    commit: str


UPSTREAM = Upstream(_build.VERSION, _build.COMMIT)

_folder = find_library_folder(_build.COMMIT)

lib_dir: str = _folder.path
"""Absolute folder of the libraries; loadable back ends lie in it too."""

try:
    prepare(_folder, _build.LIBRARIES)
    from llamacore_sys._native import ffi, lib
except (ImportError, OSError) as error:
    raise ImportError(
        f"the llama.cpp libraries cannot be loaded from {lib_dir} ({_folder.origin}): {error}. To cure: {CURE}."
    ) from error

check(ffi, lib, lib_dir, _folder.origin)
