"""The memory that drafts holds what the target holds, when a text takes over what another one had."""

from __future__ import annotations

import pytest

import llamacore as lc
from llamacore.hub import demo_draft_path

PREFIX = list(range(300, 420))
WAYS = {
    "mtp": lambda: lc.Mtp(adaptive=False),
    "draft model": lambda: lc.DraftModel(model=demo_draft_path(), adaptive=False),
}


@pytest.fixture(params=WAYS)
def llama(request, exact_path):
    options = {"n_ctx": 1024, "n_threads": 1, "n_parallel": 1, "flash_attn": "disabled"}
    with lc.Llama(exact_path, speculative=WAYS[request.param](), **options) as made:
        yield made


def ends(llama: lc.Llama) -> tuple[int, ...]:
    """The last position, in the target and in what drafts."""
    drafter = llama.engine._drafter
    memories = llama.context.memory, drafter._draft.memory
    return llama.engine.call(lambda _: tuple(memory.seq_pos_max(0) for memory in memories))


def test_a_sequence_that_is_cut(llama):
    """What drafted the text before does not see its tail any more."""
    llama.generate(PREFIX, max_tokens=0)
    llama.generate([*PREFIX, 500, 501, 502], max_tokens=12, temperature=0.0, ignore_eos=True)
    llama.generate([*PREFIX, 600], max_tokens=1, temperature=0.0, draft_max=0)
    assert ends(llama) == (len(PREFIX), len(PREFIX) - 1)  # nobody drafted for the last text
    assert llama.engine.stats().cache.reused_tokens == 2 * len(PREFIX)


def test_the_drafts_after_a_cut_are_those_of_a_new_engine(llama, exact_path):
    """A text behind a prefix is drafted as if nobody had gone on from there before."""
    prompt = [*PREFIX, *llama.tokenize("Tell me a happy story.", add_special=False)]
    options = {"max_tokens": 60, "temperature": 0.0, "ignore_eos": True}
    llama.generate(PREFIX, max_tokens=0)
    before = llama.engine.stats().speculation
    alone = llama.generate(prompt, **options)
    fresh = llama.engine.stats().speculation
    llama.generate([*PREFIX, 500, 501, 502], max_tokens=6, temperature=0.0, ignore_eos=True)
    middle = llama.engine.stats().speculation
    assert alone.tokens == llama.generate(prompt, **options).tokens
    again = llama.engine.stats().speculation
    first, second = fresh.accepted - before.accepted, again.accepted - middle.accepted
    assert abs(first - second) <= 3, (first, second)


def test_what_waits_is_in_a_saved_state(exact_path):
    """MTP computes what was verified with the next draft, and before its memory is saved or copied."""
    options = {"n_ctx": 1024, "n_threads": 1, "n_parallel": 2, "flash_attn": "disabled"}
    with lc.Llama(exact_path, speculative=lc.Mtp(adaptive=False), **options) as llama:
        llama.generate(PREFIX, max_tokens=20, temperature=0.0, ignore_eos=True)
        drafter = llama.engine._drafter
        before, target = ends(llama)[1], ends(llama)[0]
        assert before < target
        llama.engine.call(lambda _: drafter.state(0))
        assert drafter.failure is None
        assert ends(llama) == (target, target)
