"""The handle of a request: iterate it, wait for it, or cancel it, from any thread or event loop."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from ..errors import ClosedError
from .records import Chunk, Completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Mailbox:
    """Between the engine's thread, which puts, and whoever reads: all that the two know of each other.

    Args:
        on_cancel: Tells the engine that nobody wants the rest.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self.chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        self.completions: dict[int, Completion] = {}
        self.error: BaseException | None = None
        self.cancelled = False
        self._on_cancel = on_cancel
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []
        self._end_wakers: list[Callable[[], None]] = []

    def put(self, chunk: Chunk) -> None:
        """Deliver a chunk."""
        self.chunks.put(chunk)
        if self._wakers:
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Deliver the end, once; what comes later is ignored."""
        with self._lock:
            if self._ended.is_set():
                return
            self.error = error
            self._ended.set()
        self.chunks.put(None)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            wakers, self._wakers = self._wakers, []
            if self._ended.is_set():
                wakers += self._end_wakers
                self._end_wakers = []
        for waker in wakers:
            waker()

    @property
    def ended(self) -> bool:
        """Whether nothing more will be delivered."""
        return self._ended.is_set()

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end; whether it has come."""
        return self._ended.wait(timeout)

    def call(self, waker: Callable[[], None], *, at_end: bool) -> None:
        """Call `waker` once, from any thread: when something more was delivered, or at the end."""
        with self._lock:
            (self._end_wakers if at_end else self._wakers).append(waker)
        if self._ended.is_set() or not (at_end or self.chunks.empty()):
            self._wake()

    def cancel(self) -> None:
        """Ask the engine to end."""
        if not self._ended.is_set():
            self.cancelled = True
            self._on_cancel()


class Generation:
    """A running generation: iterate it (or iterate it asynchronously) for `Chunk`s, or ask for its `result()`.

    It runs whether it is read or not. Every method may be called from any thread; each chunk is delivered once.
    Dropping it cancels it.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._closed = False
        # by a weak reference: the traceback of an error in the mailbox leads back to this object
        weakref.finalize(self, _cancel, weakref.ref(mailbox)).atexit = False

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = None if self._closed else self._mailbox.chunks.get()
        if chunk is None:
            self._finish()
            raise StopIteration
        return chunk

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        while not self._closed:
            try:
                chunk = self._mailbox.chunks.get_nowait()
            except Empty:
                await self._until(at_end=False)
                continue
            if chunk is None:
                break
            return chunk
        self._finish()
        raise StopAsyncIteration

    def _finish(self) -> None:
        """Raise what went wrong, and leave the end in place for whoever asks again."""
        if not self._closed:
            self._mailbox.chunks.put(None)
            if self._mailbox.error is not None:
                raise self._mailbox.error

    async def _until(self, *, at_end: bool) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def waker() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(arrived.set)

        self._mailbox.call(waker, at_end=at_end)
        await arrived.wait()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._mailbox.ended

    def cancel(self) -> None:
        """End the generation as soon as possible; what was generated is kept."""
        self._mailbox.cancel()

    def close(self) -> None:
        """Cancel it and drop what was not read. Calling it again, or after the end, does nothing."""
        if not self._mailbox.ended:
            self._closed = True
            self._mailbox.cancel()
            self._mailbox.chunks.put(None)  # for a thread that is waiting in __next__

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the end and return the completion, of several samples the first.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: It has not ended by then; it goes on.
            DecodeError: A decode failed.
            ContextFullError: The context is full and `overflow` is "error".
            ClosedError: It, or the engine, was closed before its end.
        """
        return self.results(timeout)[0]

    def results(self, timeout: float | None = None) -> list[Completion]:
        """Wait for the end and return the completions of all samples; see `result`."""
        if not self._closed and not self._mailbox.wait(timeout):
            raise TimeoutError(f"the generation has not ended after {timeout} seconds")
        return self._completed()

    async def aresult(self) -> Completion:
        """`result` without blocking the event loop; cancelling the task cancels the generation."""
        return (await self.aresults())[0]

    async def aresults(self) -> list[Completion]:
        """`aresult` for the completions of all samples."""
        import asyncio

        try:
            if not self._closed and not self._mailbox.ended:
                await self._until(at_end=True)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self._completed()

    def _completed(self) -> list[Completion]:
        if self._closed:
            raise ClosedError("this generation was closed before its end", hint="start another one")
        if self._mailbox.error is not None:
            raise self._mailbox.error
        return [self._mailbox.completions[index] for index in sorted(self._mailbox.completions)]


def _cancel(mailbox: weakref.ref[Mailbox]) -> None:
    """Nobody holds the handle any more."""
    held = mailbox()
    if held is not None:
        held.cancel()
