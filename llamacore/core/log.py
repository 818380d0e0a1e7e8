"""Native log lines, from the ring in the shim to `logging.getLogger("llamacore.native")`.

The native code writes into a ring buffer and never calls into Python. Lines are handed on when a slow call (loading,
creating a context, quantising) or a failed call ends, and by `drain()`. The logger is silent until a handler is set.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ._native import ffi, lib

logger = logging.getLogger("llamacore.native")
logger.addHandler(logging.NullHandler())

_LINE_BYTES = 8192
_lock = threading.Lock()
_next_to_drain = 1
_level = logging.INFO

_LEVELS: dict[int, int] = {
    lib.GGML_LOG_LEVEL_DEBUG: logging.DEBUG,
    lib.GGML_LOG_LEVEL_INFO: logging.INFO,
    lib.GGML_LOG_LEVEL_WARN: logging.WARNING,
    lib.GGML_LOG_LEVEL_ERROR: logging.ERROR,
}


def install() -> None:
    """Route every native log of this process into the ring. Called once, by `backend.init()`."""
    lib.llc_log_install(lib.GGML_LOG_LEVEL_INFO)


def set_level(level: int) -> None:
    """Choose which native lines are kept at all.

    Args:
        level: A level of the `logging` module; the default is `logging.INFO`. Lines below it are dropped in C.
            Errors carry no native log lines when it is above `logging.ERROR`.
    """
    global _level
    _level = level
    native = [value for value, python in sorted(_LEVELS.items()) if python >= level]
    lib.llc_log_set_level(native[0] if native else lib.GGML_LOG_LEVEL_CONT)


@contextmanager
def kept(level: int) -> Iterator[None]:
    """Keep lines from `level` on for a while, even where `set_level` asked for fewer."""
    before = _level
    set_level(min(level, before))
    try:
        yield
    finally:
        set_level(before)


def mark() -> int:
    """Return the number the next native line will get, for `problems_since`."""
    return int(lib.llc_log_next())


def lines(start: int) -> list[tuple[int, int, int, str]]:
    """Return number, thread, native level and text of the lines from number `start` on that the ring still holds."""
    entry = ffi.new("struct llc_log_entry *")
    buffer = ffi.new("char[]", _LINE_BYTES)
    found = []
    while lib.llc_log_read(start, entry, buffer, _LINE_BYTES):
        line = ffi.unpack(buffer, entry.length).decode("utf-8", "replace")
        found.append((int(entry.seq), int(entry.thread), int(entry.level), line))
        start = entry.seq + 1
    return found


def problems_since(start: int) -> tuple[str, ...]:
    """Return the warnings and errors that the calling thread caused since `start`, oldest first."""
    thread = int(lib.llc_thread_id())
    return tuple(
        line for _, writer, level, line in lines(start) if writer == thread and level >= lib.GGML_LOG_LEVEL_WARN
    )


def drain() -> int:
    """Hand the native lines that have come since the last drain to the logger.

    Returns:
        The number of lines handed on; lines that the ring had to overwrite are lost.
    """
    global _next_to_drain
    with _lock:
        found = lines(_next_to_drain)
        if found:
            _next_to_drain = found[-1][0] + 1
    for _, _, level, line in found:
        logger.log(_LEVELS.get(level, logging.INFO), "%s", line)
    return len(found)
