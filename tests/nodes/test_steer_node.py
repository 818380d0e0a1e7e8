"""`SteerNode`: what it reports, and that it really steers: against upstream's own control vectors."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import llamacore as lc
from llamacore.core.control_vector import ControlVector
from llamacore.nodes.data import TEXT_END, Json, Tensor, Text
from llamacore.nodes.ports import aux
from llamacore.nodes.steer import SteerNode
from llamacore.nodes.steer_params import SteerNodeParams
from llamacore.nodes.steer_state import steering_delta

PROMPT = "Tell me a story."
LAYER = 3


def params(**changes):
    generation = {"max_tokens": 12, "temperature": 0, "repeat_penalty": 1.0, **changes.pop("generation", {})}
    return {
        "model_path": "demo", "layer": LAYER, "layer_norm_value": 10.0, "context_size": 1024,
        "vectors": [{"label": "joy"}, {"label": "grief"}], "backend": {"threads": 1}, "generation": generation,
        **changes,
    }  # fmt: skip


def with_node(function, **changes):
    async def main():
        node = SteerNode(params(**changes))
        await node.initialize()
        try:
            return await function(node)
        finally:
            await node.cleanup()

    return asyncio.run(asyncio.wait_for(main(), 120))


def unit(seed, size=192):
    vector = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return vector / np.linalg.norm(vector)


def joy(seed=1, **metadata):
    return Tensor(unit(seed), metadata=metadata or {"emotion": "joy"})


def test_the_sum():
    """Coefficient times norm times vector, labels in order, next to nothing counts as nothing."""
    vectors = {"b": np.array([0, 1], "f4"), "a": np.array([1, 0], "f4")}
    np.testing.assert_allclose(steering_delta(vectors, {"a": 0.5, "b": 0.3}, 10.0), [5, 3], rtol=1e-6)
    assert steering_delta(vectors, {"a": 1e-8, "b": -1e-9}, 10.0) is None
    assert steering_delta(vectors, {}, 10.0) is None
    np.testing.assert_allclose(steering_delta(vectors, {"a": -1, "x": 3}, 2.0), [-2, 0])
    assert steering_delta(vectors, {"a": 1, "b": 1}, 1.0).dtype == np.float32
    with pytest.raises(lc.InvalidArgumentError, match="'b' has 3 numbers, others have 2"):
        steering_delta({**vectors, "b": np.ones(3, "f4")}, {"a": 1, "b": 1}, 10.0)


def test_the_text_is_that_of_a_control_vector_of_upstream(exact_path, exact_model):
    """Token for token what a context writes that upstream steers with the same delta, greedily."""

    async def steered(node):
        await node.process(joy())
        await node.process(Json({"coefficients": {"joy": 0.8}}))
        return (await node.process(Text(PROMPT))).value

    given = with_node(steered, model_path=str(exact_path), generation={"active_tools": []})
    with lc.Llama(exact_model, n_ctx=256, n_threads=1) as llama:
        tokens = llama.chat_prompt([{"role": "user", "content": PROMPT}], enable_thinking=False)
        plain = llama.generate(tokens, max_tokens=12, temperature=0).text
    vector = ControlVector({LAYER: unit(1) * 0.8 * 10})
    with exact_model.context(n_ctx=256, n_threads=1) as ctx:
        ctx.set_control_vector(vector)
        written, batch = [], lc.Batch(256)
        batch.add_tokens(tokens)
        for _ in range(12):
            ctx.decode(batch)
            token = int(ctx.logits(len(batch) - 1).argmax())
            if exact_model.vocab.is_eog(token):
                break
            written.append(token)
            batch.clear()
            batch.add(token, len(tokens) + len(written) - 1, output=True)
    assert given["text"].strip() == exact_model.vocab.detokenize(written).strip()
    assert given["text"].strip() != plain.strip()
    assert given["steering"] == {
        "layer": LAYER, "layer_norm": 10.0, "delta_norm": pytest.approx(8.0, rel=1e-4), "applied": True,
        "coefficients": {"grief": 0.0, "joy": 0.8}, "mode": "control_vector",
    }  # fmt: skip


def test_coefficient_zero_changes_nothing():
    async def main(node):
        before = (await node.process(Text(PROMPT))).value
        await node.process(joy())
        after = (await node.process(Text(PROMPT))).value
        await node.process(Json({"coefficients": {"joy": 1.0}}))
        steered = (await node.process(Text(PROMPT))).value
        await node.process(Json({"coefficients": {"joy": 0}}))
        assert (await node.process(Text(PROMPT))).value == after
        return before, after, steered

    before, after, steered = with_node(main)
    assert before == after
    assert before["steering"] == {
        "layer": LAYER, "layer_norm": 10.0, "delta_norm": 0.0, "applied": False,
        "coefficients": {"grief": 0.0, "joy": 0.0}, "mode": "control_vector",
    }  # fmt: skip
    assert steered["steering"]["applied"]
    assert steered["text"] != before["text"]


def test_metadata_mode_reports_and_adds_nothing():
    async def main(node):
        plain = (await node.process(Text(PROMPT))).value["text"]
        await node.process(joy())
        await node.process(Json({"coefficients": {"joy": 1.0}}))
        return plain, (await node.process(Text(PROMPT))).value

    plain, value = with_node(main, mode="metadata")
    assert value["text"] == plain
    assert value["steering"]["delta_norm"] == pytest.approx(10, rel=1e-4)
    assert (value["steering"]["applied"], value["steering"]["mode"]) == (False, "metadata")


def test_a_stream_is_text_the_sentinel_and_the_report():
    async def main(node):
        await node.process(joy())
        items = [item async for item in node.stream(Json({"prompt": PROMPT, "coefficients": {"joy": 0.5}}), "s")]
        whole = (await node.process(Json({"text": PROMPT, "coefficients": {"joy": 0.5}}))).value
        return items, whole

    items, whole = with_node(main)
    *texts, end, report = items
    assert end == Text(TEXT_END)
    assert all(isinstance(item, Text) and item.text != TEXT_END for item in texts)
    assert report.value == {"steering": whole["steering"]}
    assert "".join(item.text for item in texts) == whole["text"]


def test_vectors_are_registered_under_their_labels():
    async def main(node):
        answers = [
            await node.process(joy(metadata_first=1, emotion="joy", label="other")),
            await node.process(joy(label="calm")),
            await node.process(joy(nothing=0)),
        ]
        assert [answer.value for answer in answers] == [
            {"status": "vector_registered", "label": label} for label in ("joy", "calm", "default")
        ]
        assert set(node.steering.vectors) == {"joy", "calm", "default"}
        for wrong, said in (
            (Tensor(np.arange(192, dtype=np.int32)), "dtype i32"),
            (Tensor(np.ones(7, "f4")), "has 7 numbers"),
            (Tensor(np.full(192, np.nan, "f4")), "finite"),
            (Tensor(unit(1), metadata={"emotion": ["joy"]}), "the label"),
        ):
            with pytest.raises(lc.LlamaCoreError, match=said):
                await node.process(wrong)

    with_node(main)


def test_coefficients_are_cut_and_belong_to_their_session():
    async def main(node):
        await node.process(joy())
        for given, kept in (({"joy": 5}, 1.0), ({"joy": -5.5}, -1.0), ({"joy": 0.25}, 0.25)):
            answer = (await node.process(Json({"coefficients": given}))).value
            assert answer == {
                "status": "coefficients_updated", "session": None, "coefficients": {"grief": 0.0, "joy": kept},
            }  # fmt: skip
        # a session that nobody knows yet keeps what it is told, and begins with what was said without a session
        (answer,) = [item async for item in node.stream(Json({"coefficients": {"grief": 3, "new": 1}}), "a")]
        assert answer.value["session"] == "a"
        assert answer.value["coefficients"] == {"grief": 1.0, "joy": 0.25, "new": 1.0}
        assert answer.value["unknown"] == ["grief", "new"]
        assert await node.process_control_message(Json({"coefficients": {"joy": -1}}), "a")
        assert await node.process_control_message(aux("coefficients", {"grief": 0.5}), "a")
        assert [item async for item in node.stream(aux("coefficients", {"coefficients": {"new": 0}}), "a")] == []
        assert node.steering_of("a").coefficients == {"grief": 0.5, "joy": -1.0, "new": 0.0}
        assert node.steering_of("b").coefficients == {"grief": 0.0, "joy": 0.25} == node.steering.coefficients
        assert not await node.process_control_message(aux("nonsense"), "a")
        for wrong in ({"joy": "much"}, {"joy": float("nan")}, {"joy": None}, {"joy": True}, [1], None, "x"):
            with pytest.raises(lc.InvalidArgumentError):
                await node.process_control_message(aux("coefficients", {"coefficients": wrong}), "a")
        await node.end_session("a")
        assert node.steering_of("a").coefficients == {"grief": 0.0, "joy": 0.25}

    with_node(main)


def test_sessions_are_steered_side_by_side(exact_path):
    """Eight at once, each with its own coefficient: each writes what it writes alone."""
    coefficients = [0, 0.2, 0.4, 0.6, -0.2, -0.4, -0.6, 1.0]

    async def main(node):
        await node.process(joy())

        async def one(session, coefficient):
            asked = Json({"prompt": PROMPT, "coefficients": {"joy": coefficient}})
            items = [item async for item in node.stream(asked, session)]
            assert items[-1].value["steering"]["coefficients"]["joy"] == coefficient
            return "".join(item.text for item in items if isinstance(item, Text))

        alone = [await one(f"alone {number}", value) for number, value in enumerate(coefficients)]
        together = await asyncio.gather(*(one(f"together {i}", value) for i, value in enumerate(coefficients)))
        return alone, together

    options = {"n_parallel": 8, "max_tokens": 8, "active_tools": [], "context_size": 4096}
    alone, together = with_node(main, model_path=str(exact_path), generation=options)
    assert len(set(alone)) > 3
    assert alone == together


def test_vectors_from_files(tmp_path):
    path = ControlVector({LAYER: unit(5), 1: unit(6)}).save(tmp_path / "joy.gguf")

    async def main(node):
        np.testing.assert_allclose(node.steering.vectors["joy"], unit(5), rtol=1e-6)
        return (await node.process(Text(PROMPT))).value["steering"]

    found = with_node(main, vectors=[{"label": "joy", "path": str(path), "coefficient": 0.5}])
    assert (found["applied"], found["delta_norm"]) == (True, pytest.approx(5, rel=1e-4))

    async def never(node):
        raise AssertionError("it should not get ready")

    with pytest.raises(lc.OutOfRangeError, match="no direction for layer 2"):
        with_node(never, layer=2, vectors=[{"label": "joy", "path": str(path)}])
    with pytest.raises(lc.ModelNotFoundError):
        with_node(never, vectors=[{"label": "joy", "path": str(tmp_path / "missing.gguf")}])
    with pytest.raises(lc.OutOfRangeError, match="layer 21"):
        with_node(never, layer=21)


def test_barge_in_ends_a_turn_with_its_sentinel_and_report():
    async def main(node):
        items = []
        async for item in node.stream(Text(PROMPT), "s"):
            items.append(item)
            if len(items) == 3:
                assert await node.process_control_message(aux("barge_in"), "s")
        return items

    items = with_node(main, generation={"max_tokens": 200})
    assert len(items) < 60
    assert items[-2] == Text(TEXT_END)
    assert "steering" in items[-1].value
    assert sum(item == Text(TEXT_END) for item in items) == 1


def test_a_session_remembers_and_a_call_without_one_does_not():
    async def main(node):
        async for _ in node.stream(Text(PROMPT), "s"):
            pass
        assert len(node.generation.session("s").conversation.messages) == 2
        await node.process(Text(PROMPT))
        assert set(node._states) == {"s"} == set(node.generation._states)
        await node.end_session("s")
        assert node._states == node.generation._states == {}

    with_node(main)


def test_parameters():
    made, warnings = SteerNodeParams.read({"model_path": "m.gguf", "vectors": [{"label": "joy"}]})
    assert warnings == []
    assert (made.layer, made.layer_norm_value, made.max_coefficient, made.mode) == (21, 14.7, 1.0, "control_vector")
    assert (made.context_size, made.batch_size, made.vectors[0].coefficient) == (4096, 512, 0.0)
    assert made.generation.model_path == "m.gguf"

    made, warnings = SteerNodeParams.read({
        "model_path": "m.gguf", "n_ctx": 99, "layer_norm": 3, "system_prompt": "hi", "backend": {"threads": 2},
        "vectors": [{"label": "joy", "coefficient": 0.5, "colour": 1}],
        "generation": {"model_path": "", "top_k": 7, "nonsense": 1, "n_batch": 33}, "wrong": 1,
    })  # fmt: skip
    assert made.layer_norm_value == 3
    generation = made.generation
    assert (generation.model_path, generation.context_size, generation.batch_size) == ("m.gguf", 99, 33)
    assert (generation.top_k, generation.system_prompt, generation.backend.threads) == (7, "hi", 2)
    assert [line.split()[0] for line in sorted(warnings)] == ["generation.nonsense", "vectors[0].colour", "wrong"]
    # what the first coefficients ask for is cut as well
    node = SteerNode({"model_path": "demo", "vectors": [{"label": "joy", "coefficient": 9}], "max_coefficient": 2})
    assert node.steering.coefficients == {"joy": 2.0}
    assert SteerNodeParams("m.gguf", vectors=made.vectors).generation.model_path == "m.gguf"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_path": ""}, "model_path"),
        ({"layer": 0}, "layer=0"),
        ({"layer_norm_value": 0}, "layer_norm_value=0"),
        ({"layer_norm_value": -1}, "layer_norm_value=-1"),
        ({"max_coefficient": 0}, "max_coefficient=0"),
        ({"vectors": []}, "vectors=()"),
        ({"vectors": {"label": "joy"}}, "vectors="),
        ({"vectors": ["joy"]}, "vectors[0] is a str"),
        ({"vectors": [{"coefficient": 1}]}, "vectors[0].label"),
        ({"vectors": [{"label": "joy", "coefficient": "1"}]}, "vectors[0].coefficient"),
        ({"vectors": [{"label": "joy"}, {"label": "joy"}]}, "labels are unique"),
        ({"mode": "magic"}, "mode='magic'"),
        ({"generation": {"model_path": "other.gguf"}}, "generation.model_path='other.gguf'"),
        ({"generation": {"top_k": -1}}, "generation.top_k=-1"),
        ({"context_size": 0}, "context_size=0"),
    ],
)
def test_wrong_parameters(changes, said):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        SteerNode(params(**changes))
    assert str(caught.value).startswith("Invalid config: ")
    assert said in str(caught.value)
