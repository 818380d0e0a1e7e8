"""Parameters: frozen, checked when they are made, upstream's defaults where nothing is said."""

from __future__ import annotations

import dataclasses
import math

import pytest

import llamacore as lc
from llamacore.core._native import lib
from llamacore.params import ContextOptions, ModelOptions, merge

NUMBERS = [-2, -(2**31) - 1, 2**31, 2**63, 10**30, 1.5, math.nan, math.inf, "5", [1], b"1"]
WORDS = [0, 1.5, "yes please", b"auto", ["auto"]]


def kinds(params):
    """Field names by what their annotation allows."""
    found: dict[str, list[str]] = {}
    for field in dataclasses.fields(params):
        found.setdefault(str(field.type).replace(" | None", ""), []).append(field.name)
    return found


@pytest.mark.parametrize("params", [lc.ModelParams, lc.ContextParams])
def test_nothing_said_is_none(params):
    """Every field is optional, None by default and cannot be changed."""
    made = params()
    assert all(getattr(made, field.name) is None for field in dataclasses.fields(made))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.n_ctx = 5
    with pytest.raises(TypeError):
        params(nonsense=1)


def test_the_typed_options_are_the_fields():
    """What may be written as keyword arguments is what the dataclasses have, in the same order."""
    for options, params in ((ModelOptions, lc.ModelParams), (ContextOptions, lc.ContextParams)):
        assert list(options.__annotations__) == [field.name for field in dataclasses.fields(params)]


@pytest.mark.parametrize(
    ("params", "name"),
    [(lc.ContextParams, name) for name in kinds(lc.ContextParams)["int"]]
    + [(lc.ModelParams, name) for name in ("main_gpu", "n_gpu_layers")],
)
def test_whole_numbers(params, name):
    """Numbers that C has no room for, fractions and other types are refused by name."""
    for value in NUMBERS:
        if value == -2 and name == "main_gpu":
            continue  # negative means none
        with pytest.raises(lc.InvalidArgumentError, match=name):
            params(**{name: value})
    params(**{name: 1})


@pytest.mark.parametrize("name", kinds(lc.ContextParams)["float"])
def test_fractions(name):
    """NaN, infinities and what single precision cannot hold are refused."""
    for value in (math.nan, math.inf, -math.inf, 1e39):
        with pytest.raises(lc.InvalidArgumentError, match=name):
            lc.ContextParams(**{name: value})
    with pytest.raises((lc.InvalidArgumentError, TypeError)):
        lc.ContextParams(**{name: "1"})
    lc.ContextParams(**{name: 1})


@pytest.mark.parametrize(
    ("params", "name"),
    [(params, name) for params in (lc.ModelParams, lc.ContextParams) for name in kinds(params)["bool"]],
)
def test_truth_values(params, name):
    """Only True and False (and 1 and 0) are truth values."""
    for value in (2, -1, "yes", math.nan, [True]):
        with pytest.raises(lc.InvalidArgumentError, match=name):
            params(**{name: value})
    params(**{name: True})


@pytest.mark.parametrize("name", ["split_mode", "load_mode", "lazy_mode"])
def test_words_of_models(tiny_path, name):
    """A word that upstream does not know is refused with those that it does, also when it is no word."""
    for value in WORDS:
        with pytest.raises((lc.InvalidArgumentError, TypeError)):
            lc.Model.load(tiny_path(), **{name: value})
    with pytest.raises(lc.InvalidArgumentError, match="use one of"):
        lc.Model.load(tiny_path(), **{name: "nonsense"})


@pytest.mark.parametrize(
    "name", ["ctx_type", "rope_scaling_type", "pooling_type", "attention_type", "flash_attn", "type_k", "type_v"]
)
def test_words_of_contexts(tiny, name):
    """The same for contexts."""
    for value in [*WORDS, "nonsense"]:
        with pytest.raises((lc.InvalidArgumentError, TypeError)):
            tiny().context(**{name: value})


def test_shares_and_mappings():
    """Shares are finite and not negative; mappings are mappings; a string is no list of devices."""
    for options in (
        {"tensor_split": [math.nan]},
        {"tensor_split": [-1.0]},
        {"tensor_split": [1e300]},
        {"kv_overrides": [1]},
        {"tensor_overrides": "abc"},
        {"devices": "CPU"},
        {"n_gpu_layers": "some"},
    ):
        with pytest.raises(lc.InvalidArgumentError, match=next(iter(options))):
            lc.ModelParams(**options)
    lc.ModelParams(tensor_split=[0.0, 1.0], n_gpu_layers="all")


def test_options_go_over_params(tiny):
    """Keyword arguments win over the object, and an unknown one names its neighbour."""
    params = lc.ContextParams(n_ctx=512, n_batch=64)
    with tiny().context(params, n_batch=32) as ctx:
        assert (ctx.n_ctx, ctx.n_batch, ctx.params.n_batch) == (512, 32, 32)
    assert params.n_batch == 64
    with pytest.raises(lc.InvalidArgumentError, match="did you mean 'n_ctx'"):
        merge(params, {"nctx": 1})
    for wrong in (5, {"n_ctx": 5}, "n_ctx"):
        with pytest.raises(TypeError):
            tiny().context(wrong)


def test_defaults_are_upstreams(tiny):
    """A context of which nothing was said has the numbers of llama_context_default_params."""
    native = lib.llama_context_default_params()
    with tiny().context() as ctx:
        assert ctx.n_ctx == (native.n_ctx or tiny().n_ctx_train)
        assert ctx.n_seq_max == native.n_seq_max
        assert ctx.n_ubatch == min(native.n_ubatch, ctx.n_batch)
        assert ctx.kv_unified == native.kv_unified
