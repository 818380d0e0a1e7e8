"""Recommended sampling: which values apply to a model, and the reason given."""

from __future__ import annotations

import dataclasses

import pytest

import llamacore as lc
from llamacore import presets
from llamacore.params import merge
from llamacore.sampling import SamplingParams


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Qwen3 4B Instruct 2507", "qwen3-instruct-2507"),
        ("Qwen3-4B-Thinking-2507", "qwen3-thinking"),
        ("Qwen3-30B-A3B", "qwen3"),
        ("Qwen3.5-0.8B", None),
        ("Qwen2.5-7B", None),
        ("gemma-3-4b-it", "gemma"),
        ("Gemma3n E4B", "gemma"),
        ("GLM-4-9B", "glm-4"),
        ("glm4 9b", "glm-4"),
        ("GLM-4.5-Air", None),
        ("Phi4", "phi-4"),
        ("phi-4-mini", "phi-4"),
        ("phi-42", None),
        ("Ministral-3-8B-Reasoning-2512", "ministral-reasoning"),
        ("Ministral-8B-Instruct-2410", "ministral-instruct"),
        ("gpt-oss-20b", "gpt-oss"),
        ("granite-4.0-h-tiny", "granite"),
        ("MiniCPM3-4B", "minicpm"),
        ("aya-23-8B", "aya"),
        ("Himalaya-7b", None),
    ],
)
@pytest.mark.parametrize("place", ["general.name", "general.basename", "file name"])
def test_a_name_tells_the_family(name, wanted, place):
    file_name = f"/models.d/{name}-Q4_K_M.gguf" if place == "file name" else None
    match = presets.find_family({} if file_name else {place: name}, file_name=file_name)
    assert (match and match.family.name) == wanted
    if match:
        assert match.key == place
        assert name in match.value


def test_the_architecture_decides_when_no_name_does():
    match = presets.find_family({"general.architecture": "qwen3moe", "general.name": "My Tune"})
    assert match is not None
    assert (match.family.name, match.key) == ("qwen3", "general.architecture")
    assert presets.find_family({"general.architecture": "llama", "general.name": "My Tune"}) is None
    named = {"general.architecture": "qwen3", "general.basename": "Qwen3", "general.finetune": "Instruct-2507"}
    found = presets.find_family(named)
    assert found is not None and found.family.name == "qwen3-instruct-2507"


def test_thinking_picks_the_values():
    qwen = {"general.architecture": "qwen3", "general.name": "Qwen3 8B"}
    on, off, default = (presets.recommend(qwen, thinking=value) for value in (True, False, None))
    assert on.options == {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0} == default.options
    assert off.options == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.01}
    assert (on.reason, off.reason) == (
        "general.name is 'Qwen3 8B': the family qwen3, with thinking",
        "general.name is 'Qwen3 8B': the family qwen3, without thinking",
    )
    instruct = {"general.name": "Qwen3-4B-Instruct-2507"}
    assert presets.recommend(instruct, thinking=True).options == presets.recommend(instruct, thinking=False).options
    assert presets.recommend(instruct).options["penalty_present"] == 1.0


def test_the_file_itself_comes_first():
    metadata = {"general.architecture": "gemma3", "general.sampling.temp": "0.3", "general.sampling.top_k": "7"}
    found = presets.recommend(metadata)
    assert (found.source, dict(found.options)) == ("gguf", {"temperature": 0.3, "top_k": 7})
    assert found.family is not None and found.family.name == "gemma"
    forced = presets.recommend(metadata, family_name="gemma")
    assert (forced.source, forced.options["temperature"]) == ("family", 1.0)


def test_what_is_not_a_number_is_left_out():
    metadata = {"general.sampling.temp": "warm", "general.sampling.top_k": "", "general.sampling.top_p": "0.5"}
    assert presets.own_options(metadata) == {"top_p": 0.5}
    assert presets.recommend({"general.sampling.temp": "warm"}).source == "default"
    typed = {
        "general.sampling.temp": 0.25,
        "general.sampling.top_k": 3,
        "general.sampling.sequence": "top_k;temperature",
    }
    assert presets.own_options(typed) == {"temperature": 0.25, "top_k": 3, "samplers": ("top_k", "temperature")}


def test_nothing_known_means_upstreams_defaults(tiny):
    model = tiny()
    found = presets.recommend(model.metadata, file_name=model.paths[0])
    assert (found.source, dict(found.options), found.family) == ("default", {}, None)


def test_own_values_are_those_that_a_model_is_sampled_with(demo_model, tiny):
    """The values of real files, as `SamplingParams.for_model` reads them."""
    values = {"general.sampling.temp": 0.5, "general.sampling.top_k": 11, "general.sampling.sequence": "top_k;top_p"}
    for model in (demo_model, tiny(metadata=values)):
        found = presets.recommend(model.metadata)
        assert found.source == "gguf"
        assert len(found.options) == 3
        assert SamplingParams.for_model(model) == merge(SamplingParams(), found.options)


def test_a_llama_says_what_is_recommended(tiny, tmp_path, tiny_path):
    """By its metadata, or by the name of its file; what it says can be given to a call as it is."""
    path = tmp_path / "Qwen3-8B-Q4_K_M.gguf"
    path.write_bytes(tiny_path().read_bytes())
    with lc.Llama(path, n_ctx=64, n_threads=1) as llama:
        on, off = llama.recommended_sampling(True), llama.recommended_sampling(thinking=False)
        assert (on.source, on.options["temperature"], off.options["temperature"]) == ("family", 0.6, 0.7)
        assert "file name is 'Qwen3-8B-Q4_K_M.gguf'" in on.reason
        assert llama.generate("a", max_tokens=2, ignore_eos=True, **off.options).usage.completion_tokens == 2
    with lc.Llama(tiny(metadata={"general.sampling.temp": 0.5}), n_ctx=64, n_threads=1) as llama:
        assert dict(llama.recommended_sampling().options) == {"temperature": 0.5}


def test_every_family_has_values_that_can_be_sampled_with():
    assert len({item.name for item in presets.FAMILIES}) == len(presets.FAMILIES) > 10
    for item in presets.FAMILIES:
        assert presets.family(item.name.upper()) is item
        assert item.n_ctx >= 8192
        match = presets.find_family({"general.name": item.name})
        assert match is not None and match.family is item
        for thinking in (True, False, None):
            merge(SamplingParams(), presets.recommend({}, family_name=item.name, thinking=thinking).options)


def test_it_cannot_be_changed():
    found = presets.recommend({"general.name": "aya"})
    with pytest.raises(TypeError):
        found.options["temperature"] = 3  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.source = "gguf"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "llama", None, 3])
def test_a_family_that_does_not_exist(name):
    with pytest.raises(lc.InvalidArgumentError, match="gpt-oss"):
        presets.family(name)


@pytest.mark.parametrize("value", [None, 3, "", "\0", "x" * 100_000, "qwen3-" * 20_000, "ministral-" + "a-" * 20_000])
def test_odd_metadata_is_no_trouble(value):
    presets.recommend({"general.name": value, "general.architecture": value, "general.sampling.top_k": value})
