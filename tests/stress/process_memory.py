"""What the long runs measure of their own process."""

from __future__ import annotations

import ctypes
import gc
import os


def resident() -> float:
    """MiB that this process holds now, without what the C allocator keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
