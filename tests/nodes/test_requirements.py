"""The table of requirements names files and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "node-requirements.md").read_text(encoding="utf-8")


def test_every_test_is_there():
    named = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 80
    for file, test in named:
        path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / "nodes" / file
        assert path.is_file(), file
        if test:
            assert re.search(rf"^def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{test}"


def test_every_file_is_there():
    cells = [line.split("|")[2] for line in PAGE.splitlines() if line.startswith("|")]
    named = {name for cell in cells for name in re.findall(r"`((?:\w+/)?\w+\.py)`", cell)}
    assert len(named) > 20
    for name in named:
        assert any((ROOT / "llamacore" / folder / name).is_file() for folder in ("", "nodes")), name


def test_every_requirement_says_what_shows_it_or_why_it_is_not_ours():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| Requirement")]
    assert len(rows) > 70
    for row in rows:
        requirement, where, shown = (cell.strip() for cell in row.strip("|").split(" | "))
        assert requirement and shown, row
        assert where == "not ours" or "`" in shown, row
