"""Code that is shown is code that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PAGES, ROOT, blocks, page_id

PYTHON = [
    pytest.param(path, line, code, id=f"{page_id(path)}:{line}")
    for path in PAGES
    for line, code in blocks(path, "python")
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize(("path", "line", "code"), PYTHON)
def test_a_block_runs_by_itself(path: Path, line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lines_above = "\n" * (line - 1)  # so that a traceback names the line of the page
    code_of_page = compile(lines_above + code, str(path), "exec", dont_inherit=True)  # not this file's __future__
    exec(code_of_page, {"__name__": "__main__"})


def test_the_guides_show_code():
    assert len(PYTHON) > 20
    assert {"README.md", "docs/python.md", "docs/index.md"} <= {page_id(param.values[0]) for param in PYTHON}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path):
    result = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 3
    assert result.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_there_are_examples():
    wanted = {"stream", "decode_loop", "logprobs", "structured", "quantize", "state", "native_log"}
    assert wanted <= {path.stem for path in EXAMPLES}
