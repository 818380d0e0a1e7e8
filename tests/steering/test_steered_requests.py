"""Requests that are steered differently share one engine, and stories change their mood."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import llamacore as lc
from llamacore.core.control_vector import ControlVector

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PROMPT = "Once upon a time"
N_PREDICT = 32


def greedy(model: lc.Model, vector: ControlVector | None) -> list[int]:
    """What one text is when the whole context is steered with upstream's own means."""
    with model.context(n_ctx=128, n_threads=1) as ctx:
        ctx.set_control_vector(vector)
        tokens = model.vocab.tokenize(PROMPT)
        start = len(tokens)
        batch = lc.Batch(64)
        batch.add_tokens(tokens)
        while len(tokens) < start + N_PREDICT:
            ctx.decode(batch)
            tokens.append(int(ctx.logits(-1).argmax()))
            batch.clear()
            batch.add(tokens[-1], len(tokens) - 1, output=True)
        return tokens[start:]


def test_eight_steered_requests_share_an_engine(exact_path: Path) -> None:
    """Side by side, started one after another, each is the text of its own vector."""
    rng = np.random.default_rng(0)
    with lc.Llama(exact_path, taps=True, n_parallel=8, n_ctx=8 * 128, n_threads=1) as llama:
        width = llama.model.n_embd
        vectors = [ControlVector({layer: rng.normal(size=width) * 0.15 for layer in (1, 3)}) for _ in range(4)]
        steering = [{}, *({vector: 1.0} for vector in vectors), {vectors[0]: 0.0}, {vectors[1]: -1.0}]
        steering.append({vectors[2]: 0.5, vectors[3]: 0.5})
        wanted = [greedy(llama.model, sum_of(item)) for item in steering]
        for _ in range(2):  # the second time the prefix cache knows them all
            running = [
                llama.stream(PROMPT, max_tokens=N_PREDICT, temperature=0, ignore_eos=True, steering=item)
                for item in steering
            ]
            assert [list(generation.result().tokens) for generation in running] == wanted
    assert wanted[0] == wanted[5] and len({tuple(tokens) for tokens in wanted}) >= 6


def sum_of(steering: dict[ControlVector, float]) -> ControlVector | None:
    total = None
    for vector, scale in steering.items():
        total = vector * scale if total is None else total + vector * scale
    return total


@pytest.fixture(scope="module")
def bench():
    """The benchmark of the guide."""
    sys.path.append(str(BENCHMARKS))
    found = importlib.util.spec_from_file_location("steering_benchmark", BENCHMARKS / "steering.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def measured(bench, count: int):
    arguments = argparse.Namespace(
        stories=count, moods=list(bench.CHECKED), coefficients=[0.0, bench.USED], threads=1, json=True
    )
    return bench.measure(arguments)


@pytest.mark.slow
def test_stories_change_their_mood(bench) -> None:
    """Twenty-four stories each way: more of them are of the mood, and they are still stories."""
    report = measured(bench, 24)
    assert report["classifier_accuracy"] > 0.95
    for mood in bench.CHECKED:
        found = report["moods"][mood]
        assert found["unchanged"]
        assert found["points"][1]["effect"] > 0.1
        assert found["points"][1]["perplexity_ratio"] < 1.5


@pytest.mark.slow
def test_two_hundred_stories_each_way(bench) -> None:
    """What the guide says: about a medium effect at least, perplexity within 1.3 times."""
    assert bench.shortcomings(measured(bench, 200)) == []
