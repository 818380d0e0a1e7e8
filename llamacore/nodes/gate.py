"""Interrupting a node: a gate that lets a cancel through, unless what runs has asked not to be disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class CancelGate:
    """One for each session of a node, shared by who wants to interrupt it and by what it runs.

    A cancel wakes those who wait for it at that moment. It is never kept for later: who begins to wait afterwards waits
    for the next one. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guards = 0
        self._cancels = 0
        self._waiting: list[asyncio.Future[None]] = []

    def protect(self) -> ProtectGuard:
        """Hold cancels off until the guard is released. Guards are counted: the gate opens with the last one."""
        with self._lock:
            self._guards += 1
        return ProtectGuard(self)

    @property
    def is_protected(self) -> bool:
        """Whether a guard holds cancels off."""
        return self._guards > 0

    @property
    def cancels(self) -> int:
        """How many cancels went through so far: what runs can see at once whether there was one since it began."""
        return self._cancels

    def try_cancel(self) -> bool:
        """Cancel what runs, unless it is protected; whether the cancel went through."""
        with self._lock:
            if self._guards:
                return False
            self._cancels += 1
            waiting, self._waiting = self._waiting, []
        _wake(waiting)
        return True

    def cancel_force(self) -> None:
        """Cancel what runs, protected or not: for shutting down."""
        with self._lock:
            self._cancels += 1
            waiting, self._waiting = self._waiting, []
        _wake(waiting)

    def notified(self) -> asyncio.Future[None]:
        """Return a future of the running event loop that is done at the next cancel that goes through."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append(future)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: asyncio.Future[None]) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(future)

    def _unprotect(self) -> None:
        with self._lock:
            self._guards -= 1


class ProtectGuard:
    """Holds a gate's cancels off until it is released: by `release()`, by leaving its `with` block, by dropping it."""

    def __init__(self, gate: CancelGate) -> None:
        self._release = weakref.finalize(self, gate._unprotect)
        self._release.atexit = False

    def release(self) -> None:
        """Let cancels through again, as far as this guard is concerned. Doing it again does nothing."""
        self._release()

    @property
    def released(self) -> bool:
        """Whether it was released."""
        return not self._release.alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        with contextlib.suppress(RuntimeError):  # its loop was closed meanwhile: nobody waits
            future.get_loop().call_soon_threadsafe(_settle, future)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
