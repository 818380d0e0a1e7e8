"""`llamacore libs`: companion sets of libraries, installed beside the bundled ones."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Annotated, Any

import typer

from llamacore import companions
from llamacore.companions import InstalledSet, Progress

from ._errors import EXIT_FAILURE, reported
from ._terminal import note

app = typer.Typer(help="Libraries from a release: install, choose, verify, remove.", no_args_is_help=True)

_SHOW_EVERY_SECONDS = 0.1

JsonOutput = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SetName = Annotated[
    str, typer.Argument(metavar="SET", help="Its name, the beginning of it or of its hash, or an add-on's back end.")
]


@app.command()
def install(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A release-manifest.json or a .tar.gz (path or URL), or the folder of an unpacked set.",
            show_default=False,
        ),
    ],
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="Add-on of the manifest to install with it (repeat).")
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", help="Platform of the manifest to take; default: this one.", show_default=False),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="What the archive's SHA-256 has to be.", show_default=False)
    ] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Take an archive of which no SHA-256 is known.")
    ] = False,
    no_use: Annotated[bool, typer.Option("--no-use", help="Install it, but go on with what is active.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for a silent server.")] = 60.0,
    json_output: JsonOutput = False,
) -> None:
    """Fetch a companion set, verify it, try it, and make it active."""
    with reported():
        sets = companions.install(
            source, backends=backend or (), platform=platform, sha256=sha256, allow_unverified=allow_unverified,
            use=not no_use, timeout=timeout, progress=_download_progress(), say=note,
        )  # fmt: skip
        if json_output:
            print(json.dumps({"sets": [_plain(found) for found in sets]}))
        else:
            for found in sets:
                print(f"{found.id}: installed{', active' if found.active else ''}")
                if found.problem:
                    print(f"  its back end does nothing here: {found.problem}")
        _tell_environment(any(found.active for found in sets))


@app.command("list")
def list_(json_output: JsonOutput = False) -> None:
    """Say which libraries are in use, where they come from, and which sets are installed."""
    with reported():
        sets, now = companions.installed(), companions.active()
        if json_output:
            print(json.dumps({"active": _plain(now), "sets": [_plain(found) for found in sets]}))
            return
        print(f"in use: {now.folder or 'nothing'} ({_chosen_by(now)})")
        if now.problem:
            print(f"  problem: {now.problem}")
        for addon in now.addons:
            print(f"  {addon.backend}: {addon.path} ({addon.origin})")
            if addon.problem:
                print(f"    not used: {addon.problem}")
        print("installed:")
        bundled = sum(path.stat().st_size for path in now.bundled.glob("*") if path.is_file())
        print(f"  bundled  {_size(bundled)}  {'active' if now.chosen_by == 'package' else '-'}")
        for found in sets:
            state = "active" if found.active else "-"
            print(f"  {found.id}  {', '.join(found.backends) or found.kind}  {_size(found.size)}  {state}")
            if found.problem:
                print(f"    problem: {found.problem}")


@app.command()
def use(
    name: Annotated[
        str, typer.Argument(metavar="SET|bundled", help="A set as for verify, or the libraries of the package itself.")
    ],
    json_output: JsonOutput = False,
) -> None:
    """Make an installed set the one that is used, or go back to the bundled libraries."""
    with reported():
        found = companions.use(name, say=note)
        if json_output:
            print(json.dumps(None if found is None else _plain(found)))
        else:
            print(f"active: {'the bundled libraries' if found is None else found.id}")
            if found is not None and found.problem:
                print(f"  its back end does nothing here: {found.problem}")
        _tell_environment(True)


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[SET]", help="A set; default: all of them.", show_default=False)
    ] = None,
    json_output: JsonOutput = False,
) -> None:
    """Hash every file of installed sets again; exit with 1 when one differs, is missing or does not belong."""
    with reported():
        results = companions.verify(name)
        if json_output:
            print(json.dumps([{**_plain(result), "ok": result.ok} for result in results]))
        else:
            for result in results:
                print(f"{result.id}: {'as it was installed' if result.ok else 'NOT as it was installed'}")
                for what in ("changed", "missing", "additional"):
                    for file in getattr(result, what):
                        print(f"  {what}: {file}")
            if not results:
                print("no companion set is installed")
        if not all(result.ok for result in results):
            raise typer.Exit(EXIT_FAILURE)


@app.command()
def remove(
    name: SetName,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the active set too; the bundled libraries are used then.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Remove an installed set. Processes that are running keep the libraries that they have opened."""
    with reported():
        found = companions.remove(name, force=force, say=note)
        if json_output:
            print(json.dumps(_plain(found)))
        else:
            print(f"removed: {found.id} ({_size(found.size)}); running processes keep what they have opened")


def _chosen_by(now: companions.ActiveLibraries) -> str:
    if now.environment:
        return f"LLAMACORE_LIB_DIR={now.environment}"
    return "the bundled libraries" if now.chosen_by == "package" else f"companion set {now.set.id if now.set else '?'}"


def _tell_environment(changed: bool) -> None:
    """Say that the environment variable makes what was just made active wait."""
    variable = companions.active().environment
    if variable and changed:
        note(f"LLAMACORE_LIB_DIR={variable} is set and wins: unset it to use what is active")


def _plain(record: InstalledSet | companions.ActiveLibraries | companions.Verification) -> dict[str, Any]:
    """A record as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record), default=str))
    return plain


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _download_progress() -> Progress | None:
    """What shows a download on a terminal; None where there is none."""
    if not sys.stderr.isatty():
        return None
    shown = 0.0

    def show(name: str, here: int, total: int) -> None:
        nonlocal shown
        done = here == total
        if done or time.monotonic() - shown > _SHOW_EVERY_SECONDS:
            shown = time.monotonic()
            of = f" of {_size(total)} ({here * 100 // total} %)" if total else ""
            end = "\n" if done else ""
            print(f"\r\x1b[K{name}: {_size(here)}{of}", end=end, file=sys.stderr, flush=True)

    return show
