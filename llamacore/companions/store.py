"""Where installed sets lie, and which of them are active.

<user data>/llamacore/libs/<llama.cpp commit>/
    sets/<set id>/      an unpacked set each
    active              one line: the `lib` folder of the active base set; no such file: the bundled libraries
    addons/<back end>   one line: the folder of the active add-on
    downloads/          parts of archives, to go on with
    lock                held by whoever changes any of this
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InvalidArgumentError, LlamaCoreError
from . import _package
from ._lock import exclusive
from .checks import check_says
from .facts import FILE_NAME, SetFacts, parse_facts
from .unpack import read_facts_file

_ASIDE = ".aside-"


@dataclass(frozen=True)
class InstalledSet:
    """A companion set on this machine.

    Attributes:
        id: Its name: version, platform, back end of an add-on, and the first 12 digits of its archive's SHA-256 (of its
            `companion.json`, when it was installed from a folder).
        path: Its folder.
        kind: "base" (llama.cpp itself), "addon" (one more back end), or "damaged".
        backends: Back ends that it brings.
        version: Of the llamacore that it was made for.
        platform: Its platform key.
        llama_cpp: Version of llama.cpp.
        commit: Commit of llama.cpp.
        size: Bytes of its files.
        active: Whether processes that start now use it, unless `LLAMACORE_LIB_DIR` says otherwise.
        problem: Why it cannot be used; empty for nothing that is known.
    """

    id: str
    path: Path
    kind: str
    backends: tuple[str, ...]
    version: str
    platform: str
    llama_cpp: str
    commit: str
    size: int
    active: bool
    problem: str = ""


def folder() -> Path:
    """The folder of the sets for this llama.cpp, with what goes with them."""
    return _package.libs_folder() / _package.pin().commit


def set_path(set_id: str) -> Path:
    """The folder of a set of this id."""
    return folder() / "sets" / set_id


@contextmanager
def changing(say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the store, and remove what a process that was killed left in it."""
    with exclusive(folder() / "lock", say):
        for leftover in folder().glob(f"{_ASIDE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def aside() -> Iterator[Path]:
    """A folder beside the sets, on the same file system, that is gone when the block ends; the lock is held."""
    made = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder()))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def place(new: Path, set_id: str) -> Path:
    """Put a whole new set in its place; one of the same id is replaced. The lock is held."""
    target = set_path(set_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    with aside() as old:
        there = os.path.lexists(target)
        if there:
            os.rename(target, old / "old")
        try:
            os.rename(new, target)
        except OSError:
            if there:
                os.rename(old / "old", target)
            raise
    return target


def take_away(installed: InstalledSet) -> None:
    """Remove a set, all at once. The lock is held."""
    with aside() as old:
        os.rename(installed.path, old / "old")


def write_marker(marker: Path, text: str) -> None:
    """Write a file of one line, which has the old or the new line at any time. The lock is held."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    with aside() as new:
        (new / "marker").write_text(f"{text}\n", encoding="utf-8")
        os.replace(new / "marker", marker)


def read_marker(marker: Path) -> str | None:
    """The line of a marker; None when there is none."""
    try:
        return marker.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        return None


def markers(installed: InstalledSet) -> list[Path]:
    """The markers that name a set: those that make it active."""
    commit, named = installed.commit, (str(installed.path), str(installed.path / "lib"))
    known = (_package.base_marker(commit), *(_package.addon_marker(commit, backend) for backend in _package.ADDONS))
    return [marker for marker in known if read_marker(marker) in named]


def is_active_base(installed: InstalledSet) -> bool:
    """Whether the libraries come from this set, sound or not."""
    return installed.active and _package.base_marker(installed.commit) in markers(installed)


def activate(installed: InstalledSet) -> None:
    """Make a sound set the one that processes use which start from now on. The lock is held."""
    if installed.kind == "base":
        write_marker(_package.base_marker(installed.commit), str(installed.path / "lib"))
    else:
        write_marker(_package.addon_marker(installed.commit, installed.backends[0]), str(installed.path))


def facts_of(path: Path) -> SetFacts:
    """What the set of a folder says of itself.

    Raises:
        DamagedSetError: It cannot be read.
        IncompatibleSetError: It is of another schema.
    """
    return parse_facts(read_facts_file(path, path.name), path.name)


def describe(path: Path) -> InstalledSet:
    """Describe the set of a folder, sound or not."""
    commit = path.parent.parent.name
    found = InstalledSet(path.name, path, "damaged", (), "", "", "", commit, 0, active=False)
    try:
        facts = facts_of(path)
    except LlamaCoreError as exc:
        size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        found = replace(found, size=size, problem=exc.message)
    else:
        found = replace(
            found, kind=facts.kind, backends=facts.backends, version=facts.version, platform=facts.platform,
            llama_cpp=facts.llama_cpp, size=facts.size + (path / FILE_NAME).stat().st_size,
        )  # fmt: skip
        try:
            check_says(facts, "it")
        except LlamaCoreError as exc:
            found = replace(found, problem=exc.message)
    return replace(found, active=commit == _package.pin().commit and bool(markers(found)))


def installed() -> tuple[InstalledSet, ...]:
    """All sets of this user, those for other versions of llama.cpp too: bases first, then by name."""
    found = [describe(path) for path in _package.libs_folder().glob("*/sets/*") if path.is_dir()]
    return tuple(sorted(found, key=lambda item: (item.kind == "addon", item.id, item.path)))


def find(name: str) -> InstalledSet:
    """The set that a name means: its id, or the beginning of its id or of its hash, or the back end of an add-on.

    Raises:
        InvalidArgumentError: There is none, or there are several; the message lists them.
    """
    sets = installed()
    fits = [found for found in sets if found.id == name]
    if not fits and name:
        fits = [
            found
            for found in sets
            if found.id.startswith(name)
            or found.id.rpartition("-")[2].startswith(name)
            or (found.kind == "addon" and found.backends[0] == name)
        ]
    if not fits:
        listed = ", ".join(found.id for found in sets)
        raise InvalidArgumentError(
            f"there is no set {name!r}", hint=f"installed are {listed}" if listed else "no set is installed"
        )
    if len(fits) > 1:
        raise InvalidArgumentError(
            f"{name!r} fits {len(fits)} sets: {', '.join(found.id for found in fits)}", hint="give more of its name"
        )
    return fits[0]
