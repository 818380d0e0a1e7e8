"""Contestants in processes of their own, which take turns; and what their figures come to."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETTLE_SECONDS = 0.4  # compute threads spin for a while after their last work: they must not take a core from the next


@dataclass(frozen=True)
class Run:
    """One generation of one contestant; times in milliseconds."""

    prompt_ms: float
    predicted_ms: float
    first_text_ms: float
    cpu_ms: float
    peak_rss_bytes: int
    tokens: tuple[int, ...]

    @property
    def tokens_per_second(self) -> float:
        """Rate of generation; the first token is the prompt's."""
        return (len(self.tokens) - 1) / self.predicted_ms * 1e3


class Contestant:
    """A process that has loaded its model and generates when told to.

    Args:
        name: What it is called in reports.
        command: The command.
        env: Variables added to this process's.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer("ready")

    def _answer(self, wanted: str = "") -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line or (wanted and line.strip() != wanted):
            self._process.kill()
            raise SystemExit(f"{self.name} ended early with status {self._process.wait()}; its error is above")
        return line

    def run(self) -> Run:
        """Generate once."""
        assert self._process.stdin is not None
        time.sleep(SETTLE_SECONDS)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer())
        return Run(**{**answer, "tokens": tuple(answer["tokens"])})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def take_turns(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[Run]]:
    """Let everyone generate once per round, each round begun by the next one; a first round is thrown away."""
    runs: dict[str, list[Run]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        turn = number % len(contestants)
        for contestant in (*contestants[turn:], *contestants[:turn]):
            run = contestant.run()
            if number:
                runs[contestant.name].append(run)
    return runs


def median_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median over the rounds of one figure over another: what slows both of a round down falls out."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def summary(runs: Sequence[Run], n_prompt: int) -> Mapping[str, float]:
    """Medians and the best rate of one contestant."""
    rates = [run.tokens_per_second for run in runs]
    return {
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_best": max(rates),
        "prompt_tokens_per_second": n_prompt / statistics.median(run.prompt_ms for run in runs) * 1e3,
        "first_text_ms": statistics.median(run.first_text_ms for run in runs),
        "cpu_ms": statistics.median(run.cpu_ms for run in runs),
        "peak_rss_mib": max(run.peak_rss_bytes for run in runs) / 2**20,
    }


def write_prompt(path: Path, tokens: Sequence[int]) -> Path:
    """Write a prompt as every contestant reads it."""
    path.write_text(" ".join(map(str, tokens)) + "\n", encoding="ascii")
    return path
