"""Whether the file of a library is all there.

The loader of Linux maps what the head of a file promises without a look at its length. Reading what a file that was cut
off (a full disk, a broken copy) does not have ends the process.
"""

from __future__ import annotations

import os
import struct
import sys

_PT_LOAD = 1


def why_incomplete(path: str) -> str:
    """What is missing of a library; empty when nothing is, or when the loader itself will say.

    Args:
        path: The file.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(64)
            if sys.platform != "linux" or head[:5] != b"\x7fELF\x02" or len(head) < 64:
                return ""
            order = "<" if head[5] == 1 else ">"
            offset, entry_size, count = struct.unpack_from(order + "32xQ14xHH", head)
            needed = offset + entry_size * count
            if needed <= size and entry_size >= 56:
                file.seek(offset)
                table = file.read(entry_size * count)
                for number in range(count):
                    kind, start, length = struct.unpack_from(order + "I4xQ16xQ", table, number * entry_size)
                    if kind == _PT_LOAD:
                        needed = max(needed, start + length)
    except FileNotFoundError:
        return f"{path} is missing"
    except (OSError, struct.error) as error:  # struct: it shrank while it was read
        return f"{path} cannot be read: {error}"
    if size >= needed:
        return ""
    return f"{path} is cut off: it has {size} bytes, its head speaks of {needed}"
