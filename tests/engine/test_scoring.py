"""Scores: the log-probabilities of the logits, whatever way the text is cut, and upstream's own perplexity."""

from __future__ import annotations

import asyncio
import math
import random
import threading

import numpy as np
import pytest

import llamacore as lc
from llamacore.core import bulk
from llamacore.engine.scoring import Scorer

TEXT = "Once upon a time there was a little dog. The dog was very happy, and it ran to the house of its friend."


def logits_of(model: lc.Model, tokens: list[int]) -> np.ndarray:
    """Log-probabilities after each token, float64 [n, n_vocab], from the logits of one decode."""
    with model.context(n_ctx=512, n_batch=512, n_threads=1) as context:
        batch = lc.Batch(512)
        batch.add_tokens(tokens, outputs="all")
        context.decode(batch)
        rows = np.stack([context.logits(row) for row in range(len(tokens))]).astype(np.float64)
    shifted = rows - rows.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("arch", ["llama", "gemma3", "qwen35", "mamba"])
def test_scores_are_those_of_the_logits(tiny, arch):
    model = tiny(arch)
    tokens = model.vocab.tokenize("the dog and the cat were there when it was hot")
    reference = logits_of(model, tokens)
    with Scorer(model, n_threads=1) as scorer:
        score = scorer.score("the dog and the cat were there when it was hot", top_k=5)
    assert score.tokens == tuple(tokens)
    assert score.first == 1
    assert score.n_tokens == len(tokens)
    assert score.n_logprobs == len(tokens) - 1
    assert score.logprobs.dtype == np.float32
    expected = reference[np.arange(len(tokens) - 1), tokens[1:]]
    assert score.logprobs == pytest.approx(expected, abs=2e-3)
    assert score.total_logprob == pytest.approx(expected.sum(), abs=2e-2)
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-3)
    assert [len(place) for place in score.top] == [5] * (len(tokens) - 1)
    for place, row in zip(score.top, reference, strict=False):
        values = [logprob for _, logprob in place]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx(np.sort(row)[::-1][:5], abs=2e-3)
        assert [row[token] for token, _ in place] == pytest.approx(values, abs=2e-3)


def test_the_bulk_call_is_exact(tiny):
    """On the same logits: against double precision, for rows in any order, with a vocabulary that fills no block."""
    model = tiny("llama", n_vocab=1003)
    tokens = random.Random(4).choices(range(1000), k=50)
    with model.context(n_ctx=128, n_batch=64, n_threads=2) as context:
        batch = lc.Batch(64)
        batch.add_tokens(tokens, outputs="all")
        context.decode(batch)
        rows = np.array([7, 3, 3, 49, 0], dtype=np.int32)
        targets = np.array([0, 1002, 5, 9, 500], dtype=np.int32)
        logprobs, top_tokens, top_logprobs = bulk.score_rows(context, rows, targets, 1003)
        for i, row in enumerate(rows):
            logits = context.logits(int(row)).astype(np.float64)
            expected = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
            assert logprobs[i] == pytest.approx(expected[targets[i]], abs=5e-6)
            order = np.lexsort((np.arange(1003), -logits))
            assert top_tokens[i].tolist() == order.tolist()
            assert top_logprobs[i] == pytest.approx(expected[order], abs=5e-6)
            assert context.logprobs(int(row), token=int(targets[i]))[0] == pytest.approx(logprobs[i], abs=5e-6)
        assert bulk.score_rows(context, rows[:0], targets[:0])[0].shape == (0,)


def test_misuse_of_the_bulk_calls(tiny):
    model = tiny("llama")
    one = np.zeros(1, dtype=np.int32)
    with model.context(n_ctx=64, n_batch=8, n_threads=1) as context:
        batch = lc.Batch(8)
        with pytest.raises(lc.OutputError):
            bulk.score_rows(context, one, one)
        with pytest.raises(lc.OutputError):
            bulk.embedding_rows(context, 1)
        bulk.fill(batch, [np.array([1, 2, 3])], outputs=1)
        context.decode(batch)
        assert np.isfinite(bulk.score_rows(context, np.array([2]), one)[0]).all()
        for rows, targets, n_top, error in (
            ([0], [0], 0, lc.OutputError),
            ([2], [-1], 0, lc.OutOfRangeError),
            ([2], [10**6], 0, lc.OutOfRangeError),
            ([2], [1], -1, lc.OutOfRangeError),
            ([2], [1], 10**6, lc.OutOfRangeError),
            ([2, 2], [1], 0, lc.InvalidArgumentError),
            ([99], [1], 0, lc.OutputError),
        ):
            with pytest.raises(error):
                bulk.score_rows(context, np.array(rows), np.array(targets), n_top)
        with pytest.raises(lc.OutputError):
            bulk.embedding_rows(context, 3)
        for rows in (0, -1, 9):
            with pytest.raises(lc.OutOfRangeError):
                bulk.embedding_rows(context, rows)
    with pytest.raises(lc.ClosedError):
        bulk.score_rows(context, np.array([2]), one)
    with pytest.raises(lc.ClosedError):
        bulk.embedding_rows(context, 3)
    with pytest.raises(lc.OutOfRangeError):
        bulk.fill(batch, [np.arange(9)])
    with pytest.raises(lc.OutOfRangeError):
        bulk.fill(batch, [np.arange(8)], pos=2**31 - 2)
    with pytest.raises(lc.InvalidArgumentError):
        bulk.fill(lc.Batch(8, n_embd=4), [np.arange(3)])
    with pytest.raises(lc.InvalidArgumentError):
        bulk.fill(lc.Batch(8, n_seq_max=2), [np.arange(3)])
    bulk.fill(batch, [])
    assert len(batch) == 0


def test_embedding_rows_are_in_the_order_of_the_batch(tiny):
    """Upstream computes the sequences of a hybrid model one after the other; the rows come back as they were given."""
    for arch in ("llama", "qwen35", "bert"):
        with tiny(arch).context(
            n_ctx=256, n_seq_max=2, kv_unified=True, embeddings=True, pooling_type="none", n_threads=1
        ) as context:
            batch = lc.Batch(8)
            for pos in range(3):
                for seq_id in range(2):
                    batch.add(10 + pos + 5 * seq_id, pos, (seq_id,), output=True)
            context.decode(batch)
            rows = bulk.embedding_rows(context, 6)
            assert np.array_equal(rows, np.stack([context.embeddings(row) for row in range(6)]))
            assert not np.allclose(rows[0], rows[1])


@pytest.mark.parametrize("n_batch", [1, 7, 32, 512])
def test_pieces_do_not_change_a_score(demo_model, n_batch):
    with Scorer(demo_model, n_threads=1) as whole, Scorer(demo_model, n_threads=1, n_batch=n_batch) as pieces:
        expected = whole.score(TEXT, top_k=3)
        found = pieces.score(TEXT, top_k=3)
    assert found.logprobs == pytest.approx(expected.logprobs, abs=5e-2)
    assert (found.top_tokens[:, 0] == expected.top_tokens[:, 0]).mean() > 0.9


@pytest.mark.parametrize("n_batch", [5, 512])
@pytest.mark.parametrize("n_prefix", [1, 4, 5, 11])
def test_a_prefix_is_seen_and_not_scored(demo_model, n_batch, n_prefix):
    tokens = demo_model.vocab.tokenize(TEXT)
    with Scorer(demo_model, n_threads=1, n_batch=n_batch) as scorer:
        whole = scorer.score(tokens)
        rest = scorer.score(tokens[n_prefix:], prefix=tokens[:n_prefix])
        assert rest.first == n_prefix
        assert rest.tokens == whole.tokens
        assert rest.n_logprobs == len(tokens) - n_prefix
        assert rest.logprobs == pytest.approx(whole.logprobs[n_prefix - 1 :], abs=5e-2)
        one = scorer.score(tokens[n_prefix : n_prefix + 1], prefix=tokens[:n_prefix])
        assert one.logprobs == pytest.approx(whole.logprobs[n_prefix - 1 : n_prefix], abs=5e-2)
        as_text = scorer.score(" was", prefix="The dog")
        assert as_text.tokens == tuple(demo_model.vocab.tokenize("The dog") + demo_model.vocab.tokenize(" was"))
        assert as_text.first == len(demo_model.vocab.tokenize("The dog"))


@pytest.mark.parametrize("stride", [1, 7, 16, 32])
@pytest.mark.parametrize("n_prefix", [0, 3, 40])
def test_a_window_moves_over_a_long_text(tiny, stride, n_prefix):
    """Each token is scored once, in the first window that reaches it."""
    model, n_ctx = tiny("llama"), 32
    tokens = random.Random(2).choices(range(200), k=90)
    with Scorer(model, n_threads=1, n_ctx=n_ctx) as scorer, Scorer(model, n_threads=1) as alone:
        with pytest.raises(lc.InvalidArgumentError, match=r"90 tokens, and 32 are seen.*stride"):
            scorer.score(tokens)
        seen = []
        score = scorer.score(
            tokens[n_prefix:], prefix=tokens[:n_prefix], stride=stride, progress=lambda *counts: seen.append(counts)
        )
        first = max(n_prefix, 1)
        assert score.n_logprobs == 90 - first == seen[-1][0] == seen[-1][1]
        for place in range(first, 90, 5):
            windows = range(0, 90, stride)
            start = next(start for start in windows if start < place <= start + n_ctx)
            own = alone.score(tokens[place : place + 1], prefix=tokens[start:place])
            assert score.logprobs[place - first] == pytest.approx(own.logprobs[0], abs=2e-2)
        exact = scorer.score(tokens[: n_ctx + 1])  # the last token is only predicted
        assert exact.n_logprobs == n_ctx


def test_a_better_text_has_a_lower_perplexity(demo_model):
    words = TEXT.split()
    shuffled = " ".join(random.Random(1).sample(words, len(words)))
    with Scorer(demo_model, n_threads=1) as scorer:
        assert scorer.score(TEXT).perplexity * 5 < scorer.score(shuffled).perplexity


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"text": ""}, lc.InvalidArgumentError, "no token to score"),
        ({"text": []}, lc.InvalidArgumentError, "no token to score"),
        ({"text": [5]}, lc.InvalidArgumentError, "no token to score"),
        ({"text": [], "prefix": [5, 6]}, lc.InvalidArgumentError, "no token to score"),
        ({"text": None}, lc.InvalidArgumentError, "the text is NoneType"),
        ({"text": 7}, lc.InvalidArgumentError, "the text is int"),
        ({"text": ["a", "b"]}, lc.InvalidArgumentError, "the text is list"),
        ({"text": [1.5, 2]}, lc.InvalidArgumentError, "the text is list"),
        ({"text": [1, 2], "prefix": [[3]]}, lc.InvalidArgumentError, "the prefix is list"),
        ({"text": [1, 10**6]}, lc.OutOfRangeError, "token 1000000 of the text"),
        ({"text": [1, -2]}, lc.OutOfRangeError, "token -2 of the text"),
        ({"text": [1, 2], "top_k": -1}, lc.OutOfRangeError, "top_k"),
        ({"text": [1, 2], "top_k": 10**6}, lc.OutOfRangeError, "top_k"),
        ({"text": [1, 2], "top_k": "5"}, lc.OutOfRangeError, "top_k"),
        ({"text": [1, 2], "stride": 0}, lc.InvalidArgumentError, "stride"),
        ({"text": [1, 2], "stride": 10**6}, lc.InvalidArgumentError, "stride"),
        ({"text": "\ud800"}, lc.InvalidArgumentError, "surrogate"),
    ],
)
def test_what_cannot_be_scored(tiny, arguments, error, words):
    with Scorer(tiny("llama"), n_threads=1) as scorer, pytest.raises(error, match=words):
        scorer.score(**arguments)


@pytest.mark.parametrize("arch", ["bert", "t5"])
def test_models_that_predict_no_next_token(tiny, arch):
    with Scorer(tiny(arch), n_threads=1) as scorer, pytest.raises(lc.UnsupportedError, match="no next token"):
        scorer.score([5, 6, 7])


def test_values_that_are_no_numbers(tiny_path):
    import gguf

    path = tiny_path("llama", seed=78)
    reader = gguf.GGUFReader(path, "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "output_norm.weight").data[:] = np.nan
    del reader
    with (
        lc.Model.load(path) as model,
        Scorer(model, n_threads=1) as scorer,
        pytest.raises(lc.DecodeError, match="no number"),
    ):
        scorer.score([5, 6, 7], top_k=3)


def test_progress_cancel_close_and_callbacks(tiny):
    tokens = random.Random(2).choices(range(200), k=200)
    with Scorer(tiny("llama"), n_threads=1, n_batch=16) as scorer:
        with pytest.raises(lc.AbortedError):
            scorer.score(tokens, progress=lambda done, total: False)
        with pytest.raises(ZeroDivisionError):
            scorer.score(tokens, progress=lambda done, total: 1 // 0)
        with pytest.raises(lc.BusyError):
            scorer.score(tokens, progress=lambda done, total: scorer.score(tokens))
        errors: list[BaseException] = []
        begun = threading.Event()

        def work() -> None:
            try:
                scorer.score(tokens * 500, stride=1, progress=lambda done, total: begun.set())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(30)
        scorer.cancel()
        thread.join(30)
        assert [type(error) for error in errors] == [lc.AbortedError]
        assert scorer.score(tokens).n_logprobs == 199

        async def main() -> None:
            found = await asyncio.gather(scorer.ascore(tokens), scorer.ascore(tokens, top_k=2))
            assert found[0].perplexity == found[1].perplexity

        asyncio.run(main())
    with pytest.raises(lc.ClosedError):
        scorer.score(tokens)
