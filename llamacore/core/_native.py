"""The one door to the native libraries. What is installed can be told without opening it: `installation.py`.

Everything native is untyped (`Any`) by nature; it stops here and in the `core` modules that own a handle.
"""

from __future__ import annotations

import os
from typing import Any

import llamacore_sys

from ..errors import InvalidArgumentError

ffi: Any = llamacore_sys.ffi
lib: Any = llamacore_sys.lib
lib_dir: str = str(llamacore_sys.lib_dir)


def text(pointer: Any) -> str:
    """Decode a NUL-terminated C string, replacing bytes that are not UTF-8; an empty string for NULL."""
    if pointer == ffi.NULL:
        return ""
    raw: bytes = ffi.string(pointer)
    return raw.decode("utf-8", "replace")


def path_bytes(path: str) -> bytes:
    """Encode a file path for the C API, which takes UTF-8 on Windows and the file system encoding elsewhere."""
    raw = path.encode("utf-8") if os.name == "nt" else os.fsencode(path)
    if b"\0" in raw:
        raise InvalidArgumentError(f"the path {path!r} contains a NUL character")
    return raw
