"""`Llama` embeds, ranks, scores and fills gaps, beside its generating and closed with it."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

import llamacore as lc
from llamacore.engine.embedding import Embedder
from llamacore.engine.infill import InfillFile, InfillRoom
from llamacore.engine.scoring import Scorer
from llamacore.testing import tiny_lora

TEXTS = ["The dog was happy.", "A cat ran to the house.", "1 + 1 = 2"]


@pytest.fixture
def llm(demo_path):
    """The demo model."""
    with lc.Llama(demo_path, n_ctx=512, n_threads=1) as made:
        yield made


def test_embeddings_are_those_of_an_embedder(llm):
    with Embedder(llm.model, n_threads=1) as embedder:
        for options in ({}, {"pooling": "last"}, {"normalize": False}):
            assert np.allclose(llm.embed(TEXTS, **options), embedder.embed(TEXTS, **options), atol=1e-5)
        rows, expected = llm.embed(TEXTS, pooling="none"), embedder.embed(TEXTS, pooling="none")
        assert [part.shape for part in rows] == [part.shape for part in expected]
        ranked = llm.rerank("a dog", TEXTS, method="similarity", top_n=2)
        assert [result.index for result in ranked] == [
            result.index for result in embedder.rerank("a dog", TEXTS, method="similarity", top_n=2)
        ]
    assert llm.embedder is llm.embedder
    with pytest.raises(lc.UnsupportedError, match="classifier"):
        llm.rerank("a dog", TEXTS)
    with pytest.raises(lc.InvalidArgumentError, match="text 1 has no tokens"):
        llm.embed(["a", ""])


def test_scores_are_those_of_a_scorer(llm):
    with Scorer(llm.model, n_threads=1) as scorer:
        expected = scorer.score(TEXTS[0], prefix="Look: ", top_k=2)
    found = llm.score(TEXTS[0], prefix="Look: ", top_k=2)
    assert found.tokens == expected.tokens
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-3)
    assert llm.scorer is llm.scorer


def test_a_gap_is_filled(llm):
    files = [InfillFile("The dog is called Max.", "dog.txt")]
    options = {"extra": files, "repository": "stories", "filename": "b.txt", "room": InfillRoom(prefix=20)}
    prompt = llm.infill_prompt("The little ", " ran away.", **options)
    expected = llm.generate(prompt, max_tokens=8, temperature=0)
    assert llm.infill("The little ", " ran away.", max_tokens=8, temperature=0, **options).text == expected.text
    chunks = llm.stream_infill("The little ", " ran away.", max_tokens=8, temperature=0, **options)
    assert "".join(chunk.text for chunk in chunks) == expected.text
    found = asyncio.run(llm.ainfill("The little ", " ran away.", max_tokens=8, temperature=0, **options))
    assert found.text == expected.text
    with pytest.raises(lc.InvalidArgumentError):
        llm.infill("a", "b", max_token=8)


def test_a_gap_needs_tokens_for_it(tiny):
    with lc.Llama(tiny("llama", vocab="ugm"), n_threads=1) as llm:
        for call in (llm.infill, llm.stream_infill, llm.infill_prompt):
            with pytest.raises(lc.UnsupportedError, match="fill in the middle"):
                call("a", "b")


def test_everything_at_the_same_time(llm):
    """Generating, embedding and scoring in threads give what each gives alone."""
    expected_text = llm.generate("Once upon a time", max_tokens=20, temperature=0).text
    expected_vectors, expected_score = llm.embed(TEXTS), llm.score(TEXTS[0]).total_logprob
    failures: list[str] = []

    def repeat(work) -> None:
        failures.extend(repr(work) for _ in range(5) if not work())

    works = (
        lambda: llm.generate("Once upon a time", max_tokens=20, temperature=0).text == expected_text,
        lambda: np.allclose(llm.embed(TEXTS), expected_vectors, atol=1e-5),
        lambda: abs(llm.score(TEXTS[0]).total_logprob - expected_score) < 1e-3,
    )
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_async_twins(llm):
    async def main() -> None:
        vectors, ranked, score = await asyncio.gather(
            llm.aembed(TEXTS), llm.arerank("a dog", TEXTS, method="similarity"), llm.ascore(TEXTS[0])
        )
        assert np.allclose(vectors, llm.embed(TEXTS), atol=1e-5)
        assert [result.index for result in ranked] == [
            result.index for result in llm.rerank("a dog", TEXTS, method="similarity")
        ]
        assert score.total_logprob == pytest.approx(llm.score(TEXTS[0]).total_logprob, abs=1e-3)

    asyncio.run(main())


def test_closing_frees_what_it_made_and_not_the_callers_model(demo_path):
    with lc.Model.load(demo_path) as model:
        llm = lc.Llama(model, n_ctx=256, n_threads=1)
        before = len(model._children)
        llm.embed("a")
        llm.score("Once upon a time")
        assert len(model._children) == before + 2
        llm.close()
        llm.close()
        assert not model.closed
        assert [child for child in model._children if not child.closed] == []
        untouched = lc.Llama(model, n_ctx=256, n_threads=1)
        untouched.close()
        for closed in (llm, untouched):
            for call in (closed.embed, closed.score):
                with pytest.raises(lc.ClosedError):
                    call("Once upon a time")


def test_adapters_of_the_object_count(tiny_path, tmp_path):
    path = tiny_path("llama")
    with lc.Llama(path, n_threads=1) as llm:
        plain_vector, plain_score = llm.embed("the dog"), llm.score("the dog and the cat").total_logprob
        adapter = llm.load_lora(tiny_lora(tmp_path / "lora.gguf", path))
        assert not np.allclose(llm.embed("the dog"), plain_vector, atol=1e-3)
        assert llm.score("the dog and the cat").total_logprob != pytest.approx(plain_score, abs=1e-2)
        assert np.allclose(llm.embed("the dog", loras={}), plain_vector, atol=1e-5)
        assert llm.score("the dog and the cat", loras={}).total_logprob == pytest.approx(plain_score, abs=1e-3)
        llm.remove_lora(adapter)
        assert np.allclose(llm.embed("the dog"), plain_vector, atol=1e-5)


def test_a_model_that_only_embeds(tiny_path):
    """Encoders embed through `Llama` too; asked to write, they say what to do instead."""
    with lc.Llama(tiny_path("bert"), n_threads=1) as llm:
        assert llm.embed("the dog").ndim == 2
        with pytest.raises(lc.UnsupportedError, match="embed"):
            llm.generate("the dog")
    assert llm.closed
