"""Drafting that is switched on and off, counted, and closed."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence

import pytest

import llamacore as lc
from llamacore.engine.speculation import gain
from llamacore.hub import demo_draft_path

from .conftest import ask
from .drafting import WAYS, drafted, story


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n_parallel", [1, 4])
def test_switching_all_the_time(make_llama, exact_path, monkeypatch, way, n_parallel):
    """Looks of two steps and pauses of three: texts are begun, left alone and taken up again, and stay right."""
    monkeypatch.setattr(gain, "_STEPS", 2)
    monkeypatch.setattr(gain, "_FIRST_PAUSE", 3)
    monkeypatch.setattr(gain, "_LONGEST_PAUSE", 6)
    plain = make_llama(exact_path, n_parallel=1)
    prompts = [story(plain, mood) for mood in ("happy", "sad", "calm", "angry", "afraid")]
    expected = [plain.engine.submit(ask(prompt, 120)).result().tokens for prompt in prompts]
    spec = make_llama(exact_path, dataclasses.replace(WAYS[way](), adaptive=True), n_parallel=n_parallel)
    running = [spec.engine.submit(ask(prompt, 120)) for prompt in prompts]
    assert expected == [generation.result().tokens for generation in running]
    assert drafted(spec) > 0
    if way == "draft model":  # it reads what was written while it was off; else it would guess from the middle
        assert spec.engine.stats().speculation.acceptance > 0.6


def test_synthetic_rates(make_llama, exact_path):
    """For benchmarks: as many tokens are accepted as was said, whatever they are."""
    llama = make_llama(exact_path, lc.Mtp(n_max=3, synthetic_rates=(0.9, 0.5, 0.0), adaptive=False), n_parallel=1)
    for seed in range(30):  # ends are never accepted, so that texts are short
        llama.generate("Once upon a time, there was a", max_tokens=60, seed=seed)
    (first, right), (second, right_too), (_, never) = llama.engine.stats().speculation.positions
    assert 0.84 < right / first < 0.96
    assert 0.42 < right_too / second < 0.58
    assert 0 == never


def test_what_statistics_tell(make_llama, exact_path):
    llama = make_llama(exact_path, lc.Mtp(n_max=3, adaptive=False))
    stats = llama.engine.stats().speculation
    assert (("draft-mtp",), True, 0, 0, 0, None) == (
        stats.types, stats.active, stats.drafts, stats.drafted, stats.accepted, stats.acceptance
    )  # fmt: skip
    assert ((0, 0),) * 3 == stats.positions
    result = llama.generate(story(llama), max_tokens=100, temperature=0.0)
    engine = llama.engine.stats()
    stats = engine.speculation
    assert stats.drafted == sum(asked for asked, _ in stats.positions)
    assert stats.accepted == sum(right for _, right in stats.positions)
    assert stats.acceptance == stats.accepted / stats.drafted > 0.4
    assert engine.steps < len(result.tokens) * 0.7
    # a token of each step is the target's own; accepted ones after the end of the text are not part of it
    assert 0 <= stats.accepted + engine.steps - len(result.tokens) <= 4
    assert make_llama(exact_path).engine.stats().speculation is None


def test_statistics_from_another_thread(make_llama, exact_path):
    """Looking at any time disturbs no draft, and is not disturbed by any."""
    llama = make_llama(exact_path, lc.Mtp(adaptive=False))
    over, looks = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            looks.append(llama.engine.stats().speculation.drafted)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(4):
            llama.generate("Once upon a time", max_tokens=100, ignore_eos=True)
    finally:
        over.set()
        watcher.join()
    assert looks == sorted(looks)
    assert len(looks) > 10 and looks[-1] > 100


def test_closing(make_llama, exact_path):
    """With work in flight, twice, and in any order."""
    for way in WAYS.values():
        llama = make_llama(exact_path, way())
        running: Sequence[lc.Generation] = [llama.stream("Once upon a time", ignore_eos=True) for _ in range(6)]
        next(running[0])
        engine = llama.engine
        llama.close()
        llama.close()
        engine.close()
        for generation in running:
            with pytest.raises(lc.ClosedError):
                generation.result()
        with pytest.raises(lc.ClosedError):
            llama.generate("a")


def test_a_model_that_is_closed_underneath(exact_path):
    """The target's or the drafter's model goes away: requests end with an error, or go on without drafts."""
    with lc.Model.load(demo_draft_path()) as draft, lc.Model.load(exact_path) as model:
        options = {"n_threads": 1, "n_ctx": 2048, "n_parallel": 2}
        llama = lc.Llama(model, speculative=lc.DraftModel(model=draft, adaptive=False), **options)
        generation = llama.stream("Once upon a time", ignore_eos=True, max_tokens=500)
        next(generation)
        draft.close()
        assert 500 == len(generation.result().tokens)
        stats = llama.engine.stats().speculation
        assert not stats.active
        assert stats.failure
        assert llama.generate("Once upon a time", max_tokens=5).tokens
        generation = llama.stream("Once upon a time", ignore_eos=True)
        next(generation)
        model.close()
        with pytest.raises(lc.LlamaCoreError):
            generation.result()
        llama.close()


def test_idle_time_does_not_count(make_llama, exact_path):
    """Nothing of a pause between requests goes into the estimate."""
    llama = make_llama(exact_path, lc.Mtp())
    for _ in range(3):
        llama.generate(story(llama), max_tokens=60, temperature=0.0)
        time.sleep(0.3)
    estimate = llama.engine.stats().speculation.gain
    assert estimate is None or 0.2 < estimate < 5
