"""`llamacore doctor`: what is installed, what works and what does not, and why."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from llamacore.doctor import Check, Report, diagnose

from ._errors import EXIT_FAILURE, reported
from ._terminal import note

_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED}
_NARROWEST = 60


def doctor(
    model: Annotated[
        Path | None,
        typer.Option(
            "-m", "--model", help="GGUF file to compute with; default: the bundled demo model.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t", "--threads", min=1, help="Threads to compute with; default: physical cores.", show_default=False
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the installation: libraries, back ends, devices, and a model that computes on each of them.

    The exit code is 0 when nothing failed. Warnings are about parts that cannot be used while the rest works.
    """
    with reported():
        if not json_output and sys.stderr.isatty():
            note("looking at the installation and computing with a model ...")
        report = diagnose(model, n_threads=threads)
        if json_output:
            print(json.dumps(report.to_dict(), indent=2))
        else:
            _show(report)
    if not report.ok:
        raise typer.Exit(EXIT_FAILURE)


def _show(report: Report) -> None:
    width = max(_NARROWEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 0
    names = max(len(check.name) for check in report.checks)
    for check in report.checks:
        _show_check(check, names, width)
    counts = {status: sum(check.status == status for check in report.checks) for status in _COLOURS}
    worst = "failed" if counts["failed"] else "warning" if counts["warning"] else "ok"
    said = {
        "ok": "everything works",
        "warning": f"it works, with {_count(counts['warning'], 'warning')}",
        "failed": f"{counts['failed']} failed, {_count(counts['warning'], 'warning')}",
    }
    typer.secho(said[worst], fg=_COLOURS[worst])


def _show_check(check: Check, names: int, width: int) -> None:
    typer.secho(f"{check.status:8}", fg=_COLOURS[check.status], nl=False)
    left = f"{check.name:{names}}  "
    indent = " " * (8 + len(left))
    lines = [check.summary, *([f"-> {check.hint}"] if check.hint else [])]
    if width:
        wrapped = (textwrap.wrap(line, width - len(indent), break_on_hyphens=False) for line in lines)
        lines = [line for part in wrapped for line in part]
    typer.echo(left + f"\n{indent}".join(lines))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
