"""Pipelines of our own nodes on the demo model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

import llamacore as lc
from llamacore.nodes.data import TEXT_END, Json, Tensor, Text
from llamacore.nodes.manifest import Manifest
from llamacore.nodes.node_error import NodeError
from llamacore.nodes.pipeline import Pipeline
from llamacore.nodes.session import SYSTEM

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pipeline.json"
FAST = {"model_path": "demo", "backend": {"threads": 1}}
GENERATION = {
    "id": "llm",
    "node_type": "LlamaCppGenerationNode",
    "params": {**FAST, "temperature": 0, "max_tokens": 24, "active_tools": []},
}


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def manifest(*nodes, links=()):
    return {"version": "v1", "nodes": list(nodes), "connections": [{"from": a, "to": b} for a, b in links]}


def test_the_example_is_what_plugin_hosts_run():
    """It has what such a manifest has, a plugin and no metadata or connections, and nothing in it goes unused."""
    read = Manifest.load(EXAMPLE)
    assert read.plugins[0].provided
    assert read.not_used == ()
    assert "metadata" not in json.loads(EXAMPLE.read_text()) and "connections" not in json.loads(EXAMPLE.read_text())

    async def main():
        async with Pipeline(read) as pipeline:
            assert pipeline.warnings == []
            items = [item.data async for item in pipeline.run("Tell me a happy story.") if item.node != SYSTEM]
        assert items[-1] == Text(TEXT_END)
        assert items.count(Text(TEXT_END)) == 1
        assert len("".join(item.text for item in items[:-1]).split()) > 20

    run(main())


def test_one_prompt_into_text_vectors_and_layers():
    """Three nodes that name one model share it; what they make of a prompt comes out side by side."""
    embedding = {"id": "emb", "node_type": "LlamaCppEmbeddingNode", "params": FAST}
    activation = {"id": "act", "node_type": "LlamaCppActivationNode", "params": {**FAST, "layers": [1, 5]}}

    async def main():
        async with Pipeline(manifest(GENERATION, embedding, activation)) as pipeline:
            found = [item async for item in pipeline.run("Tell me a story.") if item.node != SYSTEM]
            assert pipeline.nodes["llm"].llama.model is pipeline.nodes["act"]._lease.value
        assert {item.node for item in found} == {"llm", "emb", "act"}
        tensors = [item for item in found if isinstance(item.data, Tensor)]
        assert [item.data.metadata.get("layer") for item in tensors if item.node == "act"] == [1, 5]
        assert all(np.isfinite(item.data.array).all() for item in tensors)
        assert sum(item.data == Text(TEXT_END) for item in found) == 1

    run(main())


def test_activations_steer():
    """What one node reads from a text is what the other steers by: the same prompt gets another answer."""
    activation = {
        "id": "act", "node_type": "LlamaCppActivationNode", "params": {**FAST, "layers": [3], "pooling": "mean"},
    }  # fmt: skip
    steer = {
        "id": "steer",
        "node_type": "LlamaCppSteerNode",
        "params": {
            **FAST, "layer": 3, "layer_norm": 12, "vectors": [{"label": "joy"}],
            "generation": GENERATION["params"],
        },
    }  # fmt: skip

    async def main():
        async with (
            Pipeline(manifest(activation, steer, links=[("act", "steer")])) as pipeline,
            pipeline.session() as session,
        ):
            await session.send(Json({"text": "They laughed and danced. What a happy day!", "emotion": "joy"}), to="act")
            answers = []
            async for item in session:
                if item.node == SYSTEM:
                    continue
                if isinstance(item.data, Json):
                    answers.append(item.data.value)
                if len(answers) == 1:
                    assert answers[0] == {"status": "vector_registered", "label": "joy"}
                    await session.send("Tell me a story.", to="steer")
                    await session.send({"coefficients": {"joy": -1}, "prompt": "Tell me a story."}, to="steer")
                    await session.finish()
                    answers.append({})
            return answers[2:]

    plain, steered = run(main())
    assert not plain["steering"]["applied"]
    assert (steered["steering"]["applied"], steered["steering"]["delta_norm"]) == (True, pytest.approx(12, rel=1e-3))


def test_sessions_remember_and_a_barge_in_ends_one_turn():
    """A turn that is interrupted has its sentinel, the next one is answered, the other session notices nothing."""
    long = {**GENERATION, "params": {**GENERATION["params"], "max_tokens": 200, "temperature": 0.8}}

    async def main():
        async with (
            Pipeline(manifest(long)) as pipeline,
            pipeline.session("a") as a,
            pipeline.session("b") as b,
        ):
            for session in (a, b):
                await session.send("Tell me a long story.")
            pieces = 0
            async for item in a:
                if item.node != SYSTEM:
                    pieces += 1
                if pieces == 5:
                    await a.barge_in("stop")
                if item.data == Text(TEXT_END):
                    break
            assert 5 <= pieces < 100
            await a.send("Tell me another one.")
            await a.finish()
            await b.finish()
            rest = [item async for item in a if item.node != SYSTEM]
            other = [item async for item in b if item.node != SYSTEM]
            assert (
                sum(item.data == Text(TEXT_END) for item in rest)
                == 1
                == sum(item.data == Text(TEXT_END) for item in other)
            )
            assert len(rest) > 3 < len(other)
            assert rest[-1].data == other[-1].data == Text(TEXT_END)
            assert pipeline.nodes["llm"]._states == {}  # both have ended

    run(main())


def test_a_model_that_is_missing_names_its_node():
    async def main():
        made = manifest({**GENERATION, "params": {"model_path": "nowhere/missing.gguf"}})
        heard = []
        with pytest.raises(NodeError, match=r"node 'llm' failed: .*missing\.gguf") as caught:
            async with Pipeline(made, on_progress=heard.append) as pipeline, pipeline.session():
                pass
        assert isinstance(caught.value.__cause__, lc.ModelNotFoundError)
        assert [news.status for news in heard][-1] == "error"

    run(main())
