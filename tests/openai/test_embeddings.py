"""`create_embedding`: the vectors are those of `embed`, in the API's shapes."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import pytest

import llamacore as lc

TEXTS = ["Hello, world!", "Goodbye, world!"]


@pytest.fixture(scope="module")
def llama(tiny_path):
    with lc.Llama(tiny_path(), n_threads=1, n_ctx=128) as llama:
        yield llama


def test_the_shape_is_that_of_the_api(llama):
    response = llama.create_embedding(TEXTS, model="mine", user="me")
    assert list(response) == ["object", "model", "data", "usage"]
    assert (response["object"], response["model"]) == ("list", "mine")
    assert [(item["object"], item["index"]) for item in response["data"]] == [("embedding", 0), ("embedding", 1)]
    np.testing.assert_allclose([item["embedding"] for item in response["data"]], llama.embed(TEXTS), atol=1e-6)
    n = sum(len(llama.tokenize(text)) for text in TEXTS)
    assert response["usage"] == {"prompt_tokens": n, "total_tokens": n}
    assert all(isinstance(number, float) for number in response["data"][0]["embedding"])


def test_one_text_and_tokens(llama):
    one = llama.create_embedding(TEXTS[0])["data"]
    assert len(one) == 1
    assert llama.create_embedding(llama.tokenize(TEXTS[0]))["data"] == one
    several = llama.create_embedding([llama.tokenize(text) for text in TEXTS])["data"]
    assert len(several) == 2


def test_base64(llama):
    numbers = llama.create_embedding(TEXTS)["data"]
    coded = llama.create_embedding(TEXTS, encoding_format="base64")["data"]
    for left, right in zip(numbers, coded, strict=True):
        np.testing.assert_array_equal(
            np.frombuffer(base64.b64decode(right["embedding"]), "<f4"), np.float32(left["embedding"])
        )


def test_fewer_dimensions(llama):
    full = np.array(llama.create_embedding(TEXTS[0])["data"][0]["embedding"])
    short = np.array(llama.create_embedding(TEXTS[0], dimensions=8)["data"][0]["embedding"])
    np.testing.assert_allclose(short, full[:8] / np.linalg.norm(full[:8]), atol=1e-6)
    with pytest.raises(lc.InvalidArgumentError, match="the model has 64"):
        llama.create_embedding(TEXTS[0], dimensions=65)


def test_async(llama):
    async def main():
        return await asyncio.gather(*(llama.acreate_embedding(text) for text in TEXTS))

    found = asyncio.run(main())
    for response, text in zip(found, TEXTS, strict=True):
        np.testing.assert_allclose(
            response["data"][0]["embedding"], llama.create_embedding(text)["data"][0]["embedding"], atol=1e-6
        )


@pytest.mark.parametrize("given", [None, [], [[]], 3, {"a": 1}, ["a", []], [10**9], "x" * 100_000])
def test_misuse(llama, given):
    with pytest.raises(lc.LlamaCoreError):
        llama.create_embedding(given)
    with pytest.raises(lc.LlamaCoreError):
        asyncio.run(llama.acreate_embedding(given))
    assert llama.create_embedding("a")["data"]


def test_a_closed_object(tiny_path):
    llama = lc.Llama(tiny_path(), n_threads=1, n_ctx=128)
    llama.close()
    with pytest.raises(lc.ClosedError):
        llama.create_embedding("a")


def test_a_model_that_only_embeds(tiny_path):
    """What most embedding models are; the arguments are those of llama-cpp-python's README."""
    with lc.Llama(model_path=str(tiny_path("bert")), embedding=True, n_threads=1) as llama:
        response = llama.create_embedding(TEXTS)
        np.testing.assert_allclose([item["embedding"] for item in response["data"]], llama.embed(TEXTS), atol=1e-6)
        for call in (llama.generate, llama.create_completion):
            with pytest.raises(lc.UnsupportedError, match="not generate text"):
                call("a")
        assert not llama.closed
    assert llama.closed
    with pytest.raises(lc.ClosedError):
        llama.create_embedding("a")
