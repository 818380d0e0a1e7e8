"""Processes of their own for all that could crash.

A child runs a function of this package and writes JSON lines to a file: what it is about to do, and in the end what it
found. So its parent can tell what it was doing when it ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..companions.checks import signal_name

Tell = Callable[[str], None]
_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Outcome:
    """What became of a child.

    Attributes:
        found: What it returned; None when it did not get that far.
        problem: What went wrong; empty for nothing.
        signal: Name of the signal that ended it, as in "SIGSEGV"; empty for none.
    """

    found: Any
    problem: str
    signal: str = ""


def run_child(function: Callable[..., Any], *args: str) -> Outcome:
    """Call a function in a new process that finds the same packages as this one.

    Args:
        function: A function of this package, called with `tell` and the arguments; it returns what JSON can say.
        args: The arguments.
    """
    call = f"from {function.__module__} import {function.__name__} as f; from {__name__} import run_here; run_here(f)"
    with tempfile.TemporaryDirectory(prefix="llamacore-doctor-") as folder:
        record = Path(folder, "record")
        command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{call}", str(record), *args]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
                timeout=_PATIENCE_SECONDS, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(None, f"after {_PATIENCE_SECONDS:.0f} seconds it was still {_doing(_lines(record))}")
        except OSError as exc:
            return Outcome(None, f"no process could be started with {sys.executable}: {exc}")
        lines = _lines(record)
    if lines and "found" in lines[-1] and done.returncode == 0:
        return Outcome(lines[-1]["found"], "")
    if lines and "problem" in lines[-1]:
        return Outcome(None, lines[-1]["problem"])
    doing = _doing(lines)
    said = " | ".join(done.stderr.strip().splitlines()[-2:])
    if done.returncode < 0:
        name = signal_name(-done.returncode)
        return Outcome(None, f"it crashed ({name}) while {doing}{': ' + said if said else ''}", name)
    return Outcome(None, f"it ended with status {done.returncode} while {doing}{': ' + said if said else ''}")


def run_here(function: Callable[..., Any]) -> None:
    """The child's side of `run_child`."""
    with open(sys.argv[1], "w", encoding="utf-8") as record:

        def write(**line: Any) -> None:
            record.write(json.dumps(line) + "\n")
            record.flush()

        try:
            write(found=function(lambda step: write(step=step), *sys.argv[2:]))
        except (Exception, SystemExit) as exc:
            write(problem=" ".join(f"{_kind(exc)}{exc}".split()))
    # without the exit handlers: drivers crash in them, after all has been found
    os._exit(0)


def _kind(exc: BaseException) -> str:
    """The name of an error, where its text does not speak for itself."""
    return (
        ""
        if isinstance(exc, (ImportError, OSError, RuntimeError, ValueError)) and str(exc)
        else f"{type(exc).__name__}: "
    )


def _lines(record: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):  # none was written, or it ended within a line
        return []


def _doing(lines: list[dict[str, Any]]) -> str:
    """What a child was about to do when it wrote its last line."""
    return str(lines[-1].get("step", "ending")) if lines else "starting"
