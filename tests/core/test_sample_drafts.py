"""Rows checked against drafts: the tokens of plain sampling, draw for draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from decoding import words
from speculating import Loop, greedy, plain, seeded

import llamacore as lc
from llamacore.core.batch import Batch
from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.sample_rows import RowSampler
from llamacore.core.sampler import Sampler
from llamacore.core.speculative import MtpSessionConfig, SpeculativeConfig, SpeculativeSession

TinyPath = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tiny_path: TinyPath) -> Iterator[Model]:
    """A tiny model."""
    with Model.load(tiny_path("llama")) as loaded:
        yield loaded


@pytest.fixture
def ctx(model: Model) -> Iterator[Context]:
    """A context of two sequences, each with eight rows of logits: 0 to 7 and 8 to 15."""
    with model.context(n_ctx=256, n_seq_max=2, n_threads=1) as context:
        batch = Batch(16)
        for seq in range(2):
            batch.add_tokens(words(8, seed=seq), seq_id=seq, outputs="all")
        context.decode(batch)
        yield context


def chosen(ctx: Context, rows: range, sampler: Sampler) -> list[int]:
    """What a sampler chooses from rows one after the other."""
    return [sampler.sample(ctx, row) for row in rows]


@pytest.mark.parametrize("make", [greedy, seeded])
@pytest.mark.parametrize("n_right", range(4))
def test_as_long_as_they_agree(ctx: Context, n_right: int, make: Callable[[int], Sampler]) -> None:
    expected = chosen(ctx, range(4), make(0))
    draft = [*expected[:n_right], *[(token + 1) % 300 for token in expected[n_right:3]]]
    made = RowSampler(1, 3).sample_drafts(ctx, [0], [make(0)], [draft])
    assert made == [expected[: n_right + 1]]


def test_groups_end_at_different_places(ctx: Context) -> None:
    """Groups of different lengths, in any order; one without a draft is plain sampling."""
    first, second = chosen(ctx, range(8), seeded(0)), chosen(ctx, range(8, 16), seeded(1))
    sampler = RowSampler(3, 7)
    drafts = [second[:7], [*first[:2], 1, 1], []]
    made = sampler.sample_drafts(ctx, [8, 0, 5], [seeded(1), seeded(0), seeded(2)], drafts)
    assert made == [second, first[:3], chosen(ctx, range(5, 6), seeded(2))]
    assert sampler.sample(ctx, [8, 0], [seeded(1), seeded(0)]) == [second[0], first[0]]


def test_one_draw_for_each_token(ctx: Context) -> None:
    """After a draft was rejected, the sampler goes on as if its rows had never been."""
    plainly, drafting = seeded(0), seeded(0)
    expected = chosen(ctx, range(8), plainly)
    sampler, made = RowSampler(1, 3), list[int]()
    while len(made) < 8:
        row = len(made)
        draft = [*expected[row : row + 1], 1, 1][: min(3, 7 - row)]
        (tokens,) = sampler.sample_drafts(ctx, [row], [drafting], [draft])
        assert isinstance(tokens, list)
        made += tokens
    assert made == expected


def test_an_error_of_one_group(ctx: Context) -> None:
    """A chain that chooses nothing, and a row without logits, end their own groups only."""
    nothing = Sampler.chain(Sampler.top_k(5))
    expected = chosen(ctx, range(8, 16), seeded(1))
    made = RowSampler(4, 7).sample_drafts(
        ctx, [0, 8, 200, 1], [nothing, seeded(1), greedy(0), greedy(1)], [[5, 6], expected[:3], [], []]
    )
    assert isinstance(made[0], lc.SamplingError)
    assert made[1] == expected[:4]
    assert isinstance(made[2], lc.OutputError)
    assert made[3] == chosen(ctx, range(1, 2), greedy(0))


def test_misuse(model: Model, ctx: Context, tiny_path: TinyPath) -> None:
    sampler = RowSampler(2, 3)
    wrong: tuple[tuple[Any, Any, Any], ...] = (
        ([0], [], [[]]),
        ([0], [greedy(0)], []),
        ([0, 1, 2], [greedy(0)] * 3, [[]] * 3),
        ([0], [greedy(0)], [[1, 2, 3, 4]]),
        ([0], [greedy(0)], [[2**40]]),
        ([0], [greedy(0)], [["x"]]),
        ([2**40], [greedy(0)], [[]]),
    )
    for rows, samplers, drafts in wrong:
        with pytest.raises(lc.LlamaCoreError):
            sampler.sample_drafts(ctx, rows, samplers, drafts)
    same = greedy(0)
    with pytest.raises(lc.BusyError):
        sampler.sample_drafts(ctx, [0, 1], [same, same], [[], []])
    closed = greedy(0)
    closed.close()
    with pytest.raises(lc.ClosedError):
        sampler.sample_drafts(ctx, [0, 1], [same, closed], [[], []])
    with ctx._held(), pytest.raises(lc.BusyError):
        sampler.sample_drafts(ctx, [0], [same], [[]])
    assert sampler.sample_drafts(ctx, [], [], []) == []
    assert sampler.sample_drafts(ctx, [0], [same], [[-5]]) == [chosen(ctx, range(1), greedy(0))]
    # rows behind the batch are met as soon as a draft is right that far
    expected = chosen(ctx, range(14, 16), greedy(0))
    (error,) = sampler.sample_drafts(ctx, [14], [same], [[*expected, 5]])
    assert isinstance(error, lc.OutputError)


# synthetic acceptance


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"synthetic_rates": (1.0, 1.0, 1.0)}, (1.0, 1.0, 1.0)),
        ({"synthetic_rates": (0.0, 0.0, 0.0)}, (0.0, 0.0, 0.0)),
        ({"synthetic_rates": (0.8, 0.5, 0.1)}, (0.8, 0.5, 0.1)),
        ({"synthetic_length": 2.5}, None),
    ],
)
def test_synthetic_rates(tiny_path: TinyPath, options: dict[str, Any], rates: tuple[float, ...] | None) -> None:
    """Random drafts are accepted as often as was asked for, place by place."""
    config = MtpSessionConfig(n_seq=4, synthetic_seed=1, **options)
    with Model.load(tiny_path("qwen35", n_nextn=1), load_mtp=True) as target, Loop(target, config) as loop:
        prompts = [words(5, seed=seq) for seq in range(4)]
        for _ in range(3):
            loop.generate(prompts, 200, synthetic=True)
            for seq in range(4):
                loop.cut(seq, 0)
        stats = loop.session.stats()
    if rates is not None:
        found = [accepted / stats.positions[0][0] for _, accepted in stats.positions]
        assert found == pytest.approx(rates, abs=0.06)
    else:
        assert stats.mean_length == pytest.approx(2.5, abs=0.15)


def test_synthetic_acceptance_is_asked_for(tiny_path: TinyPath) -> None:
    """A session without rates changes nothing, and one with rates only where it is given."""
    with Model.load(tiny_path("qwen35", n_nextn=1), load_mtp=True) as target:
        prompt = words(6)
        for config in (MtpSessionConfig(), MtpSessionConfig(synthetic_rates=(1.0, 1.0, 1.0))):
            with Loop(target, config) as loop:
                given = config.synthetic_rates is None
                assert loop.generate([prompt], 30, synthetic=given) == plain(target, [prompt], 30)


def test_the_session_is_in_use(ctx: Context) -> None:
    with SpeculativeSession(SpeculativeConfig("ngram-mod"), ctx) as session:
        sampler = RowSampler(1, 3)
        with session._held(), pytest.raises(lc.BusyError):
            sampler.sample_drafts(ctx, [0], [greedy(0)], [[]], session)
        assert sampler.sample_drafts(ctx, [0], [greedy(0)], [[]], session) == [chosen(ctx, range(1), greedy(0))]
    with pytest.raises(lc.ClosedError):
        sampler.sample_drafts(ctx, [0], [greedy(0)], [[]], session)
