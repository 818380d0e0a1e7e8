"""One change at a time: a lock that the operating system drops when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def _taken(file: IO[str]) -> bool:
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


@contextmanager
def exclusive(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `path` while the block runs; wait, and say so once, while another process has it.

    The file stays where it is: removing it would let two processes lock two different files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="ascii") as file:
        said = False
        while not _taken(file):
            if not said:
                file.seek(1)  # the process id sits behind the locked first byte, so that Windows lets others read it
                say(f"another change of the libraries (process {file.read().strip() or 'unknown'}) is at work: waiting")
                said = True
            time.sleep(0.1)
        file.truncate(0)
        file.write(f" {os.getpid()}\n")
        file.flush()
        yield
