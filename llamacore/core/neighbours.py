"""Libraries of Python packages that a back end needs, where its own run path does not lead to them.

An add-on that was installed as a Python package finds those of other packages by its run path. One that lies elsewhere,
in a companion set or beside the libraries, does not; the loader takes what is open already.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# What each is in, from site-packages; each after those that it needs itself.
_PLACES = {
    "libcublas.so.13": ("nvidia/cu13/lib", ("libcublasLt.so.13", "libcublas.so.13")),
    "libscipy_openblas.so": ("scipy_openblas32/lib", ("libscipy_openblas.so",)),
}


def open_missing(reason: str) -> bool:
    """Open what a back end lacks, if a Python package has it; they stay open as long as the process lives.

    Args:
        reason: Why the back end could not be opened, as the loader says.

    Returns:
        Whether something was opened: it is worth another try.
    """
    for library, (place, names) in _PLACES.items():
        if library not in reason:
            continue
        for entry in filter(None, sys.path):
            folder = Path(entry, place)
            if (folder / library).is_file():
                try:
                    for name in names:
                        ctypes.CDLL(str(folder / name))
                except OSError:
                    return False
                return True
    return False
