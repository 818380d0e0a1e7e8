"""How many threads compute, and that their pools come and go in order."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from decoding import feed, words

import llamacore as lc
from llamacore.core._threads import ThreadPools, default_threads

TASKS = "/proc/self/task"
needs_proc = pytest.mark.skipif(not os.path.isdir(TASKS), reason="counts threads in /proc")


def count() -> int:
    """Threads of this process."""
    return len(os.listdir(TASKS))


def settles_at(number: int) -> bool:
    """Whether there soon are so many threads: a joined one is listed for a moment longer."""
    for _ in range(200):
        if count() == number:
            return True
        time.sleep(0.01)
    return False


def test_the_default_is_what_the_process_may_use():
    """At least one, at most the CPUs of its affinity."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= default_threads() <= usable


@needs_proc
def test_threads_end_with_their_context(tiny):
    """A context of n threads starts n - 1, changing the number replaces them, closing ends them."""
    model = tiny()
    before = count()
    with model.context(n_ctx=256, n_threads=4) as ctx:
        assert count() == before + 3
        for n_threads in (2, 3, 1, 5):
            ctx.set_threads(n_threads)
            feed(ctx, [5])
        assert count() <= before + 4 + 4  # those in use, and at most one other pool
    assert count() == before


@needs_proc
def test_changing_often_leaves_nothing(tiny):
    """Numbers chosen again and again, with decodes in between and without, do not pile threads up."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        before = count()
        for turn in range(60):
            ctx.set_threads(1 + turn % 3, 1 + turn % 2)
            if turn % 4 == 0:
                ctx.memory.clear()
                feed(ctx, words(3))
        assert count() <= before + 2 + 1 + 2


def test_the_pool_that_was_used_last_is_not_freed_under_the_context(tiny):
    """The native context touches its last pool when it is given another: freeing that one at once would hang it."""
    with tiny().context(n_ctx=256, n_threads=2, n_threads_batch=3) as ctx:
        expected = None
        for n_threads in (3, 2, 4, 1, 2, 3):
            ctx.memory.clear()
            logits = feed(ctx, words(9))
            expected = logits if expected is None else expected
            assert np.abs(logits - expected).max() < 1e-4
            ctx.set_threads(n_threads, 5 - n_threads)
            feed(ctx, [5])


@pytest.mark.parametrize("number", [0, -1, 513, 2**31, 2**63, float("nan"), 1.5, "2"])
def test_numbers_that_cannot_be(tiny, number):
    """They are refused and the context keeps its threads."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        with pytest.raises(lc.InvalidArgumentError):
            ctx.set_threads(number)
        with pytest.raises(lc.InvalidArgumentError):
            ctx.set_threads(1, number)
        assert (ctx.n_threads, ctx.n_threads_batch) == (1, 1)
        feed(ctx, [5])
    with pytest.raises(lc.InvalidArgumentError):
        ThreadPools(number, 1)


def test_contexts_of_one_model_compute_side_by_side(tiny):
    """Four threads with a context each get what one gets alone."""
    model = tiny()
    with model.context(n_ctx=256, n_threads=1) as ctx:
        expected = feed(ctx, words(30))
    results = []

    def work():
        with model.context(n_ctx=256, n_threads=1) as own:
            for _ in range(5):
                own.memory.clear()
                results.append(feed(own, words(30)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert all(np.array_equal(result, expected) for result in results)


@needs_proc
@pytest.mark.parametrize("first", ["target", "draft"])
def test_a_session_s_contexts_share_their_threads(tiny, first):
    """Else those of one would spin while the other computes. Used at the same time, they take turns."""
    model = tiny()
    time.sleep(0.1)  # threads of the tests before are gone
    before = count()
    target, draft = (model.context(n_ctx=256, n_threads=2) for _ in range(2))
    expected = feed(target, words(30))
    draft.warmup()
    with lc.SpeculativeSession(lc.SpeculativeConfig(types="draft-simple"), target, draft):
        contexts = {"target": target, "draft": draft}
        results = []

        def work(ctx):
            for _ in range(5):
                ctx.memory.clear()
                results.append(feed(ctx, words(30)))

        threads = [threading.Thread(target=work, args=(ctx,)) for ctx in contexts.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 10
        assert all(np.array_equal(result, expected) for result in results)
    contexts.pop(first).close()
    (left,) = contexts.values()
    assert settles_at(before + 1 + (1 if first == "target" else 0))  # its own are kept until it closes
    left.memory.clear()
    assert np.array_equal(feed(left, words(30)), expected)
    left.close()
    assert settles_at(before)
