"""The pin of llama.cpp: `llamacore_sys/UPSTREAM`, parsed and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from build_support.errors import BuildError

_SHAPES = {
    "version": r"\d+\.\d+\.\d+",
    "commit": r"[0-9a-f]{7,40}",
    "sdist-name": r"[A-Za-z0-9][A-Za-z0-9._-]*",
    "sdist-version": r"\d+(\.\d+)*",
    "sdist-sha256": r"[0-9a-f]{64}",
    "sdist-subdir": r"\w[\w.-]*(/\w[\w.-]*)*",
}


@dataclass(frozen=True)
class Pin:
    """One version of llama.cpp and the sdist that carries its source."""

    version: str
    commit: str
    sdist_name: str
    sdist_version: str
    sdist_sha256: str
    sdist_subdir: str

    @property
    def requirement(self) -> str:
        """The sdist as a line of a requirements file, with its hash."""
        return f"{self.sdist_name}=={self.sdist_version} --hash=sha256:{self.sdist_sha256}"

    @property
    def archive_stem(self) -> str:
        """The name of the sdist and of the folder inside it (PEP 625)."""
        return f"{re.sub(r'[-_.]+', '_', self.sdist_name).lower()}-{self.sdist_version}"


def read_pin(path: Path) -> Pin:
    """Reads the pin.

    Args:
        path: The file, lines of `key = value`; `#` starts a comment.

    Raises:
        BuildError: A key is missing, unknown, given twice, or its value has the wrong shape.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BuildError(f"the pin of llama.cpp cannot be read: {error}", f"restore {path}") from error
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or key not in _SHAPES or key in values:
            raise BuildError(
                f"{path}:{number}: expected one of {', '.join(_SHAPES)}, once, as `key = value`; found {line!r}",
                "correct the line",
            )
        if not re.fullmatch(_SHAPES[key], value):
            raise BuildError(f"{path}:{number}: {value!r} is no valid {key}", "correct the line")
        values[key] = value
    missing = [key for key in _SHAPES if key not in values]
    if missing:
        raise BuildError(f"{path}: {', '.join(missing)} missing", "add the lines")
    return Pin(**{key.replace("-", "_"): value for key, value in values.items()})
