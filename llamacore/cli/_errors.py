"""From exceptions to one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from llamacore.errors import LlamaCoreError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141


@contextmanager
def reported() -> Iterator[None]:
    """Print what went wrong on one line of stderr and exit; with LLAMACORE_DEBUG=1 let the traceback through."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # whoever read our output has gone; Python would complain again when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_EXIT_BROKEN_PIPE) from None
    except (LlamaCoreError, ImportError, OSError, MemoryError, UnicodeError) as exc:
        if os.environ.get("LLAMACORE_DEBUG") == "1":
            raise
        if _interrupted(exc):
            raise typer.Exit(EXIT_INTERRUPTED) from None
        typer.echo("llamacore: " + " ".join(str(exc).split()), err=True)
        raise typer.Exit(EXIT_FAILURE) from None


def _interrupted(exc: BaseException | None) -> bool:
    """Whether it came while Ctrl-C was ending things: a call that was cut off keeps what it uses from being closed."""
    while exc is not None and not isinstance(exc, KeyboardInterrupt):
        exc = exc.__context__
    return exc is not None
