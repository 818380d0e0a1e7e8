"""What is shown on a terminal only: progress of loading, a footer with rates."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_SHOW_AFTER_SECONDS = 0.5


def note(text: str, *, quiet: bool = False) -> None:
    """Print a line on stderr."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def loading_progress(quiet: bool) -> Callable[[float], bool] | None:
    """Return a progress callback that shows a percentage while a model takes long to load; None off a terminal."""
    if quiet or not sys.stderr.isatty():
        return None
    started = time.monotonic()
    shown = -1

    def show(done: float) -> bool:
        nonlocal shown
        percent = int(done * 100)
        if percent != shown and time.monotonic() - started > _SHOW_AFTER_SECONDS:
            shown = percent
            end = "\r\x1b[K" if percent >= 100 else ""
            print(f"\rloading the model: {percent:3d} %{end}", end="", file=sys.stderr, flush=True)
        return True

    return show
