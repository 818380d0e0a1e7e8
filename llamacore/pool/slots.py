"""Places at several members, taken in turns; who finds none free waits in line, in a thread or an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, TypeVar

from ..errors import BusyError, ClosedError

Member = TypeVar("Member")


class Slots(Generic[Member]):
    """Lends members, the next one each time, as long as each has places.

    Args:
        members: What is lent.
        places: How often each member can be lent at a time.
        max_wait: Seconds to wait in line; None for as long as it takes.
    """

    def __init__(self, members: Sequence[Member], places: int, max_wait: float | None) -> None:
        self.capacity = len(members) * places
        self._members = list(members)
        self._free = [places] * len(members)
        self._next = 0
        self._max_wait = max_wait
        self._lock = threading.Lock()
        self._line: deque[Future[int]] = deque()
        self._closed = False

    @property
    def taken(self) -> int:
        """Places that are taken now."""
        with self._lock:
            return self.capacity - sum(self._free)

    def close(self) -> None:
        """Lend nothing more: who waits gets `ClosedError`."""
        with self._lock:
            self._closed = True
            line, self._line = self._line, deque()
        for waiter in line:
            if waiter.set_running_or_notify_cancel():
                waiter.set_exception(_closed())

    @contextmanager
    def lend(self) -> Iterator[Member]:
        """Take a place for as long as the block takes.

        Raises:
            BusyError: None became free in `max_wait` seconds.
            ClosedError: It was closed.
        """
        waiter = self._stand_in_line()
        try:
            number = waiter.result(self._max_wait)
        except BaseException as exc:
            self._leave_line(waiter)
            if isinstance(exc, FutureTimeoutError):
                raise self._busy() from None
            raise
        try:
            yield self._members[number]
        finally:
            self._give_back(number)

    @asynccontextmanager
    async def alend(self) -> AsyncIterator[Member]:
        """`lend` for event loops, which go on while it waits."""
        waiter = self._stand_in_line()
        try:
            if not waiter.done():  # a wrapped future would be done one turn of the loop later only
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(waiter)), self._max_wait)
            number = waiter.result()
        except BaseException as exc:
            self._leave_line(waiter)
            if isinstance(exc, (asyncio.TimeoutError, FutureTimeoutError)):
                raise self._busy() from None
            raise
        try:
            yield self._members[number]
        finally:
            self._give_back(number)

    def _stand_in_line(self) -> Future[int]:
        waiter: Future[int] = Future()
        with self._lock:
            if self._closed:
                raise _closed()
            number = None if self._line else self._pick()
            if number is None:
                self._line.append(waiter)
                return waiter
            self._free[number] -= 1
        waiter.set_running_or_notify_cancel()
        waiter.set_result(number)
        return waiter

    def _pick(self) -> int | None:
        """The next member with a free place."""
        for step in range(len(self._members)):
            number = (self._next + step) % len(self._members)
            if self._free[number]:
                self._next = (number + 1) % len(self._members)
                return number
        return None

    def _leave_line(self, waiter: Future[int]) -> None:
        """Give up; a place that was handed over meanwhile is given back."""
        if not waiter.cancel() and waiter.exception() is None:
            self._give_back(waiter.result())

    def _give_back(self, number: int) -> None:
        while True:
            with self._lock:
                waiter = self._line.popleft() if self._line else None
                if waiter is None:
                    self._free[number] += 1
                    return
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(number)
                return

    def _busy(self) -> BusyError:
        return BusyError(
            f"all {self.capacity} places of the pool were taken for {self._max_wait} seconds",
            hint="raise max_wait, pool_size or n_parallel",
        )


def _closed() -> ClosedError:
    return ClosedError("this pool is closed", hint="make a new one")
