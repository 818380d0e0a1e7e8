"""Hundreds of lives of the facade leave no memory behind."""

import subprocess
import sys
from pathlib import Path


def test_memory_is_flat_over_200_lives(tmp_path):
    """Load, generate, close the demo model 200 times: resident memory stays within 3 %."""
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("lives.py")), "200"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True)
    first, last = map(float, done.stdout.split())
    assert last <= first * 1.03, f"{first:.1f} MiB became {last:.1f} MiB"
