from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from samplers import CHOOSE, MAKERS

from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.sample_rows import RowSampler
from llamacore.core.sampler import Sampler
from llamacore.errors import (
    ClosedError,
    InvalidArgumentError,
    OutOfRangeError,
    SamplingError,
)
from llamacore.hub import demo_model_path
from llamacore.testing import tiny_model

# chains and ownership


def test_a_chain_takes_over(ctx: Context) -> None:
    member = Sampler.top_k(3)
    chain = Sampler.chain(member, Sampler.greedy())
    for use in (lambda: member.name, lambda: member.sample(ctx), member.clone, member.reset, lambda: chain.add(member)):
        with pytest.raises(ClosedError, match="chain"):
            use()
    assert "spent" in repr(member)
    member.close()
    assert chain.names == ["top-k", "greedy"]
    chain.sample(ctx)


def test_chain_is_a_sequence_of_members() -> None:
    chain = Sampler.chain(Sampler.top_k(3), Sampler.dist(9))
    assert len(chain) == 2
    assert (chain[0].name, chain[-1].seed) == ("top-k", 9)
    assert [info.name for info in chain] == ["top-k", "dist"]
    assert bool(Sampler.chain())
    for index in (2, -3):
        with pytest.raises(OutOfRangeError):
            chain[index]
        with pytest.raises(OutOfRangeError):
            chain.remove(index)


def test_removed_member_is_owned_again(logits: np.ndarray) -> None:
    chain = Sampler.chain(Sampler.top_k(3), Sampler.greedy())
    member = chain.remove(0)
    assert chain.names == ["greedy"]
    chain.close()
    assert len(member.apply(logits)) == 3
    member.close()


def test_chain_in_a_chain(ctx: Context) -> None:
    inner = Sampler.chain(Sampler.top_k(5), Sampler.temp(0.5))
    chain = Sampler.chain(inner, Sampler.greedy())
    assert chain.names == ["chain", "greedy"]
    chain.sample(ctx)
    assert chain.remove(0).names == ["top-k", "temp"]


@pytest.mark.parametrize("use", ["add", "extend", "remove", "len", "getitem", "names", "perf", "perf_reset", "iter"])
def test_what_only_a_chain_can_do(use: str) -> None:
    single = Sampler.greedy()
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: single.add(Sampler.top_k(1)),
        "extend": lambda: single.extend([Sampler.top_k(1)]),
        "remove": lambda: single.remove(0),
        "len": lambda: len(single),
        "getitem": lambda: single[0],
        "names": lambda: single.names,
        "perf": single.perf,
        "perf_reset": single.perf_reset,
        "iter": lambda: list(single),
    }
    with pytest.raises(InvalidArgumentError, match="chain"):
        calls[use]()
    single.close()


def test_nothing_is_moved_when_one_member_is_wrong() -> None:
    good, closed = Sampler.top_k(3), Sampler.greedy()
    closed.close()
    with pytest.raises(ClosedError):
        Sampler.chain(good, closed)
    with pytest.raises(InvalidArgumentError, match="twice"):
        Sampler.chain(good, good)
    with pytest.raises(InvalidArgumentError):
        Sampler.chain(good, "greedy")  # type: ignore[arg-type]
    chain = Sampler.chain()
    with pytest.raises(InvalidArgumentError, match="twice"):
        chain.add(chain)
    assert good.name == "top-k"
    assert len(chain) == 0


def test_members_of_two_models(model: Model) -> None:
    with Model.load(demo_model_path()) as other:
        mine = Sampler.penalties(model, 8, 1.1)
        with pytest.raises(InvalidArgumentError, match="different models"):
            Sampler.chain(mine, Sampler.penalties(other, 8, 1.1))
        chain = Sampler.chain(mine)
        with pytest.raises(InvalidArgumentError, match="different models"):
            chain.add(Sampler.infill(other))
        assert chain.names == ["penalties"]


def test_closing_the_model_closes_its_samplers_and_their_chains() -> None:
    model = Model.load(demo_model_path())
    alone, free = Sampler.infill(model), Sampler.top_k(2)
    chain = Sampler.chain(Sampler.top_k(2), Sampler.chain(Sampler.grammar(model, 'root ::= "a"')))
    twin = chain.clone()
    taken = Sampler.chain(Sampler.logit_bias(model, {1: 1.0})).remove(0)
    model.close()
    for sampler in (alone, chain, twin, taken):
        assert sampler.closed
        with pytest.raises(ClosedError):
            sampler.reset()
    assert not free.closed
    with pytest.raises(ClosedError):
        Sampler.penalties(model, 8, 1.1)


def test_a_chain_keeps_its_model() -> None:
    model = Model.load(demo_model_path())
    gone = weakref.ref(model)
    chain = Sampler.chain(Sampler.grammar(model, 'root ::= "a"'))
    n_vocab = model.n_vocab
    del model
    gc.collect()
    assert gone() is not None
    assert np.isfinite(chain.apply(np.zeros(n_vocab, dtype=np.float32)).logits).any()
    del chain
    gc.collect()
    assert gone() is None


def test_vocabulary_of_another_size(ctx: Context, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    with Model.load(path) as other:
        assert other.n_vocab != ctx.model.n_vocab
        for kind in ("penalties", "logit_bias", "grammar", "mirostat", "infill", "dry"):
            sampler = Sampler.chain(MAKERS[kind](other), Sampler.greedy())
            with pytest.raises(InvalidArgumentError, match="vocabulary"):
                sampler.sample(ctx)
            with pytest.raises(InvalidArgumentError, match="vocabulary"):
                RowSampler(1).sample(ctx, [-1], [sampler])


def test_another_model_with_the_same_vocabulary_is_fine(ctx: Context) -> None:
    with Model.load(demo_model_path()) as other:
        sampler = Sampler.chain(Sampler.penalties(other, 8, 1.5), Sampler.greedy())
        assert 0 <= sampler.sample(ctx) < other.n_vocab


# a chain held to a grammar


def held(model: Model, gbnf: str, *members: Sampler) -> Sampler:
    return Sampler.constrained(Sampler.grammar(model, gbnf), Sampler.chain(*members))


def test_constrained_chooses_alone_first_and_with_the_grammar_when_that_fails(model: Model) -> None:
    (a,), (z,) = (model.vocab.tokenize(text, add_special=False) for text in ("a", "z"))
    logits = np.zeros(model.n_vocab, dtype=np.float32)
    logits[[a, z]] = 5, 9
    fitting = held(model, 'root ::= "z"', Sampler.top_k(2), Sampler.greedy()).apply(logits)
    assert (fitting.token, len(fitting)) == (z, 2)
    assert np.isfinite(fitting.logits).all()  # the grammar has looked at the chosen token only
    forced = held(model, 'root ::= "a"', Sampler.top_k(2), Sampler.greedy()).apply(logits)
    assert forced.token == a
    moved = held(model, 'root ::= "a"', Sampler.xtc(1.0, 0.001, 0, 1), Sampler.greedy()).apply(logits)
    assert moved.token == a


def test_constrained_writes_what_the_grammar_says(ctx: Context) -> None:
    sampler = held(ctx.model, 'root ::= "maybe" | "perhaps"', Sampler.temp(2.0), Sampler.dist(5))
    for _ in range(3):
        text = b""
        while not ctx.model.vocab.is_eog(token := sampler.sample(ctx)):
            text += ctx.model.vocab.token_to_piece(token)
        assert text in (b"maybe", b"perhaps")
        sampler.reset()


def test_constrained_has_state(ctx: Context) -> None:
    sampler = held(
        ctx.model, "root ::= [a-z ]*", Sampler.penalties(ctx.model, 8, 1.3), Sampler.temp(1.5), Sampler.dist(4)
    )
    assert sampler.seed == 4
    saved, twin = sampler.clone(), sampler.clone()
    first = [sampler.sample(ctx) for _ in range(8)]
    assert [twin.sample(ctx) for _ in range(8)] == first
    sampler.copy_state(saved)
    assert [sampler.sample(ctx) for _ in range(8)] == first
    sampler.reset()
    assert [sampler.sample(ctx) for _ in range(8)] == first


def test_constrained_prompt(model: Model) -> None:
    sampler = held(model, 'root ::= "ab"', Sampler.penalties(model, 3, 2.0), Sampler.greedy())
    sampler.accept_prompt([40, 41])
    sampler.accept(42, is_generated=False)
    sampler.accept(model.vocab.tokenize("a", add_special=False)[0])
    with pytest.raises(SamplingError):
        sampler.accept(model.vocab.tokenize("z", add_special=False)[0])


def test_constrained_in_a_chain(ctx: Context) -> None:
    inner = held(ctx.model, 'root ::= "x"', Sampler.dist(3))
    chain = Sampler.chain(inner)
    assert (chain.names, chain[0].seed, chain.seed) == (["constrained"], 3, None)
    assert ctx.model.vocab.token_to_piece(chain.sample(ctx)) == b"x"


def test_constrained_arguments(model: Model) -> None:
    grammar, chain = Sampler.grammar(model, 'root ::= "a"'), Sampler.chain(Sampler.greedy())
    with pytest.raises(InvalidArgumentError):
        Sampler.constrained(chain, grammar)
    with pytest.raises(InvalidArgumentError):
        Sampler.constrained(grammar, grammar)
    closed = Sampler.greedy()
    closed.close()
    with pytest.raises(ClosedError):
        Sampler.constrained(grammar, closed)
    with Model.load(demo_model_path()) as other:
        with pytest.raises(InvalidArgumentError, match="different models"):
            Sampler.constrained(grammar, Sampler.chain(Sampler.penalties(other, 8, 1.1)))
        theirs = Sampler.constrained(Sampler.grammar(other, 'root ::= "a"'), chain.clone())
    assert theirs.closed
    made = Sampler.constrained(grammar, chain)
    for spent in (grammar, chain):
        with pytest.raises(ClosedError):
            spent.reset()
    with pytest.raises(InvalidArgumentError, match="no chain"):
        len(made)
    made.close()


# state


def test_reset_starts_again(ctx: Context) -> None:
    chain = Sampler.chain(Sampler.penalties(ctx.model, 16, 1.3), Sampler.temp(1.5), Sampler.dist(4))
    first = [chain.sample(ctx) for _ in range(6)]
    chain.reset()
    assert [chain.sample(ctx) for _ in range(6)] == first


@pytest.mark.parametrize("kind", ["dist", "mirostat", "mirostat_v2", "penalties", "dry", "xtc", "grammar"])
def test_clone_has_the_state(ctx: Context, kind: str) -> None:
    last = () if kind in CHOOSE else (Sampler.dist(3),)
    chain = (
        Sampler.chain(MAKERS[kind](ctx.model), *last)
        if kind != "grammar"
        else Sampler.chain(Sampler.grammar(ctx.model, "root ::= [a-z ]*"), *last)
    )
    for _ in range(4):
        chain.sample(ctx)
    twin = chain.clone()
    assert [chain.sample(ctx) for _ in range(8)] == [twin.sample(ctx) for _ in range(8)]


def test_copy_state_goes_back(ctx: Context) -> None:
    chain = Sampler.chain(Sampler.penalties(ctx.model, 16, 1.3), Sampler.temp(1.5), Sampler.dist(4))
    saved = chain.clone()
    first = [chain.sample(ctx) for _ in range(6)]
    chain.copy_state(saved)
    chain.copy_state(chain)
    assert [chain.sample(ctx) for _ in range(6)] == first


def test_copy_state_between_samplers_built_differently(model: Model) -> None:
    pairs = [
        (Sampler.greedy(), Sampler.dist(1)),
        (Sampler.top_k(5), Sampler.top_k(0)),
        (Sampler.chain(Sampler.greedy()), Sampler.chain()),
        (Sampler.chain(Sampler.greedy()), Sampler.chain(Sampler.dist(1))),
    ]
    for a, b in pairs:
        with pytest.raises(InvalidArgumentError, match="same way"):
            a.copy_state(b)
        a.reset()
        b.reset()


def test_clone_between_apply_and_accept(logits: np.ndarray) -> None:
    # upstream's copy of adaptive_p points at probabilities that it does not copy
    sampler = Sampler.adaptive_p(0.3, 0.9, 7)
    token = sampler.apply(logits).token
    assert token is not None
    twin, other = sampler.clone(), Sampler.adaptive_p(0.3, 0.9, 7)
    other.copy_state(sampler)
    for copy in (twin, other):
        copy.accept(token)
    sampler.accept(token)


def test_perf(ctx: Context) -> None:
    chain = Sampler.chain(Sampler.top_k(40), Sampler.dist(1), no_perf=False)
    for _ in range(5):
        chain.sample(ctx)
    assert chain.perf().n_sample == 5
    assert chain.perf().t_sample_ms > 0
    chain.perf_reset()
    assert chain.perf().n_sample == 0
    quiet = Sampler.chain(Sampler.greedy(), no_perf=True)
    quiet.sample(ctx)
    assert quiet.perf().t_sample_ms == 0
