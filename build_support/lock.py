"""One build at a time: a lock that the operating system drops when its holder dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def _try_lock(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _wait_lock(file: IO[str]) -> None:
    if sys.platform == "win32":
        import time

        while not _try_lock(file):
            time.sleep(0.2)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX)


@contextmanager
def exclusive(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock `path` while the block runs; waits, and says so once, while another process holds it.

    The file stays where it is: removing it would let two processes lock two different files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id sits behind the locked first byte, so that Windows lets others read it.
    with open(path, "a+", encoding="ascii") as file:
        if not _try_lock(file):
            file.seek(1)
            holder = file.read().strip() or "unknown"
            say(f"another build (process {holder}) is at work in {path.parent}; waiting for it to end")
            _wait_lock(file)
        file.truncate(0)
        file.write(f" {os.getpid()}\n")
        file.flush()
        yield
