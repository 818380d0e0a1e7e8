"""How many threads to compute with, and the ggml thread pools that do it."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError, NativeError
from ._native import ffi, lib
from ._status import raise_status


@lru_cache(maxsize=1)
def default_threads() -> int:
    """Number of physical cores that this process may use; at least 1."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1))
    usable = os.sched_getaffinity(0)
    cores = set()
    for cpu in usable:
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings)
    return max(1, len(cores))


class _Pools:
    """Native pools by their number of threads, and who computes with them."""

    def __init__(self) -> None:
        self.by_count: dict[int, Any] = {}
        self.owners = 1
        self.lock = threading.Lock()

    def leave(self) -> None:
        """Join the threads when the last one goes."""
        self.owners -= 1
        while not self.owners and self.by_count:
            lib.llc_threadpool_free(self.by_count.popitem()[1])


class ThreadPools:
    """The thread pools of one context: one for single tokens and one for batches, the same when the counts are.

    llama.cpp would otherwise start and join threads for every graph that it computes. Threads without work spin for a
    while: two contexts that take turns should share their pools, see `join`.
    """

    def __init__(self, n_threads: int, n_threads_batch: int) -> None:
        self._pools = _Pools()
        self._left: list[_Pools] = []
        self.n_threads = n_threads
        self.n_threads_batch = n_threads_batch
        try:
            self.choose(n_threads, n_threads_batch)
        except Exception:
            self.free()
            raise

    @property
    def lock(self) -> threading.Lock:
        """To be held while a pool computes: it can only do one thing at a time."""
        return self._pools.lock

    def choose(self, n_threads: int, n_threads_batch: int) -> None:
        """Set the numbers of threads for the next `attach`. Pools chosen before stay: see `trim`."""
        pools = self._pools.by_count
        for count in (n_threads, n_threads_batch):
            if count not in pools:
                pools[count] = _new_pool(count)
        self.n_threads, self.n_threads_batch = n_threads, n_threads_batch

    def attach(self, ctx: Any) -> None:
        """Let a native context compute with the pools chosen."""
        pools = self._pools.by_count
        lib.llama_attach_threadpool(ctx, pools[self.n_threads], pools[self.n_threads_batch])
        lib.llama_set_n_threads(ctx, self.n_threads, self.n_threads_batch)

    def join(self, other: ThreadPools, ctx: Any) -> None:
        """Compute with the pools of another context from now on, if the numbers of threads are the same."""
        same = (self.n_threads, self.n_threads_batch) == (other.n_threads, other.n_threads_batch)
        if same and self._pools is not other._pools:
            self._left.append(self._pools)  # the context still touches the last one that it used
            self._pools = other._pools
            self._pools.owners += 1
            self.attach(ctx)

    @property
    def single(self) -> tuple[Any, int]:
        """The pool for single tokens, and its number of threads."""
        return self._pools.by_count[self.n_threads], self.n_threads

    def trim(self) -> None:
        """Free the pools chosen before. The context must have computed since: it touches the last one used."""
        pools = self._pools.by_count
        if len(pools) > 2 and self._pools.owners == 1:
            for count in [*pools]:
                if count not in (self.n_threads, self.n_threads_batch):
                    lib.llc_threadpool_free(pools.pop(count))

    def free(self) -> None:
        """Join the threads that nobody else computes with. The context must be gone."""
        for pools in (self._pools, *self._left):
            pools.leave()


def _new_pool(n_threads: int) -> Any:
    if not hasattr(n_threads, "__index__") or not 1 <= n_threads < 2**31:
        raise InvalidArgumentError(f"n_threads={n_threads!r}", hint="give a whole number of threads, at least 1")
    out = ffi.new("struct ggml_threadpool **")
    status = lib.llc_threadpool_new(n_threads, out)
    if status != lib.LLC_OK:
        raise_status(status, f"starting {n_threads} threads", NativeError, hint="use fewer threads")
    return out[0]
