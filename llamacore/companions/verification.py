"""Whether the files of a set are still those that were installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .facts import FILE_NAME, SetFacts
from .unpack import files_of, sha256_of


@dataclass(frozen=True)
class Verification:
    """What became of the files of a set.

    Attributes:
        id: The set.
        changed: Files whose content differs, or that are no plain files any more.
        missing: Files that are gone.
        additional: Files that do not belong to it.
    """

    id: str
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    additional: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all of them are as they were."""
        return not (self.changed or self.missing or self.additional)


def differences(path: Path, facts: SetFacts) -> Verification:
    """Hash every file of a set again and compare it with its `companion.json`."""
    found = dict(files_of(path))
    changed = []
    for name, wanted in facts.files.items():
        if name not in found:
            continue
        with open(path / name, "rb") as file:
            same = found[name] and (path / name).stat().st_size == wanted.size and sha256_of(file) == wanted.sha256
        if not same:
            changed.append(name)
    return Verification(
        id=path.name,
        changed=tuple(sorted(changed)),
        missing=tuple(sorted(name for name in facts.files if name not in found)),
        additional=tuple(sorted(name for name in found if name not in facts.files and name != FILE_NAME)),
    )
