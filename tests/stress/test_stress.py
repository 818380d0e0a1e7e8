"""Thousands of steps in any order, and hundreds of lives of a model: no signal, no leak."""

import subprocess
import sys
from pathlib import Path

import pytest


def child(tmp_path, *args, timeout=600):
    """Run a program beside this file in a process of its own; a signal fails the test with its output."""
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name(args[0])), *map(str, args[1:])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout, check=False)
    assert 0 == done.returncode, f"{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.mark.parametrize("seed", [1])
def test_objects_in_any_order_from_any_thread(tmp_path, seed):
    """5,000 steps over models, contexts, samplers, batches and states end without a signal or a foreign error."""
    out = child(tmp_path, "machine.py", tmp_path, 5000, seed)
    steps, _, rest = out.partition(" steps, ")
    assert 5000 <= int(steps)
    assert int(rest.split()[0]) > 100, "the machine met no errors: it does not misuse anything"


def test_memory_is_flat_over_200_lives(tmp_path):
    """Load, generate, close 200 times: resident memory stays within 3 %."""
    first, last = map(float, child(tmp_path, "lives.py", 200).split())
    assert last <= first * 1.03, f"{first:.1f} MiB became {last:.1f} MiB"
