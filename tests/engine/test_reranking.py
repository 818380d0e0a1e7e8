"""Ranking: the prompt that upstream writes, its scores, the best first."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import llamacore as lc
from llamacore.engine.embedding import Embedder, RerankResult
from llamacore.engine.embedding.lane import Lane
from llamacore.engine.embedding.ranking import RankPrompt
from llamacore.engine.exclusive import Turn
from llamacore.testing.vocabularies import WORDS

TOLERANCE = 2e-3  # flash attention rounds to half precision, and small batches take other kernels than large ones
DOCUMENTS = ["many people", "the dog ran", "the cat ran", "a" * 30, "", "the cat ran"]


@pytest.fixture
def reranker(tiny):
    """An embedder of a tiny reranker."""
    with Embedder(tiny("bert", pooling="rank"), n_threads=1) as made:
        yield made


def native_scores(model: lc.Model, prompts: list[list[int]]) -> list[float]:
    """What upstream's own ranking context says of each prompt alone."""
    scores = []
    with model.context(n_ctx=512, embeddings=True, pooling_type="rank", n_threads=1) as context:
        for prompt in prompts:
            batch = lc.Batch(512)
            batch.add_tokens(prompt, outputs="all")
            if not model.vocab.add_sep:
                context.memory.clear()
            context.decode(batch)
            scores.append(float(context.embeddings_seq(0)[0]))
    return scores


def test_scores_are_upstreams_and_the_best_comes_first(tiny, reranker):
    model = tiny("bert", pooling="rank")
    vocab = model.vocab
    query = vocab.tokenize("the cat", add_special=False)
    prompts = [[vocab.bos, *query, vocab.sep, *vocab.tokenize(document, add_special=False)] for document in DOCUMENTS]
    expected = native_scores(model, prompts)
    results = reranker.rerank("the cat", DOCUMENTS)
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result.index for result in results) == list(range(6))
    for result in results:
        assert isinstance(result, RerankResult)
        assert result.document == DOCUMENTS[result.index]
        assert result.score == pytest.approx(expected[result.index], abs=TOLERANCE)
    assert len({round(result.score, 2) for result in results}) > 3
    best = reranker.rerank("the cat", DOCUMENTS, top_n=2)
    assert [result.index for result in best] == [result.index for result in results[:2]]
    assert reranker.rerank("the cat", []) == []
    assert len(reranker.rerank("the cat", DOCUMENTS, top_n=100)) == 6


def test_a_classifier_ranks_by_its_first_label(tiny):
    model = tiny("bert", pooling="rank", labels=["yes", "no", "maybe"])
    with Embedder(model, n_threads=1) as embedder:
        results = embedder.rerank("the cat", DOCUMENTS[:3])
    prompts = [RankPrompt(model, "the cat", 512).tokens(text, "", False).tolist() for text in DOCUMENTS[:3]]
    expected = native_scores(model, prompts)
    assert {result.index: pytest.approx(result.score, abs=TOLERANCE) for result in results} == dict(enumerate(expected))


def test_many_documents_are_packed(reranker):
    documents = [" ".join(WORDS[i : i + 1 + i % 13]) for i in range(80)]
    alone = [reranker.rerank("the cat", [document])[0].score for document in documents]
    seen = []
    together = reranker.rerank("the cat", documents, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (80, 80)
    assert 2 < len(seen) < 40
    for result in together:
        assert result.score == pytest.approx(alone[result.index], abs=TOLERANCE)


TEMPLATE = "<|im_start|>query: {query}<|im_end|>document: {document}<|im_end|>"


def test_a_template_of_the_model_writes_the_prompt(tiny):
    model = tiny("llama", metadata={"tokenizer.chat_template.rerank": TEMPLATE})
    vocab = model.vocab
    prompt = RankPrompt(model, "a cat", 512)
    assert prompt.tokens("it", "", False).tolist() == vocab.tokenize(
        "<|im_start|>query: a cat<|im_end|>document: it<|im_end|>", add_special=False, parse_special=True
    )
    plain = vocab.tokenize("<|im_end|>", add_special=False)
    found = RankPrompt(model, "{document}<|im_end|>", 512).tokens("{query}", "", False).tolist()
    assert vocab.detokenize(found) == TEMPLATE.format(query="{document}<|im_end|>", document="{query}")
    assert found.count(vocab.eos) == 2, "a control token that a user wrote counts"
    assert len(plain) > 1
    long_document = " ".join(WORDS)
    for truncate, kept in (("end", WORDS[0]), ("start", WORDS[-1])):
        cut = RankPrompt(model, "a cat", 64).tokens(long_document, "", truncate).tolist()
        assert 50 <= len(cut) <= 64
        assert kept in vocab.detokenize(cut)
        assert vocab.detokenize(cut).endswith("<|im_end|>")


def test_too_long_is_refused_or_cut_as_asked(tiny):
    model = tiny("bert", pooling="rank")
    long_document = " ".join(WORDS[:80])
    with Embedder(model, n_ctx=40, n_threads=1) as embedder:
        with pytest.raises(lc.InvalidArgumentError, match=r"document 1 .*limit is 40"):
            embedder.rerank("the cat", ["short", long_document])
        tokens = model.vocab.tokenize(long_document, add_special=False)
        for truncate, part in (("end", slice(None, None)), ("start", slice(-1000, None))):
            prompt = RankPrompt(model, "the cat", 40).tokens(long_document, "", truncate).tolist()
            assert len(prompt) == 40
            around = len(prompt) - 40 + len(RankPrompt(model, "the cat", 40).tokens("", "", False))
            kept = tokens[part][: 40 - around] if truncate == "end" else tokens[-(40 - around) :]
            assert prompt[-len(kept) :] == kept
            assert embedder.rerank("the cat", [long_document], truncate=truncate)[0].score == pytest.approx(
                native_scores(model, [prompt])[0], abs=TOLERANCE
            )
        with pytest.raises(lc.InvalidArgumentError, match="query alone"):
            embedder.rerank(long_document, ["a"], truncate="end")


@pytest.mark.parametrize("arch", ["bert", "llama", "qwen35"])
def test_a_model_without_a_classifier_ranks_by_similarity_when_asked(tiny, arch):
    with Embedder(tiny(arch), n_threads=1) as embedder:
        with pytest.raises(lc.UnsupportedError, match=r"no classifier.*similarity"):
            embedder.rerank("the cat", DOCUMENTS[:3])
        results = embedder.rerank("the cat", ["many people", "the cat", "he was"], method="similarity")
        assert results[0].document == "the cat"
        assert results[0].score == pytest.approx(1, abs=1e-5)
        assert results[0].score >= results[1].score >= results[2].score


def test_a_file_that_only_says_that_it_ranks(tiny):
    model = tiny("llama", metadata={"llama.pooling_type": 4})
    with Embedder(model, n_threads=1) as embedder, pytest.raises(lc.UnsupportedError, match="no classifier"):
        embedder.rerank("the cat", DOCUMENTS[:3])


def test_a_causal_model_ranks_a_long_text_in_parts(tiny):
    """What is pooled for ranking is the last token's, however the text was cut."""
    model, tokens = tiny("llama"), np.arange(10, 160, dtype=np.int32)
    found = []
    for n_batch in (16, 512):
        lane, turn = Lane(model, lc.ContextParams(n_batch=n_batch, n_threads=1), "rank", 512), Turn()
        lane.prepare(len(tokens))
        if n_batch == 16:
            assert list(lane.compute_parts(turn, tokens)) == [16] * 9 + [6]
        else:
            lane.compute(turn, [tokens])
        found.append(float(lane.scores(1)[0, 0]))
        lane.close()
    assert found[0] == pytest.approx(found[1], abs=TOLERANCE)


def test_similarity_works_with_a_reranker_too(reranker):
    assert reranker.rerank("the cat", ["a", "the cat"], method="similarity")[0].index == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (None, ["a"]),
        (b"the cat", ["a"]),
        ("q", "a document"),
        ("q", b"a document"),
        ("q", None),
        ("q", 7),
        ("q", ["a", None]),
        ("q", ["a", b"b"]),
        ("q", ["\ud800"]),
        ("\ud800", ["a"]),
    ],
)
def test_what_is_no_query_or_document(reranker, arguments):
    with pytest.raises(lc.InvalidArgumentError):
        reranker.rerank(*arguments)


@pytest.mark.parametrize("options", [{"top_n": 0}, {"top_n": "2"}, {"method": "cosine"}, {"truncate": "middle"}])
def test_wrong_options(reranker, options):
    with pytest.raises(lc.InvalidArgumentError):
        reranker.rerank("q", ["a"], **options)


def test_async_twin(reranker):
    expected = reranker.rerank("the cat", DOCUMENTS)

    async def main() -> None:
        for found in await asyncio.gather(*(reranker.arerank("the cat", DOCUMENTS) for _ in range(5))):
            assert found == expected
        with pytest.raises(lc.AbortedError):
            await reranker.arerank("the cat", DOCUMENTS, progress=lambda done, total: False)

    asyncio.run(main())
    reranker.close()
    with pytest.raises(lc.ClosedError):
        reranker.rerank("q", ["a"])
