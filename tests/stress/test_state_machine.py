"""Thousands of calls in an order that nobody thought of, in a process where a crash is a failed test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import llamacore as lc
from llamacore.testing import tiny_lora

MACHINE = Path(__file__).with_name("machine.py")
CALLS = 5000


def run_machine(tiny_path, folder: Path, seed: int, calls: int, timeout: float) -> str:
    """Run the machine in a child process and return what it says."""
    import os

    paths = [tiny_path(arch) for arch in ("llama", "qwen35", "mamba")]
    lora = tiny_lora(folder / "lora.gguf", paths[0])
    env = {**os.environ, "PYTHONPATH": str(Path(lc.__file__).parent.parent), "GGML_NO_BACKTRACE": "1"}
    command = [sys.executable, "-X", "faulthandler", str(MACHINE), str(seed), str(calls), *map(str, paths), str(lora)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-8000:]}"
    return done.stdout


def test_calls_in_any_order(tiny_path, tmp_path):
    """5,000 calls from several threads end in results and in the errors that a call may end in: no signal, no other."""
    said = run_machine(tiny_path, tmp_path, 0, CALLS, 300)
    match = re.match(r"(\d+) calls", said)
    assert match and int(match[1]) >= CALLS
    counts = {name.strip(): int(count) for count, name in re.findall(r"^ *(\d+) (.*)$", said, re.MULTILINE)}
    kinds = ("decode", "go on", "read", "sample", "memory", "to_bytes", "from_bytes", "set_lora", "close", "thread")
    never = [kind for kind in kinds if counts.get(kind, 0) == 0]
    assert never == [], f"{never} never worked:\n{said}"
    assert sum(count for name, count in counts.items() if name.endswith(("BusyError", "ClosedError"))) > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1000, 2000, 3000])
def test_many_more_calls(tiny_path, tmp_path, seed):
    """The same, ten times as long, with other choices."""
    run_machine(tiny_path, tmp_path, seed, 10 * CALLS, 1800)
