"""`ActivationNode` against what upstream's graph holds, on the demo model."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import llamacore as lc
from llamacore.core.capture import TensorCapture
from llamacore.nodes.activation import ActivationNode, ActivationNodeParams
from llamacore.nodes.data import Binary, Json, Tensor, Text

TEXT = "Once upon a time there lived a little bear in a green valley."
ROWS = {"last_token": lambda rows: rows[-1], "first_token": lambda rows: rows[0], "mean": lambda rows: rows.mean(0)}


def params(**changes):
    return {"model_path": "demo", "layers": [3], "context_size": 256, "backend": {"threads": 1}, **changes}


def read(node_params, *inputs):
    """The tensors of each input."""

    async def main():
        node = ActivationNode(node_params)
        await node.initialize()

        async def all_of(data):
            return [item async for item in node.stream(data)]

        try:
            return [await all_of(data) for data in inputs]
        finally:
            await node.cleanup()

    return asyncio.run(asyncio.wait_for(main(), 60))


def true_rows(model, tokens, layers):
    """Output of layers for each token, in one decode with all rows as outputs."""
    with (
        TensorCapture.for_layers(*layers) as capture,
        model.context(n_ctx=256, n_batch=256, n_threads=1, capture=capture) as ctx,
    ):
        batch = lc.Batch(256)
        batch.add_tokens(tokens, outputs="all")
        ctx.decode(batch)
        return {layer: capture.get_layer(layer) for layer in layers}


@pytest.mark.parametrize("pooling", ROWS)
@pytest.mark.parametrize("batch_size", [512, 5])
def test_values_are_those_of_the_graph(demo_model, pooling, batch_size):
    """For the layers in the order they were asked for, the last one included, in one batch or in many."""
    last = demo_model.n_layer - 1
    layers = [last, 1, 0]
    (tensors,) = read(
        params(layers=layers, pooling=pooling, normalize=False, batch_size=batch_size), Json({"prompt": TEXT})
    )
    rows = true_rows(demo_model, demo_model.vocab.tokenize(TEXT), layers)
    assert [tensor.metadata["layer"] for tensor in tensors] == layers
    for tensor in tensors:
        wanted = ROWS[pooling](rows[tensor.metadata["layer"]])
        assert (tensor.shape, tensor.dtype) == ((demo_model.n_embd,), "f32")
        # batches of other sizes round quantised activations elsewhere
        np.testing.assert_allclose(tensor.array, wanted, atol=0.02 * np.abs(wanted).max(), rtol=0)
        assert tensor.metadata == {
            "model": "demo", "layer": tensor.metadata["layer"], "hidden_size": demo_model.n_embd, "pooling": pooling,
            "normalized": False, "raw_norm": pytest.approx(np.linalg.norm(tensor.array), rel=1e-5),
        }  # fmt: skip


def test_texts_do_not_see_one_another():
    one, other, again = read(params(), Text(TEXT), Text("He was sad."), Text(TEXT))
    np.testing.assert_array_equal(one[0].array, again[0].array)
    assert not np.allclose(one[0].array, other[0].array, atol=0.05)


def test_normalised_vectors_say_how_long_they_were():
    ((raw,),) = read(params(normalize=False), Text(TEXT))
    ((unit,),) = read(params(), Text(TEXT))
    assert np.linalg.norm(unit.array) == pytest.approx(1, rel=1e-5)
    assert unit.metadata["normalized"] is True
    assert unit.metadata["raw_norm"] == pytest.approx(np.linalg.norm(raw.array), rel=1e-5)
    np.testing.assert_allclose(unit.array * unit.metadata["raw_norm"], raw.array, rtol=1e-4, atol=1e-5)


def test_emotion_goes_along():
    (with_it,), (without,) = read(params(), Json({"text": TEXT, "emotion": "joy"}), Json({"text": TEXT}))
    assert with_it.metadata["emotion"] == "joy"
    assert "emotion" not in without.metadata


def test_a_system_prompt_puts_the_text_into_the_chat_template():
    (plain,), (chat,), (other,) = (
        read(params(system_prompt=prompt), Text(TEXT))[0] for prompt in (None, "You are kind.", "You are cross.")
    )
    assert not np.allclose(plain.array, chat.array, atol=0.05)
    assert not np.array_equal(chat.array, other.array)


def test_process_returns_the_first_layer():
    async def main():
        node = ActivationNode(params(layers=[4, 2]))
        assert (node.node_type, node.status) == ("LlamaCppActivationNode", "idle")
        with pytest.raises(lc.ClosedError, match="worker not running"):
            await node.process(Text(TEXT))
        await node.initialize()
        with pytest.raises(lc.InvalidArgumentError, match="initialize"):
            await node.initialize()
        tensor = await node.process(Text(TEXT))
        assert isinstance(tensor, Tensor)
        assert tensor.metadata["layer"] == 4
        for wrong, said in (
            (Binary(b"x"), "accepts Text or Json, got binary"),
            (Text(""), "empty"),
            (Text("word " * 400), "a text of"),
        ):
            with pytest.raises(lc.InvalidArgumentError, match=said):
                await node.process(wrong)
        assert (await node.process(Text(TEXT))).data == tensor.data
        await node.cleanup()
        await node.cleanup()
        with pytest.raises(lc.ClosedError, match="worker not running"):
            await node.process(Text(TEXT))

    asyncio.run(main())


def test_cancelling_ends_the_computation_and_the_node_goes_on():
    async def main():
        node = ActivationNode(params(context_size=4096, batch_size=16))
        await node.initialize()
        wanted = (await node.process(Text(TEXT))).data
        for seconds in (0, 0.001, 0.05):
            task = asyncio.ensure_future(node.process(Text("a b c " * 600)))
            await asyncio.sleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        several = await asyncio.gather(*(node.process(Text(TEXT)) for _ in range(4)))
        assert {tensor.data for tensor in several} == {wanted}
        await node.cleanup()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_layer_that_is_not_there_is_an_error_before_anything_runs():
    async def main():
        node = ActivationNode(params(layers=[1, 99]))
        heard = []
        from llamacore.nodes.node import NodeContext

        with pytest.raises(lc.OutOfRangeError, match="layer 99"):
            await node.initialize(NodeContext("act", on_progress=heard.append))
        assert node.status == "error"
        assert [news.status for news in heard] == ["loading_model", "error"]
        await node.cleanup()

    asyncio.run(main())


def test_defaults_and_aliases():
    made, warnings = ActivationNodeParams.read({"model_path": "x", "n_ctx": 7, "n_batch": 3, "colour": "red"})
    assert (made.context_size, made.batch_size, made.layers, made.pooling) == (7, 3, (21,), "last_token")
    assert (made.normalize, made.system_prompt, made.backend.gpu_offload) == (True, None, "none")
    assert len(warnings) == 1
    assert "colour" in warnings[0]
    made, _ = ActivationNodeParams.read({"model_path": "x"})
    assert (made.context_size, made.batch_size) == (4096, 512)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_path": ""}, "model_path"),
        ({"context_size": 0}, "context_size=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"layers": []}, "layers=[]"),
        ({"layers": 21}, "layers=21"),
        ({"layers": [-1]}, "layers=-1"),
        ({"layers": [1.5]}, "layers=1.5"),
        ({"layers": [2, 2]}, "layers=[2, 2]"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"pooling": ["mean"]}, "pooling="),
        ({"normalize": 1}, "normalize=1"),
        ({"system_prompt": 3}, "system_prompt=3"),
        ({"backend": 3}, "backend=3"),
    ],
)
def test_wrong_parameters(changes, said):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        ActivationNode(params(**changes))
    assert str(caught.value).startswith("Invalid config: ")
    assert said in str(caught.value)
