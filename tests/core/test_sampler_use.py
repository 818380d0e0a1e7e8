from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from samplers import MAKERS

from llamacore.core.batch import Batch
from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.sample_rows import RowSampler
from llamacore.core.sampler import DEFAULT_SEED, Sampler
from llamacore.errors import (
    BusyError,
    ClosedError,
    InvalidArgumentError,
    OutOfRangeError,
    OutputError,
    SamplingError,
)
from llamacore.testing import tiny_model


@pytest.fixture(params=sorted(MAKERS))
def sampler(request: pytest.FixtureRequest, model: Model) -> Sampler:
    return MAKERS[request.param](model)


# sampling from a context


def test_sample_is_the_argmax_of_the_row(ctx: Context) -> None:
    sampler = Sampler.greedy()
    for row in (-1, 5, 4):
        assert sampler.sample(ctx, row) == ctx.logits(row).argmax()


def test_sample_equals_apply(ctx: Context) -> None:
    make = lambda: Sampler.chain(Sampler.top_k(30), Sampler.temp(0.9), Sampler.dist(11))  # noqa: E731
    sampled, applied = make(), make()
    assert [sampled.sample(ctx) for _ in range(8)] == [applied.apply(ctx.logits(-1)).token for _ in range(8)]


def test_same_seed_same_tokens(ctx: Context) -> None:
    runs = [[Sampler.chain(Sampler.temp(2.0), Sampler.dist(seed)).sample(ctx) for seed in range(12)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 1


def test_random_seed(ctx: Context) -> None:
    seeds = {Sampler.dist().seed for _ in range(4)}
    assert len(seeds) == 4
    assert DEFAULT_SEED not in seeds
    assert Sampler.dist(3).seed == 3
    assert Sampler.chain(Sampler.dist(3), Sampler.greedy()).seed == 3
    assert Sampler.greedy().seed is None


@pytest.mark.parametrize("row", [0, 3, 6, 1000, -3, 2**31 - 1, -(2**31)])
def test_row_without_logits(ctx: Context, row: int) -> None:
    with pytest.raises(OutputError, match="output=True"):
        Sampler.greedy().sample(ctx, row)


@pytest.mark.parametrize("row", [2**31, -(2**40), "0", 1.5, None])
def test_row_that_is_no_row(ctx: Context, row: object) -> None:
    with pytest.raises(OutOfRangeError):
        Sampler.greedy().sample(ctx, row)  # type: ignore[arg-type]


def test_chain_that_does_not_choose(ctx: Context) -> None:
    for chain in (Sampler.chain(), Sampler.chain(Sampler.top_k(5)), Sampler.temp(0.5)):
        with pytest.raises(SamplingError, match="greedy"):
            chain.sample(ctx)
        if chain.name == "chain":
            chain.add(Sampler.greedy())
            assert chain.sample(ctx) == ctx.logits(-1).argmax()


def test_context_that_is_none(model: Model) -> None:
    with pytest.raises((TypeError, AttributeError)):
        Sampler.greedy().sample(model)  # type: ignore[arg-type]
    sampler = Sampler.greedy()
    with pytest.raises(AttributeError):
        sampler.sample("context")  # type: ignore[arg-type]
    sampler.close()  # was left usable, and not in use


def test_closed_context(ctx: Context) -> None:
    sampler = Sampler.greedy()
    ctx.close()
    with pytest.raises(ClosedError):
        sampler.sample(ctx)


def test_grammar_holds_a_generation_to_its_text(ctx: Context) -> None:
    model = ctx.model
    chain = Sampler.chain(Sampler.grammar(model, 'root ::= "maybe"'), Sampler.greedy())
    text = b""
    while (token := chain.sample(ctx)) and not model.vocab.is_eog(token):
        text += model.vocab.token_to_piece(token)
        assert len(text) <= 5
    assert text == b"maybe"


def test_grammar_that_no_token_fits(ctx: Context) -> None:
    chain = Sampler.chain(
        Sampler.grammar(ctx.model, 'root ::= "a"'),
        Sampler.logit_bias(ctx.model, dict.fromkeys(range(ctx.model.n_vocab), -math.inf)),
        Sampler.greedy(),
    )
    with pytest.raises(SamplingError):
        chain.sample(ctx)
    chain.reset()
    with pytest.raises(SamplingError):
        chain.sample(ctx)


# accepting


def test_token_that_the_grammar_does_not_allow(model: Model) -> None:
    sampler = Sampler.grammar(model, 'root ::= "ab"')
    (wrong,) = model.vocab.tokenize("z", add_special=False)
    with pytest.raises(SamplingError, match="grammar"):
        sampler.accept(wrong)
    with pytest.raises(SamplingError):
        sampler.apply(np.zeros(model.n_vocab, dtype=np.float32))
    sampler.reset()
    eos = model.vocab.eos
    assert eos is not None
    with pytest.raises(SamplingError, match="too early"):
        sampler.accept(eos)
    sampler.reset()
    for token in model.vocab.tokenize("ab", add_special=False):
        sampler.accept(token)
    sampler.accept(eos)


@pytest.mark.parametrize("token", [-1, 2**31, 10**12])
def test_accepting_what_is_no_token(sampler: Sampler, token: int) -> None:
    with pytest.raises(OutOfRangeError):
        sampler.accept(token)


@pytest.mark.parametrize("token", ["a", 1.5, None])
def test_accepting_what_is_no_number(token: object) -> None:
    with pytest.raises(InvalidArgumentError):
        Sampler.greedy().accept(token)  # type: ignore[arg-type]


def test_accepting_a_token_outside_the_vocabulary(model: Model) -> None:
    for kind in ("grammar", "penalties", "dry", "logit_bias"):
        for call in (
            MAKERS[kind](model).accept,
            lambda token, kind=kind: MAKERS[kind](model).accept_prompt([1, token]),
        ):
            with pytest.raises(OutOfRangeError):
                call(model.n_vocab)


def test_prompt_is_shown_to_penalties_and_not_to_a_grammar(model: Model, logits: np.ndarray) -> None:
    chain = Sampler.chain(
        Sampler.grammar(model, 'root ::= "ab"'), Sampler.chain(Sampler.penalties(model, 3, 2.0)), Sampler.greedy()
    )
    prompt = [40, 41, 42, 43]
    chain.accept_prompt(prompt)
    (a,) = model.vocab.tokenize("a", add_special=False)
    chain.accept(a)  # the grammar is still at its start
    alone = Sampler.penalties(model, 3, 2.0)
    for token in [*prompt, a]:
        alone.accept(token)
    inner = chain.remove(1).remove(0)
    assert np.array_equal(inner.apply(logits).logits, alone.apply(logits).logits)


def test_one_token_of_a_prompt(model: Model) -> None:
    chain = Sampler.chain(Sampler.grammar(model, 'root ::= "ab"'), Sampler.penalties(model, 8, 2.0))
    chain.accept(3, is_generated=False)
    flat = np.ones(model.n_vocab, dtype=np.float32)
    assert chain.remove(1).apply(flat).logits[3] == pytest.approx(0.5)
    assert np.isfinite(chain.apply(flat).logits).any()


# many rows in one call


def test_rows_are_sampled_with_their_own_samplers(ctx: Context) -> None:
    greedy, chain = Sampler.greedy(), Sampler.chain(Sampler.temp(1.5), Sampler.dist(2))
    twin = chain.clone()
    rows = RowSampler(4)
    assert rows.sample(ctx, [4, 5], [greedy, chain]) == [ctx.logits(4).argmax(), twin.sample(ctx, 5)]
    assert rows.sample(ctx, [5, 5], [greedy, chain]) == [ctx.logits(5).argmax(), twin.sample(ctx, 5)]
    assert rows.sample(ctx, [], []) == []


def test_a_row_that_fails_leaves_the_others_alone(ctx: Context) -> None:
    best = ctx.logits(4).argmax()
    first, none, chooses_nothing, last = Sampler.greedy(), Sampler.greedy(), Sampler.top_k(1), Sampler.greedy()
    results = RowSampler(4).sample(ctx, [4, 0, 5, 4], [first, none, chooses_nothing, last])
    assert [best, best] == [results[0], results[3]]
    assert isinstance(results[1], OutputError)
    assert "row 0" in str(results[1])
    assert isinstance(results[2], SamplingError)
    assert "row 5" in str(results[2])


@pytest.mark.parametrize(
    ("count", "rows", "error"),
    [(1, [4, 5], InvalidArgumentError), (3, [4, 5, 4], InvalidArgumentError), (1, [2**31], OutOfRangeError)],
)
def test_wrong_rows(ctx: Context, count: int, rows: list[int], error: type[Exception]) -> None:
    samplers = [Sampler.greedy() for _ in range(count)]
    with pytest.raises(error):
        RowSampler(2).sample(ctx, rows, samplers)
    samplers[0].sample(ctx)


def test_a_closed_sampler_among_others(ctx: Context) -> None:
    good, closed = Sampler.greedy(), Sampler.greedy()
    closed.close()
    with pytest.raises(ClosedError):
        RowSampler(2).sample(ctx, [4, 5], [good, closed])
    with pytest.raises(BusyError):
        RowSampler(2).sample(ctx, [4, 5], [good, good])
    assert good.sample(ctx) == ctx.logits(-1).argmax()


def test_min_tokens_forbids_the_end(ctx: Context) -> None:
    best = int(ctx.logits(4).argmax())
    chain = Sampler.chain(Sampler.min_tokens(2, [best]), Sampler.greedy())
    twin = chain.clone()
    chosen = [chain.sample(ctx, 4) for _ in range(3)]
    assert best not in chosen[:2]
    assert chosen[2] == best
    chain.reset()
    chain.accept_prompt([1, 2, 3])
    assert chain.sample(ctx, 4) == chosen[0] == twin.sample(ctx, 4)
    with pytest.raises(InvalidArgumentError):
        Sampler.min_tokens(-1, [])
    with pytest.raises(OutOfRangeError):
        Sampler.min_tokens(1, [-5])


# threads


@pytest.fixture
def held(model: Model) -> Iterator[Sampler]:
    """A sampler that another thread is using."""
    sampler = Sampler.chain(Sampler.penalties(model, 8, 1.1), Sampler.greedy())
    sampler._enter()
    yield sampler
    sampler._exit()
    sampler.close()


def test_use_by_two_threads_is_refused(held: Sampler, ctx: Context) -> None:
    failures: list[type[BaseException]] = []
    spare = Sampler.greedy()

    def use() -> None:
        calls: list[Callable[[], object]] = [
            lambda: held.sample(ctx),
            lambda: RowSampler(2).sample(ctx, [4, 5], [spare, held]),
            lambda: held.apply([1.0]),
            lambda: held.accept(1),
            lambda: held.accept_prompt([1]),
            held.reset,
            held.clone,
            lambda: held.copy_state(spare),
            lambda: spare.copy_state(held),
            lambda: held.add(spare),
            lambda: Sampler.chain(held),
            lambda: held.remove(0),
            lambda: len(held),
            lambda: held.names,
            lambda: held.name,
            lambda: held.seed,
            held.perf,
        ]
        for call in calls:
            try:
                call()
            except BusyError as exc:
                failures.append(type(exc))
        assert len(failures) == len(calls)

    errors: list[BaseException] = []

    def run() -> None:
        try:
            use()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors, errors
    assert spare.sample(ctx) == ctx.logits(-1).argmax()


def test_context_in_use_leaves_the_sampler_free(ctx: Context) -> None:
    sampler = Sampler.greedy()
    ctx._enter()
    try:
        with pytest.raises(BusyError):
            sampler.sample(ctx)
        with pytest.raises(BusyError):
            RowSampler(1).sample(ctx, [4], [sampler])
    finally:
        ctx._exit()
    sampler.sample(ctx)


def test_sampler_that_runs_in_a_graph(model: Model) -> None:
    chain = Sampler.chain(Sampler.top_k(4), Sampler.dist(1))
    with model.context(n_ctx=64, n_threads=1) as ctx:
        ctx.set_sampler(0, chain)
        for use in (
            chain.close,
            lambda: chain.remove(0),
            lambda: chain.add(Sampler.greedy()),
            lambda: Sampler.chain(chain),
        ):
            with pytest.raises(BusyError):
                use()
        ctx._enter()
        try:
            with pytest.raises(BusyError):
                chain.reset()
        finally:
            ctx._exit()
        chain.reset()
        ctx.set_sampler(0, None)
        chain.add(Sampler.top_k(2))
        twin = chain.clone()
        ctx.set_sampler(0, twin)
        with pytest.raises(BusyError):
            twin.close()
    twin.close()
    chain.close()


def test_a_chain_is_attached_once(model: Model) -> None:
    chain = Sampler.chain(Sampler.top_k(5), Sampler.dist(1))
    with model.context(n_ctx=256, n_seq_max=2, n_threads=1) as context:
        context.set_sampler(0, chain)
        for seq_id in (0, 1):
            with pytest.raises(InvalidArgumentError, match="attached"):
                context.set_sampler(seq_id, chain)
        context.set_sampler(0, None)
        with pytest.raises(InvalidArgumentError, match="attached"):
            context.set_sampler(0, chain)
        with pytest.raises(InvalidArgumentError, match="chain"):
            context.set_sampler(0, Sampler.greedy())
        context.set_sampler(0, chain.clone())
    with pytest.raises(InvalidArgumentError, match="attached"):
        model.context(n_ctx=256, samplers={0: chain})
    twin = chain.clone()
    with pytest.raises(InvalidArgumentError, match="two sequences"):
        model.context(n_ctx=256, n_seq_max=2, samplers={0: twin, 1: twin})


def test_a_chain_in_a_graph_that_chooses_twice(model: Model) -> None:
    chain, dist, greedy = Sampler.chain, Sampler.dist, Sampler.greedy
    batch = Batch(8)
    batch.add_tokens([1, 2, 3])
    with model.context(n_ctx=256, n_threads=1) as ctx:
        for twice in (
            chain(dist(1), dist(2)),
            chain(Sampler.top_k(5), dist(1), greedy()),
            chain(chain(dist(1)), chain(greedy())),
        ):
            with pytest.raises(InvalidArgumentError, match="chooses another"):
                ctx.set_sampler(0, twice)
            with pytest.raises(InvalidArgumentError, match="chooses another"):
                model.context(n_ctx=256, samplers={0: twice})
        for once in (chain(greedy(), dist(1)), chain(greedy(), greedy()), chain(dist(1), Sampler.top_k(3))):
            ctx.set_sampler(0, once)
            ctx.memory.clear()
            ctx.decode(batch)
            assert once.sample(ctx) >= 0


# the most likely tokens alone


CHAINS: dict[str, Callable[[Model], list[Sampler]]] = {
    "top_k": lambda model: [Sampler.top_k(7), Sampler.temp(1.5), Sampler.dist(5)],
    "penalties": lambda model: [Sampler.penalties(model, 16, 1.7, 0.5, 0.5), Sampler.top_k(5), Sampler.dist(5)],
    "bias": lambda model: [
        Sampler.logit_bias(model, dict.fromkeys(range(0, 90, 2), -50.0)),
        Sampler.top_k(9),
        Sampler.dist(5),
    ],
    "min_tokens": lambda model: [Sampler.min_tokens(30, list(range(40))), Sampler.top_k(4), Sampler.dist(5)],
    "greedy": lambda model: [Sampler.penalties(model, 16, 1.7), Sampler.greedy()],
    "more than there are": lambda model: [Sampler.top_k(4000), Sampler.dist(5)],
    "raises": lambda model: [Sampler.logit_bias(model, {3: 4.0}), Sampler.top_k(5), Sampler.dist(5)],
    "cuts by another rule": lambda model: [Sampler.top_p(0.5), Sampler.top_k(5), Sampler.dist(5)],
}


@pytest.mark.parametrize("kind", CHAINS)
def test_many_rows_choose_as_one_does(ctx: Context, model: Model, kind: str) -> None:
    """Showing a sampler the most likely tokens only, where it would drop the others, changes no choice."""
    chain = Sampler.chain(*CHAINS[kind](model))
    twin, rows = chain.clone(), RowSampler(1)
    for number in range(60):
        row = 4 + number % 2
        assert rows.sample(ctx, [row], [chain]) == [twin.sample(ctx, row)]
    shown = chain._item.candidates()
    assert (shown == 0) == (kind in ("raises", "cuts by another rule"))


def test_how_many_tokens_a_sampler_has_to_see(model: Model) -> None:
    """As many as it keeps, and one more for each that may be lowered; all where that cannot be told."""
    neutral = [Sampler.penalties(model, 64, 1.0), Sampler.top_n_sigma(-1.0), Sampler.temp(1.0)]
    assert Sampler.chain(*neutral, Sampler.top_k(40), Sampler.dist())._item.candidates() == 40
    assert Sampler.chain(Sampler.temp(2.0), Sampler.top_k(40))._item.candidates() == 0  # it scales them all
    assert Sampler.chain(Sampler.penalties(model, 64, 1.1), Sampler.top_k(40))._item.candidates() == 104
    assert Sampler.chain(Sampler.penalties(model, 64, 0.9), Sampler.top_k(40))._item.candidates() == 0
    assert Sampler.chain(Sampler.top_k(0), Sampler.dist())._item.candidates() == 0
    assert Sampler.chain(Sampler.top_k(10**6), Sampler.dist())._item.candidates() == 0
    assert Sampler.dist()._item.candidates() == 0
    assert Sampler.greedy()._item.candidates() == 1


def test_rows_of_a_large_vocabulary_on_several_threads(tmp_path: Path) -> None:
    """Threads look through a part of the vocabulary each; the choice is that of one thread, with changing pools too."""
    path = tiny_model(tmp_path / "large.gguf", n_vocab=40_000, n_embd=32, n_layer=1)
    chosen = []
    with Model.load(path) as model:
        for n_threads in (1, 2, 3):
            with model.context(n_ctx=64, n_threads=n_threads, n_threads_batch=1) as ctx:
                batch = Batch(8)
                batch.add_tokens(range(8), outputs="all")
                ctx.decode(batch)
                rows = RowSampler(8)
                chains = [Sampler.chain(Sampler.top_k(50), Sampler.temp(1.4), Sampler.dist(i)) for i in range(8)]
                chosen.append(rows.sample(ctx, list(range(8)), chains))
                ctx.set_threads(2)
                batch.clear()
                batch.add_tokens([9], 8)
                ctx.decode(batch)
                chosen[-1] += rows.sample(ctx, [0, 0], [Sampler.greedy(), Sampler.greedy()])
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(set(chosen[0])) > 3
