"""The version of llamacore, wherever it is written down, and the tag of a release."""

from __future__ import annotations

import re
from pathlib import Path

from build_support.errors import BuildError

_TAG = re.compile(r"v\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
_PLACES = (
    ("pyproject.toml", r'^version = "([^"]+)"$'),
    ("llamacore/__init__.py", r'^__version__ = "([^"]+)"$'),
)


def project_version(root: Path) -> str:
    """The version, the same in every file that states it.

    Args:
        root: The checkout.

    Raises:
        BuildError: A file states none, or another.
    """
    stated = {name: _stated(root / name, pattern) for name, pattern in _PLACES}
    name, pattern = _PLACES[0]
    for path in sorted(root.glob(f"addons/*/{name}")):
        stated[path.relative_to(root).as_posix()] = _stated(path, pattern)
    if len(set(stated.values())) != 1:
        listed = ", ".join(f"{version} in {place}" for place, version in stated.items())
        raise BuildError(f"the versions differ: {listed}", "write the same version into all of them")
    return stated[name]


def is_tag(text: str) -> bool:
    """Whether a text is the tag of a release: `v` and a version."""
    return _TAG.fullmatch(text) is not None


def _stated(path: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError as error:
        raise BuildError(f"no version: {error}", "run it in a whole checkout") from None
    if found is None:
        raise BuildError(f"{path} states no version", f"give it a line like {pattern!r}")
    return found[1]
