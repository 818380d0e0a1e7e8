"""What is installed and active, and changing that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CompanionError, DamagedSetError, LlamaCoreError
from . import _package, store
from .checks import check_loads, check_says, check_structs
from .facts import FILE_NAME
from .installer import Say, make_active
from .store import InstalledSet
from .verification import Verification, differences

BUNDLED = "bundled"
"""The name that `use` has for the libraries of the package itself."""


@dataclass(frozen=True)
class AddOn:
    """A back end in a file of its own that processes which start now open, or would.

    Attributes:
        backend: Its name, as in "cuda".
        path: The file.
        origin: What it comes from, in words: an add-on set, a Python package, the folder of the libraries.
        problem: Why it is not opened; empty when it is.
    """

    backend: str
    path: Path
    origin: str
    problem: str


@dataclass(frozen=True)
class ActiveLibraries:
    """What processes use that start now.

    Attributes:
        folder: Folder of the libraries; None when the one that was chosen is gone.
        chosen_by: "environment" (`LLAMACORE_LIB_DIR`), "companion set" or "package" (the bundled ones).
        set: The companion set, if that is what it is.
        environment: Value of `LLAMACORE_LIB_DIR`, which wins over everything else; None when it is not set.
        addons: Back ends in files of their own.
        bundled: Folder of the libraries that the package itself has.
        problem: Why no process can start with this, as far as can be told without trying; empty for nothing.
    """

    folder: Path | None
    chosen_by: str
    set: InstalledSet | None
    environment: str | None
    addons: tuple[AddOn, ...]
    bundled: Path
    problem: str


def installed() -> tuple[InstalledSet, ...]:
    """List the companion sets of this user, bases first, those for other versions of llama.cpp too."""
    return store.installed()


def active() -> ActiveLibraries:
    """Tell which libraries are used by processes that start now. Nothing is opened."""
    environment = _package.lib_dir_variable()
    chosen = next((found for found in store.installed() if store.is_active_base(found)), None)
    try:
        folder = _package.library_folder()
    except (ImportError, OSError, UnicodeError) as exc:  # the folder, or the marker that names it
        by = "environment" if environment else "companion set"
        own = None if environment else chosen
        return ActiveLibraries(None, by, own, environment, (), _package.bundled_folder(), str(exc))
    problem = ""
    if folder.chosen_by != "companion set":
        chosen = None
    elif chosen is not None:
        problem = chosen.problem
    else:
        problem = f"{_package.base_marker(_package.pin().commit)} names a folder that is no installed set"
    return ActiveLibraries(
        folder=Path(folder.path),
        chosen_by=folder.chosen_by,
        set=chosen,
        environment=environment,
        addons=tuple(
            AddOn(found.backend, Path(found.path), found.origin, found.problem) for found in _package.modules(folder)
        ),
        bundled=_package.bundled_folder(),
        problem=problem,
    )


def use(name: str, *, say: Say | None = None) -> InstalledSet | None:
    """Make an installed set the active one; an add-on is used beside whatever base is active.

    A base set is loaded in a process of its own first. `LLAMACORE_LIB_DIR` still wins where it is set.

    Args:
        name: Its id, or the beginning of its id or of its hash, or the back end of an add-on; `BUNDLED` for the
            libraries of the package.
        say: Called with a line when another process has to be waited for.

    Returns:
        The set, an add-on with the reason why it does nothing here, if so; None for the bundled libraries.

    Raises:
        InvalidArgumentError: There is no such set, or there are several.
        DamagedSetError: It is not what was installed.
        IncompatibleSetError: It is not for this machine or this llamacore, or does not load.
    """
    with store.changing(say or _silent):
        if name == BUNDLED:
            _package.base_marker(_package.pin().commit).unlink(missing_ok=True)
            return None
        wanted = store.find(name)
        facts = store.facts_of(wanted.path)
        check_says(facts, wanted.id)
        found = differences(wanted.path, facts)
        if not found.ok:
            names = ", ".join((*found.changed, *found.missing, *found.additional))
            raise DamagedSetError(f"{wanted.id} is not what was installed: {names}", hint="install it again")
        if facts.kind == "base":
            check_structs(facts, wanted.id)
            check_loads(wanted.path, wanted.id)
        return make_active(wanted)


def verify(name: str | None = None) -> tuple[Verification, ...]:
    """Hash the files of installed sets again.

    Args:
        name: A set, as for `use`; None for all of them.

    Returns:
        What became of each set's files. A set whose `companion.json` cannot be read has that as its changed file.

    Raises:
        InvalidArgumentError: There is no such set, or there are several.
    """
    results = []
    for found in store.installed() if name is None else (store.find(name),):
        try:
            results.append(differences(found.path, store.facts_of(found.path)))
        except LlamaCoreError:
            results.append(Verification(found.id, changed=(FILE_NAME,)))
    return tuple(results)


def remove(name: str, *, force: bool = False, say: Say | None = None) -> InstalledSet:
    """Remove an installed set. Processes that use it keep what they have opened, on Linux and macOS.

    Args:
        name: A set, as for `use`.
        force: Remove the active base set too; the bundled libraries are active then.
        say: Called with a line when another process has to be waited for.

    Returns:
        What was removed.

    Raises:
        InvalidArgumentError: There is no such set, or there are several.
        CompanionError: It is the active base set, and `force` is False.
    """
    with store.changing(say or _silent):
        found = store.find(name)
        if store.is_active_base(found) and not force:
            raise CompanionError(
                f"{found.id} is the active set", hint="use another one first (`llamacore libs use`), or force it"
            )
        for marker in store.markers(found):
            marker.unlink(missing_ok=True)
        store.take_away(found)
        return replace(found, active=False)


def _silent(_: str) -> None:
    """Nobody is told."""
