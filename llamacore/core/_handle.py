"""Who owns a native object, until when, and who may use it now.

A `Handle` frees its native object exactly once: at `close()`, when it is collected, or at interpreter exit, in reverse
order of creation. A child keeps its parent alive; closing a parent closes its children first, after the calls that are
in flight have returned. After `os.fork()` the child process must not touch what the parent process made.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import BrokenError, BusyError, ClosedError

if TYPE_CHECKING:
    from typing_extensions import Self

_EXIT_WAIT_SECONDS = 10.0
_process_generation = 0
_live: weakref.WeakSet[Handle] = weakref.WeakSet()
_never_freed: list[_Core] = []
_unowned_calls: list[object] = []
_exiting = False
_free_at_exit = True


def _in_forked_child() -> None:
    global _process_generation
    _process_generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


class _Core:
    """What is needed to free the native object; it outlives the Python object that users hold."""

    __slots__ = (
        "broken", "busy", "free", "generation", "in_use_forever", "keep", "parent", "ptr", "releasing", "stop", "users",
    )  # fmt: skip

    def __init__(self, ptr: Any, free: Callable[[Any], None], parent: Handle | None, keep: tuple[Any, ...]) -> None:
        self.ptr: Any = ptr
        self.free = free
        self.parent = parent  # freed only after this one
        self.keep = keep  # memory that C reads for as long as it lives
        self.generation = _process_generation
        self.busy = threading.Lock()
        self.releasing = threading.RLock()
        self.users: list[int] = []  # threads that are inside a call
        self.stop: Callable[[], None] | None = None  # asks a running call to end soon
        self.broken = ""
        self.in_use_forever = False  # by a broken child

    def release(self) -> None:
        """Free the native object, or wait for the thread that is doing so: what it was made from may be freed next."""
        if self.generation != _process_generation or not _free_at_exit:
            return
        with self.releasing:
            if self.ptr is None:
                return
            ptr, self.ptr = self.ptr, None
            if self.broken or self.in_use_forever:
                # threads of the compute pool may still read it, and what it was made from: neither is ever freed
                _never_freed.append(self)
                parent = self.parent
                while parent is not None:
                    parent._core.in_use_forever = True
                    parent = parent._core.parent
            else:
                self.free(ptr)
                self.keep = ()
                self.parent = None


def _leave_to_the_system(ptr: Any) -> None:
    """In place of freeing what is made while the process ends."""


@contextmanager
def unowned_call() -> Iterator[None]:
    """Around a long native call that no handle stands for yet, such as loading a model."""
    token = object()
    _unowned_calls.append(token)
    try:
        yield
    finally:
        _unowned_calls.remove(token)


def _stop_calls() -> None:
    """End what daemon threads compute when the interpreter exits; nothing is freed under a call that does not end."""
    global _exiting, _free_at_exit
    _exiting = True  # what is made from here on is closed from the start
    deadline = time.monotonic() + _EXIT_WAIT_SECONDS
    quiet = 0  # several looks in a row: a thread may stand between its check for close() and its call
    while quiet < 3 and time.monotonic() < deadline:
        quiet = quiet + 1 if _stop_running() else 0
        time.sleep(0.002)
    _free_at_exit = quiet >= 3


def _stop_running() -> bool:
    """Refuse further calls on every handle and ask the running ones to end; whether there are none."""
    try:
        live = [handle for handle in list(_live) if handle._core.generation == _process_generation]
    except RuntimeError:  # a thread has just added one
        return False
    for handle in live:
        handle._closing = True
    running = [handle._core for handle in live if handle._core.users]
    for core in running:
        if core.stop is not None:
            core.stop()
    return not running and not _unowned_calls


weakref.finalize(_Core, int)  # the first one registers the exit function that frees: it must run after ours
atexit.register(_stop_calls)


class Handle:
    """Owner of one native object, used by one thread at a time.

    Concurrent use is detected and raises `BusyError`; it is never a race. `SharedHandle` allows it.
    """

    def __init__(
        self,
        ptr: Any,
        free: Callable[[Any], None],
        *,
        parent: Handle | None = None,
        keep: tuple[Any, ...] = (),
        others: tuple[Handle, ...] = (),
    ) -> None:
        self._closing = False
        self._children: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._pinned_by: weakref.WeakSet[Handle] = weakref.WeakSet()  # what C lets read this one; must be closed first
        self._core = _Core(ptr, free, parent, keep)
        # Ctrl-C may come between any two lines: whoever frees this must not do so after what it was made from
        for owner in (*others, *(() if parent is None else (parent,))):
            owner._adopt(self)
        self._finalizer = weakref.finalize(self, self._core.release)
        _live.add(self)
        if _exiting:
            self._closing = True
            self._finalizer.detach()
            self._core.free = _leave_to_the_system

    def _adopt(self, child: Handle) -> None:
        self._children.add(child)

    def _refuse(self) -> None:
        core = self._core
        name = type(self).__name__
        if core.generation != _process_generation:
            raise ClosedError(
                f"this {name} was made before os.fork() and cannot be used in the child process",
                hint="load the model in the process that uses it (multiprocessing: the 'spawn' start method)",
            )
        if self._closing or core.ptr is None:
            raise ClosedError(f"this {name} is closed", hint="make a new one; a closed object stays closed")
        if core.broken:
            raise BrokenError(
                f"this {name} failed a native assertion earlier ({core.broken})", hint="close it and make a new one"
            )

    def _enter(self) -> Any:
        """Take the object for the calling thread and return its pointer. Pair with `_exit()` in a `finally`."""
        core = self._core
        if not core.busy.acquire(blocking=False):
            if self._closing or core.generation != _process_generation:
                self._refuse()
            same = threading.get_ident() in core.users
            raise BusyError(
                f"this {type(self).__name__} is in use by {'this very' if same else 'another'} thread",
                hint="use it from one thread at a time, or give each thread its own",
            )
        if self._closing or core.ptr is None or core.broken or core.generation != _process_generation:
            core.busy.release()
            self._refuse()
        core.users.append(threading.get_ident())
        return core.ptr

    def _exit(self) -> None:
        self._core.users.clear()
        self._core.busy.release()

    @contextmanager
    def _held(self) -> Iterator[Any]:
        """`_enter()` and `_exit()` around a block, where a call is not in a hot loop."""
        ptr = self._enter()
        try:
            yield ptr
        finally:
            self._exit()

    def _break(self, reason: str) -> None:
        """Mark the object as unusable after a native assertion failed in it."""
        self._core.broken = reason or "unknown"

    @property
    def closed(self) -> bool:
        """Whether `close()` was called on this object or on one that it depends on."""
        return self._closing or self._core.ptr is None

    def _wait_for_users(self) -> None:
        core = self._core
        if threading.get_ident() in core.users:
            raise BusyError(f"this {type(self).__name__} cannot be closed from inside one of its own calls")
        if core.stop is not None:
            core.stop()
        with core.busy:
            pass

    def close(self) -> None:
        """Free the native object and everything made from it, now. Calling it again does nothing.

        A call that is in flight in another thread is asked to stop and waited for.

        Raises:
            BusyError: Called from inside one of the object's own calls, or while another object still uses it.
        """
        if self._core.generation != _process_generation:
            self._closing = True
            return
        users = [user for user in self._pinned_by if not user.closed]
        if users:
            raise BusyError(
                f"this {type(self).__name__} is used by {users[0]!r}", hint="close that, or detach it, first"
            )
        was_closing, self._closing = self._closing, True
        try:
            if not was_closing or self._core.ptr is not None:
                self._wait_for_users()
        except BusyError:
            self._closing = was_closing
            raise
        # contexts read samplers and adapters, so they go first
        for child in sorted(self._children, key=lambda c: len(c._pinned_by)):
            child.close()
        self._core.release()
        if "_finalizer" in self.__dict__:
            self._finalizer.detach()

    def __enter__(self) -> Self:
        if self._closing or self._core.generation != _process_generation:
            self._refuse()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class SharedHandle(Handle):
    """Owner of a native object whose functions may run in several threads at once (a model, its vocabulary)."""

    def __init__(
        self,
        ptr: Any,
        free: Callable[[Any], None],
        *,
        parent: Handle | None = None,
        keep: tuple[Any, ...] = (),
    ) -> None:
        self._idle = threading.Condition()
        super().__init__(ptr, free, parent=parent, keep=keep)

    def _enter(self) -> Any:
        core = self._core
        with self._idle:
            if self._closing or core.ptr is None or core.broken or core.generation != _process_generation:
                self._refuse()
            core.users.append(threading.get_ident())
            return core.ptr

    def _exit(self) -> None:
        users = self._core.users
        with self._idle:
            users.remove(threading.get_ident())
            if not users:
                self._idle.notify_all()

    def _adopt(self, child: Handle) -> None:
        with self._idle:
            self._children.add(child)

    def _wait_for_users(self) -> None:
        users = self._core.users
        with self._idle:
            if threading.get_ident() in users:
                raise BusyError(f"this {type(self).__name__} cannot be closed from inside one of its own calls")
            self._idle.wait_for(lambda: not users)
