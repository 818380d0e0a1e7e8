"""MTP drafts are those of upstream's own loop, whether or not what was verified waits for the next draft."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from speculating import Loop, plain

from llamacore.core.model import Model
from llamacore.core.sampler import Sampler
from llamacore.core.speculative import MtpSessionConfig, SpeculativeConfig
from llamacore.errors import ClosedError, DecodeError, OutOfRangeError

STORIES = (
    "Once upon a time there was a quiet owl",
    "One night, the candle went out",
    "Tom and Anna",
    "The fox came to the door and asked for a cup of tea and a spoon of honey. Then",
)
NEVER = {"ngram_size_n": 1024}  # n-grams of this length do not come up twice; with a second type, upstream drafts


@pytest.fixture(scope="module")
def model(exact_path: Path) -> Iterator[Model]:
    """Weights in F32: what shares a decode changes sums in their last bits only."""
    with Model.load(exact_path, load_mtp=True) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def prompts(model: Model) -> list[list[int]]:
    return [model.vocab.tokenize(text) for text in STORIES]


def drafts(model: Model, prompts: list[list[int]], config: SpeculativeConfig, **options: Any) -> list[Any]:
    """Everything that is proposed while the prompts go on for 80 tokens, and what they go on with."""
    proposed: list[Any] = []
    with Loop(model, config, flash_attn="disabled", **options) as loop:
        propose = loop.session.draft_many

        def record(*args: Any) -> list[list[int]]:
            found = propose(*args)
            proposed.append((list(args[1]), found))
            return found

        loop.session.draft_many = record  # type: ignore[method-assign]
        # upstream drafts to the end and cuts, so that what it drops for its length is another draft with such limits
        limits = (3,) if config.n_min else (3, 1, 3, 0, 2)
        proposed.append(loop.generate(prompts, 80, n_max=lambda step, seq: limits[(step + seq) % len(limits)]))
    return proposed


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"p_min": 0.7},
        {"n_min": 2, "p_min": 0.5},
        {"backend_sampling": True},
        {"backend_sampling": True, "p_min": 0.7},
    ],
)
@pytest.mark.parametrize("n_seq", [1, 4])
def test_drafts_are_those_of_upstream(model, prompts, n_seq, options):
    """Drafted in the loop of the shim, with rows that wait and without, and in upstream's."""
    prompts = prompts[:n_seq]
    of_upstream = drafts(
        model, prompts, SpeculativeConfig(types=("draft-mtp", "ngram-simple"), n_seq=n_seq, **NEVER, **options)
    )
    assert of_upstream[-1] == plain(model, prompts, 80, flash_attn="disabled")
    assert sum(len(found) for _, step in of_upstream[:-1] for found in step) > 20 * n_seq
    for trims in (False, True):
        assert drafts(model, prompts, MtpSessionConfig(n_seq=n_seq, trims=trims, **options)) == of_upstream


def rounds(loop: Loop, text: list[int], count: int, seq: int = 0) -> list[int]:
    """The text after so many rounds."""
    text = list(text)
    for _ in range(count):
        past = len(text) - 1
        draft = loop.session.draft(seq, past, text[-1])
        loop.batch.clear()
        row = loop.batch.add_tokens([text[-1], *draft], pos=past, seq_id=seq, outputs="all").start
        loop.ctx.decode(loop.batch)
        loop.session.process(loop.batch)
        (tokens,) = loop.sampler.sample_drafts(loop.ctx, [row], [Sampler.greedy()], [draft])
        if draft:
            loop.session.accept(seq, len(tokens) - 1)
        text += tokens
        loop.cut(seq, len(text) - 1)
    return text


@pytest.fixture
def loop(model: Model) -> Iterator[Loop]:
    with Loop(model, MtpSessionConfig(n_seq=2, trims=True)) as made:
        yield made


def ends(loop: Loop, seq: int = 0) -> tuple[int, int]:
    assert loop.dft is not None
    return loop.ctx.memory.seq_pos_max(seq), loop.dft.memory.seq_pos_max(seq)


def test_what_was_verified_waits_until_it_is_flushed(loop, prompts):
    loop.prefill(prompts[:1])
    rounds(loop, prompts[0], 5)
    target, draft = ends(loop)
    assert draft < target
    for _ in range(2):  # the second time there is nothing left
        loop.session.flush(0)
        assert ends(loop) == (target, target)
    loop.session.flush(1)  # an empty sequence


def test_a_copy_is_drafted_like_its_original_once_it_is_flushed(loop, prompts):
    loop.prefill(prompts[:1])
    text = rounds(loop, prompts[0], 5)
    loop.session.flush(0)
    for memory in (loop.ctx.memory, loop.dft.memory):
        memory.seq_cp(0, 1)
    loop.session.begin(1, text[:-1])
    original, copy = rounds(loop, text, 8, seq=0), rounds(loop, text, 8, seq=1)  # which lacks the target's last state
    assert abs(len(original) - len(copy)) <= 3
    assert original[: len(copy)] == copy[: len(original)]
    assert len(copy) - len(text) > 8 * 2


def test_a_text_that_is_begun_again_keeps_what_waits(loop, prompts):
    loop.prefill(prompts[:1])
    text = rounds(loop, prompts[0], 5)
    target, draft = ends(loop)
    assert draft < target
    loop.session.begin(0, text[:-1])
    assert len(loop.session.draft(0, len(text) - 1, text[-1])) == 3
    assert ends(loop)[1] == target + 1  # with the token that the draft began with
    loop.session.accept(0, 0)
    loop.session.begin(0, [*text[: draft + 1], *(token + 1 for token in text[draft + 1 : -1])])  # another one
    assert rounds(loop, text, 3)[: len(text)] == text


def test_drafts_after_a_cancelled_one(loop, prompts):
    """What waits is not lost with a decode that was stopped."""
    loop.prefill(prompts[:1])
    text = rounds(loop, prompts[0], 5)
    place, before = (0, len(text) - 1, text[-1]), ends(loop)
    assert before[1] < before[0]
    loop.dft.cancel()
    assert loop.session.draft(*place) == []
    with pytest.raises(DecodeError):
        loop.session.flush(0)
    loop.dft.resume()
    assert ends(loop) == before
    assert len(loop.session.draft(*place)) == 3
    loop.session.accept(0, 0)


def test_drafts_in_any_order_of_sequences(model, prompts):
    found = []
    for seqs in ([0, 1, 2, 3], [3, 1, 2, 0]):
        with Loop(model, MtpSessionConfig(n_seq=4, trims=True)) as loop:
            loop.prefill(prompts)
            asked = [len(prompts[s]) - 1 for s in seqs], [prompts[s][-1] for s in seqs]
            found.append(dict(zip(seqs, loop.session.draft_many(seqs, *asked), strict=True)))
    assert found[0] == found[1]
    assert all(len(draft) == 3 for draft in found[0].values())


def test_a_limit_below_the_shortest_draft_computes_nothing(model, prompts):
    with Loop(model, MtpSessionConfig(n_min=2, trims=True)) as loop:
        loop.prefill(prompts[:1])
        before = ends(loop)
        assert loop.session.draft(0, len(prompts[0]) - 1, prompts[0][-1], 1) == []
        assert ends(loop) == before
        assert len(loop.session.draft(0, len(prompts[0]) - 1, prompts[0][-1], 2)) == 2


def test_what_waits_is_dropped_with_its_memory(loop, prompts):
    """A cut before it, another text, or batches that nobody processed: drafting begins anew, and goes on."""
    loop.prefill(prompts[:1])
    text = rounds(loop, prompts[0], 5)
    for length, begins in ((3, False), (0, False), (0, True)):
        loop.dft.memory.seq_rm(0, length)
        if begins:
            loop.session.begin(0, text[:-1])
        loop.session.flush(0)
        assert loop.session.draft(0, len(text) - 1, text[-1]) == []
        text = rounds(loop, text, 5)
        assert ends(loop)[1] > 3
    for _ in range(4):  # the target goes on alone
        loop.batch.clear()
        loop.batch.add(text[-1], len(text) - 1, output=True)
        loop.ctx.decode(loop.batch)
        text.append(Sampler.greedy().sample(loop.ctx))
    text = rounds(loop, text, 5)
    assert text == [*prompts[0], *plain(loop.ctx.model, prompts[:1], len(text) - len(prompts[0]))[0]]


def test_a_draft_that_is_given_up_is_drafted_again(loop, prompts):
    loop.prefill(prompts[:1])
    text = rounds(loop, prompts[0], 5)
    past = len(text) - 1
    first = loop.session.draft(0, past, text[-1])
    loop.session.accept(0, 0)
    assert first
    assert loop.session.draft(0, past, text[-1]) == first
    loop.session.accept(0, 0)
    other = next(token for token in range(300, 310) if token != text[-1])
    assert loop.session.draft(0, past, other) != first
    loop.session.accept(0, 0)
    assert rounds(loop, text, 3)[: len(text)] == text


def test_a_draft_that_is_given_up_for_a_long_text(loop, prompts):
    """What the draft began with is in the memory already, what comes behind it is computed at once."""
    loop.prefill(prompts[:1])
    past = len(prompts[0]) - 1
    assert loop.session.draft(0, past, prompts[0][-1])
    loop.session.accept(0, 0)
    text = [*prompts[0], *plain(loop.ctx.model, prompts[:1], 20)[0]]
    loop.batch.clear()
    loop.batch.add_tokens(text[past:-1], pos=past, outputs="all")
    loop.ctx.decode(loop.batch)
    loop.session.process(loop.batch)
    assert ends(loop) == (len(text) - 2, len(text) - 2)
    assert rounds(loop, text, 5)[: len(text)] == text
    assert loop.session.stats().acceptance_per_position[0] > 0.5


def test_flush_that_cannot_be(model, loop):
    for seq in (-1, 2, 2**40, None, "a", 0.5):
        for ask in (loop.session.flush, loop.session.pending):
            with pytest.raises(OutOfRangeError, match="sequences are 0 to 1"):
                ask(seq)
    loop.session.close()
    with pytest.raises(ClosedError):
        loop.session.flush(0)
    with Loop(model, SpeculativeConfig(types=("ngram-mod",))) as other:
        other.session.flush(0)  # nothing ever waits there
