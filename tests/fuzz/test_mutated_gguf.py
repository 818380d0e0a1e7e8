"""Thousands of damaged model files: each loads or is an error, none is a signal, none hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import llamacore
from llamacore.testing import tiny_model

from .image import Image
from .worker import exercise

N_CHILDREN = 2
SECONDS_PER_FILE = 20
MEBIBYTES_PER_FILE = 512  # of files below 5 MB and contexts of 64 tokens
DEMO = sorted((Path(llamacore.__file__).parent / "data").glob("*.gguf"))
SHAPE = {"n_embd": 32, "n_ff": 64, "n_head": 2, "n_ctx_train": 64}
BASES = {
    "llama": {"n_vocab": 280},
    "llama-spm": {"vocab": "spm"},
    "llama-moe": {"n_vocab": 300, "n_expert": 4},
    "llama-q8_0": {"n_vocab": 280, "dtype": "q8_0"},
    "gemma3": {"arch": "gemma3"},
    "qwen35": {"arch": "qwen35", "n_vocab": 280, "n_nextn": 1},
    "mamba": {"arch": "mamba", "n_vocab": 280},
    "bert": {"arch": "bert"},
    "classifier": {"arch": "bert", "pooling": "rank", "labels": ["a", "b", "c"]},
    "t5": {"arch": "t5"},
}


def jobs(seeds: range) -> list[str]:
    """One line for each mutant; of the demo model only the header is changed."""
    names = list(BASES)
    return [
        f"demo {seed} 1" if DEMO and seed % 10 == 9 else f"{names[seed * 7 // 10 % len(names)]} {seed} 0"
        for seed in seeds
    ]


@dataclass
class Child:
    """Feeds one worker process after another until its jobs are done.

    Attributes:
        jobs: What is left to do.
        outcomes: How many mutants ended how.
        failures: Mutants that ended the process or took too long.
    """

    bases: Path
    mutant: Path
    jobs: list[str]
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Do all jobs."""
        while self.jobs:
            self._run_worker()

    def _run_worker(self) -> None:
        command = [sys.executable, "-m", "fuzz.worker", str(self.bases), str(self.mutant)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as worker:
            assert worker.stdin and worker.stdout and worker.stderr
            errors: list[str] = []
            reader = threading.Thread(target=lambda pipe: errors.extend(pipe), args=(worker.stderr,))
            reader.start()
            while self.jobs:
                job = self.jobs.pop(0)
                started = time.monotonic()
                timer = threading.Timer(SECONDS_PER_FILE, worker.kill)
                timer.start()
                try:
                    worker.stdin.write(job + "\n")
                    worker.stdin.flush()
                    start, done = worker.stdout.readline(), worker.stdout.readline()
                except BrokenPipeError:
                    start = done = ""
                finally:
                    timer.cancel()
                if not done:
                    seconds = time.monotonic() - started
                    worker.wait()
                    reader.join()
                    how = "hung" if seconds >= SECONDS_PER_FILE else f"ended with {worker.returncode}"
                    self.failures.append(f"{job} ({start.strip()}) {how}: {''.join(errors[-20:])}")
                    return
                _, _, _, _, grown, outcome = done.rstrip("\n").split(" ", 5)
                if int(grown) > MEBIBYTES_PER_FILE:
                    self.failures.append(f"{job} ({start.strip()}) took {grown} MiB")
                self.outcomes[outcome.split(":")[0]] += 1
            worker.stdin.close()
            worker.wait()
            reader.join()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for name, options in BASES.items():
        tiny_model(folder / name, **{**SHAPE, **options})
    if DEMO:
        (folder / "demo").write_bytes(DEMO[0].read_bytes())
    return folder


def test_sound_files_are_taken_apart_exactly_and_decode(bases: Path) -> None:
    for path in sorted(bases.iterdir()):
        raw = path.read_bytes()
        assert Image.parse(raw).to_bytes() == raw, path.name
        assert exercise(path) == "ok", path.name


@pytest.mark.parametrize("seeds", [range(2000), pytest.param(range(2000, 22000), marks=pytest.mark.slow)], ids=len)
def test_mutants_load_or_are_an_error(bases: Path, tmp_path: Path, seeds: range) -> None:
    todo = jobs(seeds)
    children = [Child(bases, tmp_path / f"mutant-{i}.gguf", todo[i::N_CHILDREN]) for i in range(N_CHILDREN)]
    threads = [threading.Thread(target=child.run) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures = [failure for child in children for failure in child.failures]
    assert not failures, "\n".join(failures)
    outcomes = sum((child.outcomes for child in children), Counter())
    assert sum(outcomes.values()) == len(seeds)
    # damage that never hurts, or always does, would test nothing
    assert len(seeds) // 10 < outcomes["ok"] < len(seeds) * 2 // 3, outcomes
    assert outcomes["InvalidModelError"] > len(seeds) // 10, outcomes
    assert outcomes["ModelLoadError"] > len(seeds) // 20, outcomes
    # an assertion that fails while computing ends the process as soon as there is more than one thread
    assert not outcomes["BrokenError"] and not outcomes["DecodeError"], outcomes
