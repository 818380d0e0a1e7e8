"""A short soak of the engine; `python tests/stress/soak.py SECONDS` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "arguments", [["20"], ["8", "0", "mtp"], ["5", "0", "draft"], ["5", "0", "ngram"]], ids=" ".join
)
def test_a_short_soak(arguments: list[str]) -> None:
    """Some seconds of random requests, with drafts too: no leak, no stall, every handle ends exactly once."""
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("soak.py")), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
