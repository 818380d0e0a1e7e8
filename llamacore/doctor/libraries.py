"""The files of the libraries: there, whole, unchanged."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib import metadata
from pathlib import Path

from ..companions.store import facts_of
from ..companions.verification import differences
from ..core.installation import installation, why_incomplete
from ..errors import LlamaCoreError
from .report import Check, LibraryFacts, LibraryFile


def look_at_libraries() -> LibraryFacts:
    """Describe the libraries without opening one.

    Raises:
        ImportError: The package is not built, or the folder that was chosen is gone.
    """
    found = installation()
    return LibraryFacts(
        folder=found.folder,
        origin=found.origin,
        chosen_by=found.chosen_by,
        llama_cpp=found.llama_cpp,
        commit=found.commit,
        profile=found.profile,
        files=tuple(_file(Path(found.folder, name)) for name in found.libraries),
    )


def _file(path: Path) -> LibraryFile:
    problem = why_incomplete(str(path))
    return LibraryFile(path.name, path.stat().st_size if path.is_file() else 0, problem)


def check_files(libraries: LibraryFacts) -> list[Check]:
    """Whether the files are there, whole, and what was released, as far as there is something to compare them with."""
    broken = [file.problem for file in libraries.files if file.problem]
    if broken:
        hint = (
            "unset LLAMACORE_LIB_DIR, or correct it" if libraries.chosen_by == "environment" else "reinstall llamacore"
        )
        if libraries.chosen_by == "companion set":
            hint = "run `llamacore libs use bundled`, or install the set again"
        more = f" and {len(broken) - 2} more" if len(broken) > 2 else ""
        return [Check("libraries", "failed", f"{libraries.origin}: {'; '.join(broken[:2])}{more}", hint)]
    size = sum(file.size for file in libraries.files) / 2**20
    place = f"{len(libraries.files)} files, {size:.1f} MiB in {libraries.folder} ({libraries.origin})"
    checks = [Check("libraries", "ok", place)]
    try:
        source, changed = _compare(libraries)
    except (OSError, LlamaCoreError) as exc:
        return [*checks, Check("integrity", "failed", str(exc), "install the libraries again")]
    if changed:
        hint = "install the libraries again"
        checks.append(Check("integrity", "failed", f"not as in {source}: {', '.join(changed)}", hint))
    elif source:
        checks.append(Check("integrity", "ok", f"all files are as in {source}"))
    return checks


def _compare(libraries: LibraryFacts) -> tuple[str, list[str]]:
    """What there is to compare with, and what differs from it."""
    folder = Path(libraries.folder)
    if libraries.chosen_by != "package":
        top = folder.parent
        if not (top / "companion.json").is_file():
            return "", []
        result = differences(top, facts_of(top))
        return f"{top / 'companion.json'}", [*result.changed, *(f"{name} (missing)" for name in result.missing)]
    try:
        recorded = metadata.distribution("llamacore").files or []
    except metadata.PackageNotFoundError:
        return "", []
    changed, compared = [], 0
    for entry in recorded:
        path = Path(os.path.abspath(str(entry.locate())))
        if path.parent != folder or entry.hash is None or entry.hash.mode != "sha256":
            continue
        compared += 1
        digest = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != entry.hash.value:
            changed.append(entry.name)
    return ("the record of the installed package" if compared else ""), changed
