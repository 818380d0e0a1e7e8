"""A short soak of the engine; `python tests/stress/soak.py SECONDS` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_short_soak() -> None:
    """Twenty seconds of random requests: no leak, no stall, no lost request, every handle ends exactly once."""
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("soak.py")), "20"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
