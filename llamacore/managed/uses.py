"""Who is using something that must not go away meanwhile."""

from __future__ import annotations

import threading
import time
from collections import Counter

from ..errors import BusyError


class Uses:
    """Counts uses, and waits for their end. Every method but the constructor is called with the lock held.

    Args:
        name: What is used, for messages.
        changed: The lock; it is notified when a use or a wait ends.
    """

    def __init__(self, name: str, changed: threading.Condition) -> None:
        self.count = 0
        self.last_end = time.monotonic()
        self._name = name
        self._changed = changed
        self._owners: Counter[object] = Counter()
        self._draining = 0

    def wait_for_turn(self, owner: object, timeout: float | None) -> bool:
        """Wait while somebody waits for the end of all uses, so that new ones do not keep it waiting forever.

        Who uses it already does not wait: its own use would never end.
        """
        return self._changed.wait_for(lambda: not self._draining or self._owners[owner] > 0, timeout)

    def begin(self, owner: object) -> None:
        """Begin a use.

        Args:
            owner: The thread (its number) or the task that will end it.
        """
        self.count += 1
        self._owners[owner] += 1

    def end(self, owner: object) -> None:
        """End a use; the arguments are those of its beginning."""
        self.count -= 1
        self.last_end = time.monotonic()
        self._owners[owner] -= 1
        self._owners += Counter()  # forgets those without any
        self._changed.notify_all()

    def drain(self, wait: float | None) -> None:
        """Wait until there are none; the lock is free meanwhile.

        Args:
            wait: Seconds; None for as long as it takes.

        Raises:
            BusyError: There still are, or the caller's own is one of them, or waiting would block an event loop.
        """
        if self._owners[threading.get_ident()]:
            raise BusyError(f"{self._name}: the caller uses it", hint="leave the use() block first")
        if self.count and wait != 0 and _in_event_loop():
            raise BusyError(
                f"{self._name}: {self.count} use it, and waiting would block the event loop",
                hint="await asyncio.to_thread(...) instead",
            )
        self._draining += 1
        try:
            if not self._changed.wait_for(lambda: self.count == 0, wait):
                raise BusyError(f"{self._name}: {self.count} still use it after {wait} s", hint="try again later")
        finally:
            self._draining -= 1
            self._changed.notify_all()


def _in_event_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
