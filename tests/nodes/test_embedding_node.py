"""`EmbeddingNode` on the demo model."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scripted import run, running, turn

import llamacore as lc
from llamacore.errors import ClosedError, InvalidArgumentError, ModelNotFoundError
from llamacore.nodes import Binary, Json, NodeContext, Progress, Tensor, Text
from llamacore.nodes.embedding import EmbeddingNode

TEXT = "The rain did not want to stop."
POOLINGS = {"mean": "mean", "last_token": "last", "first_token": "first", "cls": "first"}


def node(**params: Any) -> EmbeddingNode:
    return EmbeddingNode({"model_path": "demo", "backend": {"threads": 1}, **params})


async def embedded(data: Any = TEXT, **params: Any) -> Tensor:
    async with running(node(**params)) as made:
        found = await made.process(Text(data) if isinstance(data, str) else data)
        assert isinstance(found, Tensor)
        return found


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_pooling_is_honoured(pooling: str, normalize: bool, demo_model: lc.Model):
    found = run(lambda: embedded(pooling=pooling, normalize=normalize))
    assert (found.shape, found.dtype) == ((demo_model.n_embd,), "f32")
    assert found.metadata == {"model": "demo", "pooling": pooling, "normalized": normalize}
    with lc.Embedder(demo_model, n_threads=1) as embedder:
        expected = embedder.embed(TEXT, pooling=POOLINGS[pooling], normalize=normalize)[0]
    assert np.allclose(found.array, expected, rtol=1e-4, atol=1e-5)
    assert (abs(np.linalg.norm(found.array) - 1) < 1e-5) == normalize


def test_poolings_differ():
    found = [run(lambda pooling=pooling: embedded(pooling=pooling)).array for pooling in ("mean", "last_token", "cls")]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(found, 2))


def test_what_is_embedded_can_be_json():
    async def main() -> None:
        async with running(node()) as made:
            expected = await made.process(Text(TEXT))
            for data in (Json({"text": TEXT, "prompt": "x"}), Json({"prompt": TEXT})):
                assert (await made.process(data)).array == pytest.approx(expected.array)
            odd = Json([TEXT])
            assert (await made.process(odd)).array == pytest.approx((await made.process(Text(odd.as_text))).array)
            assert [envelope async for envelope in made.stream(Text(TEXT), "s")] == [expected]
            for wrong in (Text(""), Binary(b"a")):
                with pytest.raises(InvalidArgumentError):
                    await made.process(wrong)

    run(main)


def test_a_text_longer_than_a_batch_is_computed_in_parts_and_one_too_long_is_refused():
    async def main() -> None:
        long = TEXT * 20
        small, large = await embedded(long, batch_size=32), await embedded(long, batch_size=512)
        assert np.allclose(small.array, large.array, atol=2e-2)
        with pytest.raises(InvalidArgumentError, match="64"):
            await embedded(long, context_size=64)

    run(main)


def test_its_life():
    async def main() -> None:
        told: list[Progress] = []
        made = node()
        with pytest.raises(ClosedError, match="worker not running"):
            await turn(made, TEXT)
        await made.initialize(NodeContext("embed", on_progress=told.append))
        with pytest.raises(InvalidArgumentError):
            await made.initialize()
        await made.cleanup()
        await made.cleanup()
        with pytest.raises(ClosedError, match="stopped"):
            await made.process(Text(TEXT))
        missing = node(model_path="/no/such.gguf")
        with pytest.raises(ModelNotFoundError):
            await missing.initialize(NodeContext("missing", on_progress=told.append))
        assert [(news.node, news.status) for news in told] == [
            ("embed", "loading_model"), ("embed", "ready"), ("missing", "loading_model"), ("missing", "error"),
        ]  # fmt: skip

    run(main)
