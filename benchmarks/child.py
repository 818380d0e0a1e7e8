"""What the measured Python processes share: one generation per line of standard input. Standard library only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOP = "\n<|this never comes|>\n"
"""The stop string that every contestant has to look for, and never finds."""


def read_tokens(path: str) -> list[int]:
    """Token ids of a prompt file."""
    return [int(word) for word in Path(path).read_text(encoding="ascii").split()]


def serve(run: Callable[[], dict[str, Any]]) -> None:
    """Say that everything is loaded, then answer each line of standard input with a line of JSON."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps({**run(), "peak_rss_bytes": peak_rss_bytes()}), flush=True)


def peak_rss_bytes() -> int:
    """Most memory that this process had resident. Not getrusage where it can be helped: that remembers the parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
