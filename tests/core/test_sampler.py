from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from samplers import CHOOSE, MAKERS

from llamacore.core._native import lib
from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.sampler import Candidates, Sampler
from llamacore.errors import (
    ClosedError,
    GrammarError,
    InvalidArgumentError,
    OutOfRangeError,
)


@pytest.fixture(params=sorted(MAKERS))
def sampler(request: pytest.FixtureRequest, model: Model) -> Sampler:
    return MAKERS[request.param](model)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


# all of upstream's samplers


def test_every_sampler_of_upstream_has_a_constructor() -> None:
    native = {name.removeprefix("llama_sampler_init_") for name in dir(lib) if name.startswith("llama_sampler_init_")}
    assert native == set(MAKERS)


def test_every_sampler_can_be_used_alone(sampler: Sampler, logits: np.ndarray) -> None:
    left = sampler.apply(logits)
    assert 1 <= len(left) <= len(logits)
    assert (left.token is not None) == (sampler._item.kind in CHOOSE)
    sampler.reset()
    twin = sampler.clone()
    assert twin.name == sampler.name
    sampler.close()
    sampler.close()
    assert sampler.closed
    assert not twin.closed
    with pytest.raises(ClosedError):
        sampler.apply(logits)


def test_every_sampler_can_be_in_a_chain(sampler: Sampler, ctx: Context) -> None:
    chain = Sampler.chain(sampler)
    if sampler._item.kind not in CHOOSE:
        chain.add(Sampler.greedy())
    if sampler._item.kind == "grammar" and "grammar" in chain.names:
        chain.reset()
    assert 0 <= chain.sample(ctx) < ctx.model.n_vocab


def test_names_are_upstreams(model: Model) -> None:
    names = {kind: make(model).name for kind, make in MAKERS.items()}
    assert names["top_k"] == "top-k"
    assert names["adaptive_p"] == "adaptive-p"
    assert Sampler.top_k(0).name == "?top-k"
    assert Sampler.penalties(model, 0).name == "?penalties"


# results against numpy


def test_greedy(logits: np.ndarray) -> None:
    assert Sampler.greedy().apply(logits).token == logits.argmax()


@pytest.mark.parametrize("k", [1, 7, 399, 400, 5000])
def test_top_k(logits: np.ndarray, k: int) -> None:
    left = Sampler.top_k(k).apply(logits)
    expected = np.argsort(-logits, kind="stable")[:k]
    assert left.ids.tolist() == expected.tolist()
    assert np.array_equal(left.logits, logits[expected])
    assert left.sorted
    assert left.selected is None


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("min_keep", [0, 12])
def test_top_p(logits: np.ndarray, p: float, min_keep: int) -> None:
    left = Sampler.top_p(p, min_keep).apply(logits)
    order = np.argsort(-logits, kind="stable")
    count = int(np.searchsorted(np.cumsum(softmax(logits)[order]), p)) + 1
    assert left.ids.tolist() == order[: max(count, min_keep)].tolist()


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_min_p(logits: np.ndarray, p: float) -> None:
    left = Sampler.min_p(p).apply(logits)
    assert set(left.ids.tolist()) == set(np.flatnonzero(logits >= logits.max() + np.log(np.float32(p))).tolist())


def test_temp(logits: np.ndarray) -> None:
    assert np.allclose(Sampler.temp(0.5).apply(logits).logits, logits / 0.5)
    cold = Sampler.temp(0.0).apply(logits).logits
    assert np.flatnonzero(np.isfinite(cold)).tolist() == [logits.argmax()]


def test_top_n_sigma(logits: np.ndarray) -> None:
    left = Sampler.top_n_sigma(1.5).apply(logits).logits
    assert np.array_equal(np.isfinite(left), logits >= logits.max() - 1.5 * logits.std())


def test_penalties(model: Model, logits: np.ndarray) -> None:
    sampler = Sampler.penalties(model, 4, 1.5, 0.25, 0.5)
    for token in (9, 3, 5, 5, 8):
        sampler.accept(token)
    changed = sampler.apply(logits).logits
    expected = logits.copy()
    for token, count in ((3, 1), (5, 2), (8, 1)):  # 9 is out of the window of 4
        expected[token] = expected[token] * 1.5 if expected[token] <= 0 else expected[token] / 1.5
        expected[token] -= count * 0.25 + 0.5
    assert np.allclose(changed, expected)


def test_logit_bias(model: Model, logits: np.ndarray) -> None:
    changed = Sampler.logit_bias(model, {3: 1.5, 7: -math.inf}).apply(logits).logits
    assert changed[3] == pytest.approx(logits[3] + 1.5)
    assert changed[7] == -math.inf
    assert np.array_equal(np.delete(changed, [3, 7]), np.delete(logits, [3, 7]))


def test_dist_follows_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    sampler = Sampler.dist(1)
    counts = np.bincount([sampler.apply(logits).token for _ in range(4000)], minlength=3) / 4000  # type: ignore[arg-type]
    assert np.allclose(counts, [0.5, 0.3, 0.2], atol=0.03)


def test_dry_punishes_what_would_continue_a_repetition(model: Model, logits: np.ndarray) -> None:
    sampler = Sampler.dry(model, 1.0, 2.0, 2, 32, [])
    for token in (11, 12, 13, 14, 20, 11, 12, 13):
        sampler.accept(token)
    changed = sampler.apply(logits).logits
    assert np.flatnonzero(changed != logits).tolist() == [14]
    assert changed[14] == pytest.approx(logits[14] - 2.0 ** (3 - 2))


def test_grammar_allows_what_it_says(model: Model) -> None:
    sampler = Sampler.grammar(model, 'root ::= "yes" | "no"')
    allowed = sampler.apply(np.zeros(model.n_vocab, dtype=np.float32))
    pieces = {model.vocab.token_to_piece(int(token)) for token in allowed.ids[np.isfinite(allowed.logits)]}
    assert pieces
    assert all(b"yes".startswith(piece) or b"no".startswith(piece) for piece in pieces)


def test_lazy_grammar_waits_for_its_trigger(model: Model) -> None:
    flat = np.zeros(model.n_vocab, dtype=np.float32)
    (go,) = model.vocab.tokenize("!", add_special=False)
    for sampler in (
        Sampler.grammar(model, 'root ::= "!" "no"', trigger_tokens=[go]),
        Sampler.grammar(model, 'root ::= "!" "no"', trigger_patterns=["(!)"]),
        Sampler.grammar(model, 'root ::= "!" "no"', trigger_patterns=["^[\\s\\S]*?(!)[\\s\\S]*$"]),
    ):
        for token in model.vocab.tokenize("anything at all", add_special=False):
            sampler.accept(token)
        assert np.isfinite(sampler.apply(flat).logits).all()
        sampler.accept(go)
        left = sampler.apply(flat)
        pieces = {model.vocab.token_to_piece(int(token)) for token in left.ids[np.isfinite(left.logits)]}
        assert pieces <= {b"n", b"no"}
        assert pieces


def test_chain_equals_its_members_in_order(model: Model, logits: np.ndarray) -> None:
    chain = Sampler.chain(Sampler.top_k(50), Sampler.temp(0.7), Sampler.top_p(0.8), Sampler.dist(5))
    step = Sampler.top_p(0.8).apply(Sampler.temp(0.7).apply(Sampler.top_k(50).apply(logits)))
    single = Sampler.dist(5).apply(step)
    whole = chain.apply(logits)
    assert whole.token == single.token
    assert whole.ids.tolist() == single.ids.tolist()
    assert np.allclose(whole.probs.sum(), 1.0)


# candidates


def test_apply_copies_and_keeps_ids(logits: np.ndarray) -> None:
    ids = np.arange(1000, 1000 + len(logits), dtype=np.int32)
    given = Candidates(ids, logits, np.zeros_like(logits))
    before = logits.copy()
    left = Sampler.chain(Sampler.temp(0.3), Sampler.greedy()).apply(given)
    assert left.token == 1000 + before.argmax()
    assert np.array_equal(logits, before)


def test_xtc_moves_the_start_of_the_candidates() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.25, 0.05], dtype=np.float32))
    left = Sampler.xtc(1.0, 0.2, 0, 1).apply(logits)
    assert left.ids.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([], InvalidArgumentError),
        ([[1.0, 2.0]], InvalidArgumentError),
        ([1.0, math.nan], InvalidArgumentError),
        ([1.0, math.inf], InvalidArgumentError),
        (Candidates(np.array([-1]), np.zeros(1), np.zeros(1)), OutOfRangeError),
        (Candidates(np.array([1, 2]), np.zeros(1), np.zeros(1)), InvalidArgumentError),
    ],
)
def test_bad_candidates(bad: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        Sampler.greedy().apply(bad)  # type: ignore[arg-type]


def test_candidates_outside_the_vocabulary(model: Model) -> None:
    for make in ("grammar", "infill", "penalties", "logit_bias"):
        with pytest.raises(OutOfRangeError, match="tokens"):
            MAKERS[make](model).apply(np.zeros(model.n_vocab + 1, dtype=np.float32))


# parameters


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Sampler.dist(-1),
        lambda m: Sampler.dist(2**32),
        lambda m: Sampler.dist(1.5),
        lambda m: Sampler.top_k(2**31),
        lambda m: Sampler.top_k("5"),
        lambda m: Sampler.top_p(1.1),
        lambda m: Sampler.top_p(math.nan),
        lambda m: Sampler.top_p(0.5, -1),
        lambda m: Sampler.min_p(-0.1),
        lambda m: Sampler.min_p(0.1, 2**31),
        lambda m: Sampler.typical(math.inf),
        lambda m: Sampler.temp(math.nan),
        lambda m: Sampler.temp(math.inf),
        lambda m: Sampler.temp(None),
        lambda m: Sampler.temp_ext(1.0, math.nan),
        lambda m: Sampler.temp_ext(1.0, 0.5, math.inf),
        lambda m: Sampler.xtc(2.0, 0.1),
        lambda m: Sampler.xtc(0.5, -0.1),
        lambda m: Sampler.top_n_sigma(math.nan),
        lambda m: Sampler.mirostat(m, 1, -1.0),
        lambda m: Sampler.mirostat(m, 1, 5.0, 0.1, 1),
        lambda m: Sampler.mirostat_v2(1, math.nan),
        lambda m: Sampler.mirostat_v2(1, 5.0, -0.1),
        lambda m: Sampler.adaptive_p(1.5),
        lambda m: Sampler.adaptive_p(0.5, 1.0),
        lambda m: Sampler.penalties(m, -1),
        lambda m: Sampler.penalties(m, 2**30),
        lambda m: Sampler.penalties(m, 64, 0.0),
        lambda m: Sampler.penalties(m, 64, -1.0),
        lambda m: Sampler.penalties(m, 64, 1e-40),
        lambda m: Sampler.penalties(m, 64, 1.0, math.inf),
        lambda m: Sampler.penalties(m, 64, 1.0, 0.0, math.nan),
        lambda m: Sampler.dry(m, math.nan),
        lambda m: Sampler.dry(m, 0.8, 1.75, -1),
        lambda m: Sampler.dry(m, 0.8, 1.75, 2, -1),
        lambda m: Sampler.dry(m, 0.8, 1.75, 2, 64, [""]),
        lambda m: Sampler.dry(m, 0.8, 1.75, 2, 64, ["x" * 41]),
        lambda m: Sampler.dry(m, 0.8, 1.75, 2, 64, ["a\0b"]),
        lambda m: Sampler.dry(m, 0.8, 1.75, 2, 64, "abc"),
        lambda m: Sampler.dry(m, 0.8, 1.75, 2, 64, [b"a"]),
        lambda m: Sampler.logit_bias(m, {1: math.nan}),
        lambda m: Sampler.logit_bias(m, {1: math.inf}),
        lambda m: Sampler.logit_bias(m, {"a": 1.0}),
    ],
)
def test_parameters_out_of_range(model: Model, make: Callable[[Model], Sampler]) -> None:
    with pytest.raises(InvalidArgumentError):
        make(model)


def test_tokens_out_of_range(model: Model) -> None:
    for make in (
        lambda: Sampler.logit_bias(model, {model.n_vocab: 1.0}),
        lambda: Sampler.logit_bias(model, {-1: 1.0}),
        lambda: Sampler.grammar(model, 'root ::= "a"', trigger_tokens=[model.n_vocab]),
    ):
        with pytest.raises(OutOfRangeError):
            make()


def test_dry_breakers_in_any_script(model: Model, logits: np.ndarray) -> None:
    sampler = Sampler.dry(model, 1.0, seq_breakers=["\n", "。", "\U0001f600", "</s>"])
    assert len(sampler.apply(logits)) == len(logits)


def test_grammar_arguments(model: Model) -> None:
    for call in (
        lambda: Sampler.grammar(model, ""),
        lambda: Sampler.grammar(model, 'root ::= "a'),
        lambda: Sampler.grammar(model, 'root ::= "a"', root="other"),
        lambda: Sampler.grammar(model, 'root ::= "a"\0'),
        lambda: Sampler.grammar(model, 'root ::= "\ud800"'),
        lambda: Sampler.grammar(model, 'root ::= "a"', trigger_patterns=["("]),
        lambda: Sampler.grammar(model, 'root ::= "a"', trigger_patterns="abc"),
        lambda: Sampler.grammar(model, 5),  # type: ignore[arg-type]
    ):
        with pytest.raises(GrammarError):
            call()
