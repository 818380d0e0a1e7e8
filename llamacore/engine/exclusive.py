"""Calls from any thread or event loop that take turns on native objects which serve one thread at a time."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from ..errors import AbortedError, BrokenError, BusyError, ClosedError, InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..core.adapters import LoraAdapter
    from ..core.context import Context
    from ..core.model import Model

Result = TypeVar("Result")


class Turn:
    """One call: whether it was told to stop, and the context that it computes with at the moment.

    Args:
        loras: Adapters with their scales that the call computes with.
    """

    def __init__(self, loras: Mapping[LoraAdapter, float] | None = None) -> None:
        if loras is not None and not isinstance(loras, Mapping):
            raise InvalidArgumentError(f"loras={loras!r}", hint="give {adapter: scale}")
        self.thread = 0
        self._loras = dict(loras or {})
        self._adapted: weakref.ref[Context] | None = None
        self._lock = threading.Lock()
        self._cancelled = False
        self._context: weakref.ref[Context] | None = None

    def use(self, context: Context) -> None:
        """Take the context that the next decode is done with, and give it the adapters of this call.

        Raises:
            AbortedError: The call was cancelled.
            AdapterError: An adapter does not fit.
        """
        if self._loras and (self._adapted is None or self._adapted() is not context):
            self.end()
            context.set_lora(self._loras)
            self._adapted = weakref.ref(context)
        with self._lock:
            self.require_wanted()
            context.resume()  # what is left of the cancelling of an earlier call
            self._context = weakref.ref(context)

    def end(self) -> None:
        """Take the adapters away again: a context that is not in use keeps nobody from closing them."""
        context = self._adapted() if self._adapted is not None else None
        if context is not None:
            with suppress(ClosedError, BrokenError):
                context.set_lora({})

    def cancel(self) -> None:
        """Make the call end with `AbortedError` as soon as possible."""
        with self._lock:
            self._cancelled = True
            context = self._context() if self._context is not None else None
            if context is not None:
                context.cancel()

    def require_wanted(self) -> None:
        """Go on only if nobody cancelled.

        Raises:
            AbortedError: The call was cancelled.
        """
        if self._cancelled:
            raise AbortedError("cancelled", hint="what was computed so far is lost")


class Exclusive:
    """What owns contexts of a model and lends them to one call at a time; further calls wait for their turn.

    Args:
        model: The model, which stays the caller's to close. Closing it closes the contexts.

    Raises:
        UnsupportedError: The model was loaded without its weights.
    """

    def __init__(self, model: Model) -> None:
        if model.params.vocab_only or model.params.no_alloc:
            raise UnsupportedError("the model was loaded without its weights", hint="load it with them")
        self.model = model
        self._turn_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._running: Turn | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    @contextmanager
    def _turn(self, turn: Turn) -> Iterator[None]:
        """Wait for the turn of a call and hold it.

        Raises:
            BusyError: The calling thread holds it already (a callback calls back).
            ClosedError: It was closed, before or while waiting.
        """
        turn.thread = threading.get_ident()
        running = self._running
        if running is not None and running.thread == turn.thread:
            raise BusyError(f"this {self._name} was called from inside one of its own callbacks", hint="call it later")
        with self._turn_lock:
            with self._state_lock:
                self._require_open()
                self._running = turn
            try:
                yield
            except (AbortedError, ClosedError):
                self._require_open()  # it says more than that a decode was cancelled
                raise
            finally:
                turn.end()
                with self._state_lock:
                    self._running = None

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _require_open(self) -> None:
        if self.closed:
            raise ClosedError(f"this {self._name} is closed", hint="make a new one; a closed object stays closed")

    async def _in_thread(self, call: Callable[[Turn], Result], turn: Turn) -> Result:
        """Run a call in the one worker thread of this object; cancelling the awaiting task cancels it.

        The worker is one thread, not the event loop's pool: waiting calls would fill that.
        """
        with self._state_lock:
            self._require_open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"llamacore-{self._name.lower()}")
            executor = self._executor
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, call, turn)
        except asyncio.CancelledError:
            turn.cancel()
            raise

    def cancel(self) -> None:
        """Make the call that is running now, if there is one, end with `AbortedError`. Callable from any thread."""
        with self._state_lock:
            if self._running is not None:
                self._running.cancel()

    def close(self) -> None:
        """Cancel the running call, wait for it and free the contexts. Calling it again does nothing.

        Raises:
            BusyError: Called from inside a callback of one of its own calls.
        """
        with self._state_lock:
            running = self._running
            if running is not None and running.thread == threading.get_ident():
                raise BusyError(f"this {self._name} cannot be closed from inside one of its own calls")
            self._closed = True
            if running is not None:
                running.cancel()
            executor, self._executor = self._executor, None
        with self._turn_lock:
            self._free()
        if executor is not None:
            executor.shutdown(wait=False)

    def _free(self) -> None:
        """Close the contexts."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether it, or its model, was closed."""
        return self._closed or self.model.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self._name} of {self.model!r}{' (closed)' if self.closed else ''}>"
