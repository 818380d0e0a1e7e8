"""Sampler chains that are used again: a request never notices what the chain did before."""

from __future__ import annotations

import pytest

import llamacore as lc
from llamacore.engine.chains import ChainPool

from .conftest import ask

PROMPT = [11, 12, 13]

SAMPLINGS = {
    "plain": {},
    "mirostat": {"mirostat": 2},
    "mirostat 1": {"mirostat": 1},
    "penalties": {"penalty_repeat": 1.4, "penalty_freq": 0.5, "penalty_present": 0.5},
    "dry": {"dry_multiplier": 1.0, "dry_allowed_length": 1},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    "adaptive": {"samplers": ["temperature", "adaptive_p"], "adaptive_target": 0.3},
    "biased": {"logit_bias": {20: 3.0}, "ignore_eos": True},
    "grammar": {"grammar": "root ::= [a-zA-Z0-9 ]*"},
}


@pytest.fixture
def model(tiny):
    return tiny("llama")


def write(engine, sampling, **options):
    return engine.submit(ask(PROMPT, 24, sampling=sampling, **options)).result().tokens


@pytest.mark.parametrize("options", SAMPLINGS.values(), ids=SAMPLINGS)
def test_a_chain_used_again_is_as_good_as_new(make_engine, model, options):
    """Nothing of the text before is left: neither its tokens, nor the state of the random numbers."""
    sampling = lc.SamplingParams(seed=7, temperature=1.5, **options)
    engine = make_engine(model)
    texts = {write(engine, sampling, min_tokens=3) for _ in range(4)}
    assert len(texts) == 1
    assert texts == {write(make_engine(model), sampling, min_tokens=3)}


def test_without_a_seed_each_text_is_another_one(make_engine, model):
    """A chain that is used again draws other random numbers."""
    engine = make_engine(model)
    assert 4 == len({write(engine, lc.SamplingParams(temperature=1.5)) for _ in range(4)})


def test_other_parameters_get_another_chain(make_engine, model):
    """What was made for one request is never given to one that asks for something else."""
    engine = make_engine(model)
    greedy, warm = lc.SamplingParams(temperature=0.0), lc.SamplingParams(temperature=2.0, seed=3)
    expected = {sampling.temperature: write(make_engine(model), sampling) for sampling in (greedy, warm)}
    for sampling in (greedy, warm, greedy, warm, warm):
        assert expected[sampling.temperature] == write(engine, sampling)
    assert len(set(expected.values())) == 2


def test_a_dict_that_is_changed_later_counts(make_engine, model):
    """Chains are made for what a dict held then, whatever its owner does to it while one is in use or waits."""
    engine, bias = make_engine(model), {}
    sampling = lc.SamplingParams(temperature=0.0, logit_bias=bias)
    first = write(engine, sampling)[0]
    bias[first] = float("-inf")
    assert first not in write(engine, sampling)
    running = engine.submit(ask(PROMPT, 24, sampling=sampling))
    bias.clear()
    assert first not in running.result().tokens
    assert first == write(engine, sampling)[0]


def test_the_pool_keeps_what_it_may_and_no_more(model):
    """Chains beyond its size, of other parameters, or that have seen a grammar are closed."""
    pool, sampling = ChainPool(model, 2), lc.SamplingParams(seed=1)
    taken = [pool.take(sampling, 0) for _ in range(3)]
    for _, give_back in taken:
        give_back()
    chains = [chain for chain, _ in taken]
    assert [False, False, True] == [chain.closed for chain in chains]
    assert pool.take(sampling, 0)[0] is chains[1]
    assert pool.take(sampling, 5)[0] not in chains
    other, give_back = pool.take(lc.SamplingParams(seed=2), 0)
    give_back()
    assert (chains[0].closed, other.closed) == (True, False)
    constrained, give_back = pool.take(lc.SamplingParams(grammar='root ::= "a"'), 0)
    give_back()
    assert constrained.closed


def test_a_chain_that_was_closed_with_its_model_is_not_kept(tiny_path):
    """Giving it back does nothing, and the next one says that the model is closed."""
    model = lc.Model.load(tiny_path("llama"))
    pool, sampling = ChainPool(model, 2), lc.SamplingParams()
    _, give_back = pool.take(sampling, 0)
    model.close()
    give_back()
    with pytest.raises(lc.ClosedError):
        pool.take(sampling, 0)
