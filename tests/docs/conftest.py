"""What the tests of the documentation share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "llamacore" / "data" / "README.md"
PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *((CARD,) if CARD.exists() else ()),  # the test of links fails when it does not
    *sorted((ROOT / "docs").rglob("*.md")),
)


def page_id(path: Path) -> str:
    """The name of a page in a test's name."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language in a page: line of the first line of code, and the code."""
    found: list[tuple[int, str]] = []
    fence: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if fence is None and line.startswith("```"):
            fence = line[3:].strip()
            if fence == language:
                found.append((number + 1, ""))
        elif line.startswith("```"):
            fence = None
        elif fence == language:
            start, code = found[-1]
            found[-1] = (start, code + line)
    return found


def run_cli(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the installed command in a wide, plain terminal."""
    return subprocess.run(
        [sys.executable, "-m", "llamacore.cli.app", *arguments],
        input=stdin,
        cwd=Path(__file__).parent,  # `-m` puts the current folder first; this one has no copy of the package
        env={**os.environ, "COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@lru_cache(maxsize=1)
def generate_options() -> frozenset[str]:
    """Every option that `llamacore generate --help` names."""
    result = run_cli("generate", "--help")
    assert result.returncode == 0, result.stderr
    # an option stands after the frame, a space or the comma of its other name, never inside a sentence
    return frozenset(re.findall(r"(?<=[\s,│/])(--?[a-z][\w-]*)(?=[\s,/])", _columns(result.stdout)))


def _columns(text: str) -> str:
    """The columns of names of a help page: what comes before a type in angle brackets."""
    rows = (re.match(r"│ (.*?) <", line) for line in text.splitlines())
    return "\n".join(f" {row[1]} " for row in rows if row)
