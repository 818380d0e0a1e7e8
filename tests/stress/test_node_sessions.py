"""A short soak of a node; `python tests/stress/node_sessions.py SECONDS` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_eight_sessions_at_once() -> None:
    """Some seconds of eight sessions that are interrupted: no crossed text, no stall, one sentinel for each turn."""
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("node_sessions.py")), "15"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "all is well" in result.stdout
