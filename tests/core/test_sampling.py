from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.sampler import Sampler
from llamacore.errors import GrammarError, InvalidArgumentError, OutOfRangeError
from llamacore.hub import demo_model_path
from llamacore.sampling import (
    DEFAULT_SAMPLERS,
    SAMPLER_CHARS,
    GrammarTrigger,
    SamplingOptions,
    SamplingParams,
    eog_tokens,
    sampler_name,
)
from llamacore.testing import tiny_model

# fields of common_params_sampling that say nothing about how a token is chosen, or belong to the chat format
ELSEWHERE = {
    "n_prev", "n_probs", "timing_per_token", "user_sampling_config", "preserved_tokens", "logit_bias_eog",
    "reasoning_budget_start", "reasoning_budget_end", "reasoning_budget_forced", "reasoning_control",
    "backend_sampling",
}  # fmt: skip
# fields in which ours are texts: upstream has the type in its grammar, and tags in tokens
OURS = {"json_schema", "grammar_type", "reasoning_budget_start_tag", "reasoning_budget_end_tags"}


def test_defaults_are_upstreams(upstream_source: Path) -> None:
    header = (upstream_source / "common" / "common.h").read_text()
    body = header.partition("struct common_params_sampling {")[2]
    body = body[: body.index("std::string print() const")]
    body = re.sub(r"//[^\n]*", "", body)
    native = dict(re.findall(r"(\w+)\s*(?:=\s*([^;{]+|\{[^}]*\})|\{[^}]*\})?;", body))
    native["temperature"] = native.pop("temp")
    fields = {field.name: getattr(SamplingParams(), field.name) for field in dataclasses.fields(SamplingParams)}
    assert set(native) - ELSEWHERE == set(fields) - OURS
    for name, written in native.items():
        if name in ELSEWHERE or not written or written.startswith("{") or name == "seed":
            continue
        value = fields[name]
        expected: Any = {"true": True, "false": False}.get(written.strip())
        if expected is None:
            expected = float(written.strip().rstrip("f"))
        assert value == pytest.approx(expected), name
    breakers = re.search(r"dry_sequence_breakers = \{(.*?)\};", body, re.DOTALL)
    order = re.findall(r"COMMON_SAMPLER_TYPE_(\w+),", body[body.index("samplers = {") :])
    assert breakers is not None
    written_breakers = [ast.literal_eval(text) for text in re.findall(r'"(?:\\.|[^"\\])*"', breakers[1])]
    assert tuple(written_breakers) == SamplingParams().dry_sequence_breakers
    assert tuple(name.lower().replace("typical_p", "typ_p") for name in order) == DEFAULT_SAMPLERS


def test_letters_are_upstreams(upstream_source: Path) -> None:
    source = (upstream_source / "common" / "sampling.cpp").read_text()
    letters = dict(re.findall(r"case COMMON_SAMPLER_TYPE_(\w+):\s*return '(\w)';", source))
    names = dict(re.findall(r'case COMMON_SAMPLER_TYPE_(\w+):\s*return "(\w+)";', source))
    assert {letter: names[kind] for kind, letter in letters.items()} == SAMPLER_CHARS


def test_options_mirror_the_fields() -> None:
    assert set(get_type_hints(SamplingOptions)) == {field.name for field in dataclasses.fields(SamplingParams)}


# the chain


def test_the_default_chain(model: Model) -> None:
    chain = SamplingParams().chain(model)
    assert chain.names == ["top-k", "top-p", "min-p", "temp-ext", "dist"]  # without those that would change nothing


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"samplers": ["temperature", "top-k", "nucleus"]}, ["temp-ext", "top-k", "top-p", "dist"]),
        ({"samplers": []}, ["dist"]),
        (
            {
                "penalty_repeat": 1.1,
                "dry_multiplier": 0.8,
                "top_n_sigma": 2.0,
                "typ_p": 0.9,
                "xtc_probability": 0.5,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
            },
            ["penalties", "dry", "top-n-sigma", "typical", "xtc", "temp-ext", "dist"],
        ),
        ({"samplers": ["adaptive_p", "min_p"], "adaptive_target": 0.3}, ["min-p", "adaptive-p"]),
        ({"samplers": ["infill"]}, ["infill", "dist"]),
        ({"mirostat": 1}, ["temp", "mirostat"]),
        ({"mirostat": 2, "temperature": 1.0}, ["?temp", "mirostat-v2"]),
        ({"temperature": 0.0}, ["greedy"]),
        ({"temperature": 0.0, "penalty_repeat": 1.1, "dry_multiplier": 0.8}, ["penalties", "dry", "greedy"]),
        ({"temperature": 0.0, "typ_p": 0.9, "top_k": 5}, ["top-k", "typical", "top-p", "min-p", "temp-ext", "dist"]),
        ({"temperature": 0.0, "dynatemp_range": 0.5}, ["top-k", "top-p", "min-p", "temp-ext", "dist"]),
        ({"temperature": 0.0, "samplers": ["temperature", "top_k"]}, ["temp-ext", "top-k", "dist"]),
        ({"samplers": [], "logit_bias": {3: 1.0}}, ["logit-bias", "dist"]),
        ({"samplers": [], "ignore_eos": True}, ["logit-bias", "dist"]),
    ],
)
def test_chains(model: Model, options: dict[str, Any], names: list[str]) -> None:
    assert SamplingParams(**options).chain(model).names == names


def test_seed(ctx: Context) -> None:
    def run(seed: int | None) -> list[int]:
        chain = SamplingParams(seed=seed, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0).chain(ctx.model)
        return [chain.sample(ctx) for _ in range(16)]

    assert run(5) == run(5)
    assert run(5) != run(6)
    assert run(None) != run(None)
    assert SamplingParams(seed=5).chain(ctx.model).seed == 5


@pytest.mark.parametrize("options", [{"grammar": 'root ::= "a"'}, {"json_schema": {"type": "null"}}])
def test_a_grammar_holds_the_chain(model: Model, options: dict[str, Any]) -> None:
    sampler = SamplingParams(seed=3, **options).chain(model)
    assert (sampler.name, sampler.seed) == ("constrained", 3)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_zero_is_greedy(ctx: Context, temperature: float) -> None:
    chain = SamplingParams(temperature=temperature).chain(ctx.model)
    assert [chain.sample(ctx) for _ in range(4)] == [ctx.logits(-1).argmax()] * 4


def test_temperature_zero_is_upstreams_long_way(ctx: Context) -> None:
    """The short chain chooses what upstream's does, with penalties that lower the most likely token as well."""
    model = ctx.model
    made = SamplingParams(temperature=0.0, penalty_repeat=3.0, penalty_present=4.0, dry_multiplier=2.0).chain(model)
    long = Sampler.chain(
        Sampler.penalties(model, 64, 3.0, 0.0, 4.0), Sampler.dry(model, 2.0), Sampler.top_k(40), Sampler.top_p(0.95),
        Sampler.min_p(0.05), Sampler.temp_ext(0.0), Sampler.dist(1),
    )  # fmt: skip
    tokens = [(made.sample(ctx, row), long.sample(ctx, row)) for row in (4, 5) * 12]
    assert [ours for ours, _ in tokens] == [theirs for _, theirs in tokens]
    assert len(set(tokens)) > 4


def test_the_chain_is_what_it_says(ctx: Context) -> None:
    params = SamplingParams(
        seed=9, temperature=0.9, top_k=30, top_p=0.9, min_p=0.02, penalty_repeat=1.2, penalty_last_n=8, typ_p=0.95
    )
    made = params.chain(ctx.model)
    model = ctx.model
    by_hand = Sampler.chain(
        Sampler.penalties(model, 8, 1.2),
        Sampler.top_k(30),
        Sampler.typical(0.95),
        Sampler.top_p(0.9),
        Sampler.min_p(0.02),
        Sampler.temp_ext(0.9),
        Sampler.dist(9),
    )
    for row in (4, 5, 4, 5, 5, 5):
        assert made.sample(ctx, row) == by_hand.sample(ctx, row)


def test_greedy_with_a_grammar(ctx: Context) -> None:
    chain = SamplingParams(temperature=0, grammar='root ::= "zebra"').chain(ctx.model)
    text = b""
    while not ctx.model.vocab.is_eog(token := chain.sample(ctx)):
        text += ctx.model.vocab.token_to_piece(token)
    assert text == b"zebra"


def test_ignore_eos(model: Model) -> None:
    flat = np.zeros(model.n_vocab, dtype=np.float32)
    chain = SamplingParams(ignore_eos=True, samplers=[], seed=1).chain(model)
    left = chain.remove(0).apply(flat)
    assert eog_tokens(model)
    assert set(left.ids[left.logits == -math.inf].tolist()) == set(eog_tokens(model)) | set(model.vocab.suppress_tokens)
    assert {token for token in range(model.n_vocab) if model.vocab.is_eog(token)} == set(eog_tokens(model))


def test_tokens_that_the_model_suppresses(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.ggml.suppress_tokens": [4, 7]})
    with Model.load(path) as model:
        assert model.vocab.suppress_tokens == [4, 7]
        chain = SamplingParams(samplers=[]).chain(model)
        left = chain.remove(0).apply(np.zeros(model.n_vocab, dtype=np.float32))
        assert left.ids[left.logits == -math.inf].tolist() == [4, 7]


def test_triggers(model: Model) -> None:
    (bang,), (x,) = (model.vocab.tokenize(text, add_special=False) for text in ("!", "x"))
    flat = np.zeros(model.n_vocab, dtype=np.float32)
    for trigger in (
        GrammarTrigger("word", "!"),
        GrammarTrigger("pattern", "a (!)"),
        GrammarTrigger("pattern_full", r"[\s\S]*?(!)"),
        GrammarTrigger("token", bang),
    ):
        sampler = SamplingParams(
            grammar='root ::= "!" "x"', grammar_lazy=True, grammar_triggers=[trigger], samplers=[], seed=1
        ).chain(model)
        for token in model.vocab.tokenize("what a ", add_special=False):
            sampler.accept(token)
        assert len({sampler.apply(flat).token for _ in range(20)}) > 10, trigger
        sampler.accept(bang)
        assert {sampler.apply(flat).token for _ in range(20)} == {x}, trigger


def test_a_word_is_not_a_pattern() -> None:
    assert GrammarTrigger("word", "<a|b>(c).*").pattern == r"<a\|b>\(c\)\.\*"
    assert GrammarTrigger("pattern_full", "a").pattern == "^a$"
    assert GrammarTrigger("pattern_full", "^a$").pattern == "^a$"


# recommendations of the file


def test_recommended_parameters(tmp_path: Path) -> None:
    advice: dict[str, Any] = {
        "general.sampling.top_k": 17,
        "general.sampling.temp": 0.25,
        "general.sampling.penalty_last_n": 32,
        "general.sampling.sequence": "top_k;temperature",
    }
    with Model.load(tiny_model(tmp_path / "tiny.gguf", metadata=advice)) as model:
        params = SamplingParams.for_model(model)
        assert (params.top_k, params.temperature, params.penalty_last_n) == (17, 0.25, 32)
        assert params.samplers == ("top_k", "temperature")
        assert params.min_p == SamplingParams().min_p
        assert SamplingParams.for_model(model, top_k=3).top_k == 3
        with pytest.raises(InvalidArgumentError, match="top_k"):
            SamplingParams.for_model(model, topk=3)  # type: ignore[call-arg]


def test_a_file_that_recommends_nothing(tmp_path: Path) -> None:
    with Model.load(tiny_model(tmp_path / "tiny.gguf")) as model:
        assert SamplingParams.for_model(model) == SamplingParams()


# names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("top_k", "top_k"),
        ("TOP-K", "top_k"),
        ("topk", "top_k"),
        ("nucleus", "top_p"),
        ("temp", "temperature"),
        ("typ", "typ_p"),
        ("top-n-sigma", "top_n_sigma"),
    ],
)
def test_spellings(given: str, name: str) -> None:
    assert sampler_name(given) == name


@pytest.mark.parametrize("given", ["", "top", "greedy", "top_k ", None, 5])
def test_samplers_that_are_none(given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="top_k"):
        SamplingParams(samplers=[given])


# what goes wrong


@pytest.mark.parametrize(
    "options",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"temperature": math.nan},
        {"temperature": "hot"},
        {"top_k": 1.5},
        {"top_p": 1.5},
        {"top_p": -0.1},
        {"min_p": 2},
        {"typ_p": math.inf},
        {"top_n_sigma": math.nan},
        {"min_keep": -1},
        {"xtc_probability": 1.1},
        {"xtc_threshold": -0.1},
        {"dynatemp_range": -1},
        {"dynatemp_exponent": math.inf},
        {"penalty_last_n": -1},
        {"penalty_repeat": 0},
        {"penalty_freq": math.nan},
        {"penalty_present": math.inf},
        {"dry_multiplier": math.nan},
        {"dry_base": math.inf},
        {"dry_allowed_length": -1},
        {"dry_penalty_last_n": -1},
        {"dry_sequence_breakers": "abc"},
        {"dry_sequence_breakers": [""]},
        {"adaptive_target": 2},
        {"adaptive_decay": 1.0},
        {"mirostat": 3},
        {"mirostat_tau": -1},
        {"mirostat_eta": math.nan},
        {"samplers": "top_k"},
        {"samplers": ["top_k", "nothing"]},
        {"logit_bias": {3: math.nan}},
        {"logit_bias": {"3": 1.0}},
        {"grammar": "root ::= x", "json_schema": {}},
        {"grammar_lazy": True},
        {"grammar": "root ::= x", "grammar_lazy": True},
        {"grammar": "root ::= x", "grammar_triggers": [GrammarTrigger("word", "x")]},
        {"grammar_lazy": True, "grammar_triggers": [GrammarTrigger("word", "x")]},
    ],
)
def test_parameters_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        SamplingParams(**options)


@pytest.mark.parametrize(
    ("kind", "value"), [("word", ""), ("word", 5), ("token", "x"), ("pattern", None), ("other", "x")]
)
def test_triggers_that_are_none(kind: Any, value: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        GrammarTrigger(kind, value)


def test_negative_token_in_logit_bias() -> None:
    with pytest.raises(OutOfRangeError):
        SamplingParams(logit_bias={-1: 1.0})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"logit_bias": {10**8: 1.0}}, OutOfRangeError),
        ({"grammar": "nonsense"}, GrammarError),
        ({"json_schema": "nonsense"}, GrammarError),
        (
            {"grammar": "root ::= .", "grammar_lazy": True, "grammar_triggers": [GrammarTrigger("token", 10**8)]},
            OutOfRangeError,
        ),
        (
            {"grammar": "root ::= .", "grammar_lazy": True, "grammar_triggers": [GrammarTrigger("pattern", "(")]},
            GrammarError,
        ),
    ],
)
def test_parameters_that_do_not_fit_the_model(
    model: Model, options: dict[str, Any], error: Callable[..., Exception]
) -> None:
    with pytest.raises(error):  # type: ignore[call-overload]
        SamplingParams(**options).chain(model)


def test_the_chain_closes_with_its_model() -> None:
    model = Model.load(demo_model_path())
    chain = SamplingParams().chain(model)
    model.close()
    assert chain.closed


def test_params_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().top_k = 5  # type: ignore[misc]
