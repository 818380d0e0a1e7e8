"""A command with its whole output in a log file, and its progress on one line of a terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from build_support.errors import BuildError

_STEP = re.compile(r"^\[ *(\d+)/(\d+)\] (.*)")
_SECONDS_BETWEEN_PLAIN_LINES = 15.0

# What the output of a tool says, and what it means.
_CAUSES = (
    (
        r"No space left on device|ENOSPC|not enough space|disk full",
        "the disk is full",
        "free some space and run the command again; it continues where this run ended",
    ),
    (
        r"Killed signal terminated program|error: Killed|out of memory|std::bad_alloc|virtual memory exhausted",
        "the compiler ran out of memory",
        "run again with fewer jobs (`--jobs 1`, or LLAMACORE_BUILD_JOBS=1 for pip)",
    ),
    (
        r"unsupported (GNU|clang) version",
        "nvcc does not take this C++ compiler",
        "name an older one in CUDAHOSTCXX, such as g++-14, and run the command again",
    ),
    (
        r"CMAKE_\w+_COMPILER.*(not set|not found|broken)|is not able to compile a simple test program",
        "the compiler does not work",
        "read the log, and repair or reinstall the compiler, or name another in CC and CXX",
    ),
)


class Console:
    """Where a build speaks: one line that is rewritten on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._line_open = False
        self._last_plain = time.monotonic()
        self.verbose = verbose

    def say(self, text: str) -> None:
        """Prints one line."""
        self.step_end()
        self._write(f"{text}\n")
        self._last_plain = time.monotonic()

    def step(self, done: int, total: int, what: str) -> None:
        """Shows that `done` of `total` steps have ended."""
        text = f"[{done:>{len(str(total))}}/{total}] {what}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{text[:width]}")
            self._line_open = True
        elif time.monotonic() - self._last_plain >= _SECONDS_BETWEEN_PLAIN_LINES:
            self.say(text)

    def step_end(self) -> None:
        """Takes the line of `step` away."""
        if self._line_open:
            self._write("\r\x1b[K")
            self._line_open = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def run_logged(
    command: Sequence[str], log: Path, console: Console, *, what: str, env: Mapping[str, str] | None = None
) -> None:
    """Runs a command to its end.

    Args:
        command: Program and arguments.
        log: File that the command line and all output are appended to.
        console: Where steps like ninja's `[3/310] ...` are shown.
        what: What the command does, for the error.
        env: Variables added to this process's.

    Raises:
        BuildError: It could not be started or failed. The message has the cause, the lines around the first error, and
            the log's path.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with open(log, "a", encoding="utf-8", errors="replace") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise BuildError(
                f"{what} failed: {command[0]} does not start: {error}", "repair or reinstall it"
            ) from error
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                lines.append(line.rstrip("\n"))
                step = _STEP.match(line)
                if console.verbose:
                    console.say(lines[-1])
                elif step:
                    console.step(int(step[1]), int(step[2]), _short(step[3]))
            code = process.wait()
        except BaseException:
            process.terminate()  # ninja ends its compilers and removes half-written files
            process.wait()
            raise
        finally:
            process.stdout.close()
            file.flush()
            console.step_end()
    if code != 0:
        raise explain(what, code, lines, log)


def explain(what: str, code: int, lines: Sequence[str], log: Path) -> BuildError:
    """The error for a command that failed with this output."""
    cause, next_step = f"{what} failed (exit status {code})", f"read the log: {log}"
    text = "\n".join(lines)
    for pattern, meaning, cure in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            cause, next_step = f"{what} failed: {meaning}", f"{cure}\n  log: {log}"
            break
    return BuildError("\n".join((cause, *(f"    {line}" for line in _telling_lines(lines)))), next_step)


def _telling_lines(lines: Sequence[str]) -> list[str]:
    """The lines around the first error, else the last ones; long command lines are cut."""
    start = max(0, len(lines) - 8)
    for pattern in (r"\berror:|CMake Error|undefined (reference|symbol)", r"\berror\b|FAILED:"):
        found = next((index for index, line in enumerate(lines) if re.search(pattern, line, re.IGNORECASE)), None)
        if found is not None:
            start = found
            break
    return [line if len(line) <= 200 else f"{line[:197]}..." for line in lines[start : start + 8]]


def _short(step: str) -> str:
    """`Building CXX object a/b/CMakeFiles/x.dir/c.cpp.o` as `building c.cpp`."""
    words = step.split(" ")
    name = words[-1].rsplit("/", 1)[-1].removesuffix(".o").removesuffix(".obj")
    return f"{words[0].lower()} {name}"
