"""Parameters of the nodes: names, aliases, defaults, checks, and what nobody knows."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from llamacore.errors import InvalidArgumentError
from llamacore.nodes.embedding import EmbeddingNode
from llamacore.nodes.generation import GenerationNode
from llamacore.nodes.params import BackendParams, EmbeddingNodeParams, GenerationNodeParams


def generation(**params: Any) -> GenerationNodeParams:
    return GenerationNodeParams.read({"model_path": "m.gguf", **params})[0]


def embedding(**params: Any) -> EmbeddingNodeParams:
    return EmbeddingNodeParams.read({"model_path": "m.gguf", **params})[0]


def test_the_defaults_of_generation():
    assert dataclasses.asdict(generation()) == {
        "model_path": "m.gguf",
        "backend": {
            "numa": False, "gpu_offload": "none", "flash_attention": False, "threads": None, "threads_batch": None,
        },
        "context_size": 4096, "batch_size": 512, "n_parallel": 4, "max_tokens": 256, "temperature": 0.8,
        "top_p": 0.95, "top_k": 40, "min_p": 0.0, "repeat_penalty": 1.1, "system_prompt": None, "seed": 0,
        "activation_tap": None, "tools": (), "active_tools": None, "tool_choice": None, "stream_arguments": False,
        "mtp": {"enabled": False, "n_max": 1, "n_min": 0, "p_min": 0.0},
        "history_turns": None, "output_channel": "tts",
    }  # fmt: skip


def test_the_defaults_of_embedding():
    found = dataclasses.asdict(embedding())
    del found["backend"], found["model_path"]
    assert found == {"context_size": 512, "batch_size": 256, "pooling": "mean", "l2_normalize": True}


def test_aliases():
    asked = generation(n_ctx=2048, n_batch=64, activation_tap={}, mtp={"enabled": True, "n_max": 3})
    assert (asked.context_size, asked.batch_size) == (2048, 64)
    assert asked.activation_tap is not None
    assert (asked.activation_tap.layer, asked.activation_tap.every_n_tokens) == (15, 32)
    assert asked.mtp.speculative().n_max == 3
    assert not embedding(normalize=False).l2_normalize
    with pytest.raises(InvalidArgumentError, match="context_size is given twice"):
        generation(n_ctx=1, context_size=2)


def test_what_is_unknown_is_told_by_its_name():
    node = GenerationNode(
        {"model_path": "demo", "temprature": 1, "zzz": 2, "backend": {"thread": 1}, "mtp": {"draft": 1},
         "tools": [{"name": "wave", "cancellable": False}]}
    )  # fmt: skip
    assert node.warnings == [
        "temprature is unknown and not used, did you mean 'temperature'?",
        "zzz is unknown and not used",
        "backend.thread is unknown and not used, did you mean 'threads'?",
        "mtp.draft is unknown and not used",
        "tools.wave.cancellable is unknown and not used",
    ]
    assert EmbeddingNode('{"model_path": "demo", "normalise": false}').warnings == [
        "normalise is unknown and not used, did you mean 'normalize'?"
    ]


def test_the_sampler_chain_is_in_the_order_of_the_node():
    sampling = generation(temperature=0, top_k=0, min_p=0.1, seed=7).sampling()
    assert tuple(sampling.samplers) == ("penalties", "min_p", "top_k", "top_p", "temperature")
    assert (sampling.seed, sampling.temperature, sampling.top_k, sampling.min_p) == (7, 0, 0, 0.1)
    assert (sampling.penalty_repeat, sampling.penalty_last_n) == (1.1, 64)
    assert generation(seed=0).sampling().seed is None


@pytest.mark.parametrize(("offload", "layers"), [("none", 0), ("all", "all"), ({"layers": 0}, 0), ({"layers": 12}, 12)])
def test_layers_on_devices(offload: Any, layers: Any):
    assert BackendParams.read({"gpu_offload": offload})[0].n_gpu_layers == layers


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model_path": ""}, "model_path must not be empty"),
        ({"model_path": 3}, "model_path=3"),
        ({"context_size": 0}, "context_size=0"),
        ({"n_ctx": "big"}, "context_size='big'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": "1"}, "temperature='1'"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_p": -1}, "min_p=-1"),
        ({"top_k": -1}, "top_k=-1"),
        ({"repeat_penalty": 0}, "penalty_repeat"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"n_parallel": 0}, "n_parallel=0"),
        ({"system_prompt": 3}, "system_prompt=3"),
        ({"history_turns": -1}, "history_turns=-1"),
        ({"stream_arguments": 1}, "stream_arguments=1"),
        ({"output_channel": ""}, "output_channel must not be empty"),
        ({"tools": "say"}, "tools='say'"),
        ({"tools": [3]}, "3 is no tool"),
        ({"tools": ["fly"]}, "there is no tool 'fly'"),
        ({"tools": [{"description": "no name"}]}, "has no name"),
        ({"tools": [{"name": "a", "kind": "magic"}]}, "the tool a is 'magic'"),
        ({"tools": [{"name": "a", "cancelable": 1}]}, "cancelable of the tool a is 1"),
        ({"active_tools": "say"}, "active_tools='say'"),
        ({"active_tools": [3]}, "active_tools=3"),
        ({"tool_choice": "maybe"}, "tool_choice='maybe'"),
        ({"backend": 3}, "backend=3"),
        ({"backend": None}, "backend=None"),
        ({"backend": {"threads": 0}}, "backend.threads=0"),
        ({"backend": {"numa": 1}}, "backend.numa=1"),
        ({"backend": {"gpu_offload": "some"}}, "backend.gpu_offload='some'"),
        ({"backend": {"gpu_offload": {"layers": 70000}}}, "backend.gpu_offload.layers=70000"),
        ({"backend": {"gpu_offload": {"layers": 1, "x": 1}}}, "backend.gpu_offload="),
        ({"activation_tap": {"layer": -1}}, "activation_tap.layer=-1"),
        ({"activation_tap": True}, "activation_tap=True"),
        ({"mtp": {"n_max": 0}}, "mtp.n_max=0"),
        ({"mtp": {"n_max": 2, "n_min": 3}}, "mtp.n_min=3"),
        ({"mtp": {"p_min": 2}}, "mtp.p_min=2"),
        ({"mtp": {"enabled": "yes"}}, "mtp.enabled='yes'"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], message: str):
    given = {"model_path": "demo", **params}
    with pytest.raises(InvalidArgumentError, match="Invalid config: ") as caught:
        GenerationNode(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "model_path must not be empty"),
        ({"model_path": "m", "context_size": 0}, "context_size=0"),
        ({"model_path": "m", "batch_size": 0}, "batch_size=0"),
        ({"model_path": "m", "pooling": "last"}, "pooling='last'"),
        ({"model_path": "m", "pooling": None}, "pooling=None"),
        ({"model_path": "m", "normalize": 1}, "l2_normalize=1"),
    ],
)
def test_a_wrong_parameter_of_embedding_is_named(params: dict[str, Any], message: str):
    with pytest.raises(InvalidArgumentError, match="Invalid config: ") as caught:
        EmbeddingNode(json.dumps(params))
    assert message in str(caught.value)
