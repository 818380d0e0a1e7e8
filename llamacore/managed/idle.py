"""A thread that looks after something from time to time, and never keeps it alive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

Watched = TypeVar("Watched")


class IdleWatch(Generic[Watched]):
    """Calls `look(watched)` in a thread of its own, and again after the seconds that it returned; None ends it.

    Args:
        watched: What is looked after; the thread ends when it is collected.
        look: Returns in how many seconds to look again.
    """

    def __init__(self, watched: Watched, look: Callable[[Watched], float | None]) -> None:
        self._stop = threading.Event()
        reference = weakref.ref(watched)
        weakref.finalize(watched, self._stop.set).atexit = False
        self._thread = threading.Thread(
            target=_run, args=(reference, look, self._stop), name="llamacore-idle", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End it soon, without waiting for it."""
        self._stop.set()


def _run(reference: weakref.ref[Watched], look: Callable[[Watched], float | None], stop: threading.Event) -> None:
    pause: float | None = 0.0
    while pause is not None and not stop.wait(pause):
        watched = reference()
        if watched is None:
            return
        pause = look(watched)
        del watched
