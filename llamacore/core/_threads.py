"""How many threads to compute with, and the ggml thread pools that do it."""

from __future__ import annotations

import os
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


class ThreadPools:
    """The thread pools of one context: one for single tokens and one for batches, the same when the counts are.

    llama.cpp would otherwise start and join threads for every graph that it computes.
    """

    def __init__(self, n_threads: int, n_threads_batch: int) -> None:
        self._pools: dict[int, Any] = {}  # by number of threads
        self.n_threads = n_threads
        self.n_threads_batch = n_threads_batch
        try:
            self.choose(n_threads, n_threads_batch)
        except Exception:
            self.free()
            raise

    def choose(self, n_threads: int, n_threads_batch: int) -> None:
        """Set the numbers of threads for the next `attach`. Pools chosen before stay: see `trim`."""
        for count in (n_threads, n_threads_batch):
            if count not in self._pools:
                self._pools[count] = _new_pool(count)
        self.n_threads, self.n_threads_batch = n_threads, n_threads_batch

    def attach(self, ctx: Any) -> None:
        """Let a native context compute with the pools chosen."""
        lib.llama_attach_threadpool(ctx, self._pools[self.n_threads], self._pools[self.n_threads_batch])
        lib.llama_set_n_threads(ctx, self.n_threads, self.n_threads_batch)

    @property
    def single(self) -> tuple[Any, int]:
        """The pool for single tokens, and its number of threads."""
        return self._pools[self.n_threads], self.n_threads

    def trim(self) -> None:
        """Free the pools chosen before. The context must have computed since: it touches the last one used."""
        if len(self._pools) > 2:
            for count in [*self._pools]:
                if count not in (self.n_threads, self.n_threads_batch):
                    lib.llc_threadpool_free(self._pools.pop(count))

    def free(self) -> None:
        """Join the threads. The context must be gone."""
        while self._pools:
            lib.llc_threadpool_free(self._pools.popitem()[1])


def _new_pool(n_threads: int) -> Any:
    if not hasattr(n_threads, "__index__") or not 1 <= n_threads < 2**31:
        raise InvalidArgumentError(f"n_threads={n_threads!r}", hint="give a whole number of threads, at least 1")
    out = ffi.new("struct ggml_threadpool **")
    status = lib.llc_threadpool_new(n_threads, out)
    if status != lib.LLC_OK:
        raise_status(status, f"starting {n_threads} threads", NativeError, hint="use fewer threads")
    return out[0]
