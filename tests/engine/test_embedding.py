"""Embeddings: packed or alone the same, pooled as asked, as upstream pools; every refusal says which text and why."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import numpy as np
import pytest

import llamacore as lc
from llamacore.engine.embedding import Embedder
from llamacore.engine.embedding.packing import pack
from llamacore.testing import tiny_lora
from llamacore.testing.vocabularies import WORDS

ARCHITECTURES = ("llama", "gemma3", "qwen35", "mamba", "bert", "t5")
POOLINGS = ("mean", "last", "first")


def some_texts(n: int = 30, longest: int = 40, seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, longest))) for _ in range(n)]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.fixture
def embedder(tiny):
    """An embedder of a tiny bert model."""
    with Embedder(tiny("bert"), n_threads=1) as made:
        yield made


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_packed_texts_are_as_texts_alone(tiny, arch):
    texts = some_texts()
    with Embedder(tiny(arch), n_threads=1) as embedder:
        for pooling in POOLINGS:
            together = embedder.embed(texts, pooling=pooling)
            alone = np.concatenate([embedder.embed(text, pooling=pooling) for text in texts])
            assert together.dtype == np.float32
            assert together.shape == (len(texts), tiny(arch).n_embd_out)
            assert cosines(together, alone).min() > 1 - 1e-5
            assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
            if pooling != "first":  # where a model puts a token before every text, that is all the first one knows
                assert cosines(together[:1], together[1:]).min() < 0.99, "all texts have the same embedding"


def test_the_demo_model_embeds(demo_model):
    """A hybrid memory: upstream computes its sequences one after the other."""
    texts = ["The dog was happy.", "A dog is glad.", "1 + 1 = 2", ""]
    with Embedder(demo_model, n_threads=1) as embedder:
        vectors = embedder.embed(texts[:3])
        alone = np.concatenate([embedder.embed(text) for text in texts[:3]])
        assert cosines(vectors, alone).min() > 1 - 1e-5
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


@pytest.mark.parametrize("arch", ["bert", "llama", "gemma3"])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_pooling_is_upstreams(tiny, arch, pooling):
    """The same as a context of upstream's that pools by itself, whatever the model file says."""
    model, texts = tiny(arch), some_texts(5)
    with Embedder(model, n_threads=1) as embedder:
        ours = embedder.embed(texts, pooling=pooling, normalize=False)
    with model.context(
        n_ctx=512, n_seq_max=8, kv_unified=True, embeddings=True, pooling_type=pooling, n_threads=1
    ) as context:
        batch = lc.Batch(512)
        for seq_id, text in enumerate(texts):
            batch.add_tokens(model.vocab.tokenize(text), seq_id=seq_id, outputs="all")
        context.decode(batch)
        theirs = np.stack([context.embeddings_seq(seq_id) for seq_id in range(5)])
    assert np.abs(ours - theirs).max() < 2e-3 * np.abs(theirs).max()
    assert cosines(ours, theirs).min() > 1 - 1e-5


@pytest.mark.parametrize(
    ("own", "meant"), [("mean", "mean"), ("cls", "first"), ("last", "last"), ("none", "mean"), ("rank", None)]
)
def test_the_model_says_how_to_pool_unless_the_caller_does(tiny, own, meant):
    model, texts = tiny("bert", pooling=own), some_texts(3)
    with Embedder(model, n_threads=1) as embedder, Embedder(model, n_threads=1, pooling="last") as set_to_last:
        if meant is None:
            with pytest.raises(lc.UnsupportedError, match="rerank"):
                embedder.embed(texts)
        else:
            assert np.array_equal(embedder.embed(texts), embedder.embed(texts, pooling=meant))
        assert np.array_equal(set_to_last.embed(texts), embedder.embed(texts, pooling="last"))
        assert not np.allclose(set_to_last.embed(texts), set_to_last.embed(texts, pooling="mean"))
        assert np.array_equal(embedder.embed(texts, pooling="cls"), embedder.embed(texts, pooling="first"))


def test_without_pooling_there_is_a_vector_for_each_token(tiny):
    texts = some_texts(20)
    for arch in ("bert", "qwen35"):
        with Embedder(tiny(arch), n_threads=1) as embedder:
            rows = embedder.embed(texts, pooling="none", normalize=False)
            assert [len(part) for part in rows] == [len(embedder.tokenize(text)) for text in texts]
            means = np.stack([part.mean(axis=0) for part in rows])
            assert cosines(means, embedder.embed(texts, pooling="mean", normalize=False)).min() > 1 - 1e-5
            assert np.array_equal(embedder.embed(texts, pooling="none", normalize=False)[3], rows[3])
            unit = embedder.embed(texts, pooling="none")[0]
            assert np.linalg.norm(unit, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("arch", ["llama", "qwen35", "bert"])
@pytest.mark.parametrize("pooling", [*POOLINGS, "none"])
def test_long_texts_are_as_good_as_in_one_piece(tiny, arch, pooling):
    """A text longer than a batch: cut into parts where attention is causal, else the context grows."""
    texts = [some_texts(1, 1)[0], " ".join(random.Random(3).choices(WORDS, k=200)), *some_texts(3)]
    with (
        Embedder(tiny(arch), n_threads=1, n_batch=32) as small,
        Embedder(tiny(arch), n_threads=1, n_batch=512) as large,
    ):
        assert len(small.tokenize(texts[1])) > 200
        for one, other in zip(small.embed(texts, pooling=pooling), large.embed(texts, pooling=pooling), strict=True):
            assert one.shape == other.shape
            assert cosines(one, other).min() > 1 - 1e-4


def test_the_context_grows_and_order_is_kept(embedder):
    texts = [*some_texts(10), " ".join(WORDS[:90] * 3), *some_texts(10, seed=2)]
    first = embedder.embed(texts[:3])
    everything = embedder.embed(texts)
    assert cosines(everything[:3], first).min() > 1 - 1e-5
    assert cosines(everything[10:11], embedder.embed(texts[10])).min() > 1 - 1e-5
    assert cosines(embedder.embed(texts[::-1])[::-1], everything).min() > 1 - 1e-5


def test_what_counts_as_texts(embedder):
    tokens = embedder.tokenize("the dog")
    expected = embedder.embed(["the dog"])
    for given in (
        "the dog",
        b"the dog",
        tokens,
        [tokens],
        np.array(tokens),
        (text for text in ["the dog"]),
        ("the dog",),
    ):
        assert np.allclose(embedder.embed(given), expected, atol=1e-6)
    assert embedder.embed([]).shape == (0, 64)
    assert embedder.embed([], pooling="none") == []
    assert embedder.embed([""]).shape == (1, 64)  # this model puts CLS and SEP around it


def test_control_tokens_in_a_text_are_text(tiny):
    with Embedder(tiny("llama"), n_threads=1) as embedder:
        assert len(embedder.tokenize("<|im_start|>")) > 1


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (["a", ""], lc.InvalidArgumentError, "text 1 has no tokens"),
        (["a", []], lc.InvalidArgumentError, "text 1 has no tokens"),
        (["a", None], lc.InvalidArgumentError, "text 1 is NoneType"),
        (["a", 1.5], lc.InvalidArgumentError, "text 1 is float"),
        (["a", [1.5]], lc.InvalidArgumentError, "text 1 is list"),
        (["a", [[1], [2]]], lc.InvalidArgumentError, "text 1 is list"),
        (["a", [1, "b"]], lc.InvalidArgumentError, "text 1"),
        (["a", [True, False]], lc.InvalidArgumentError, "text 1"),
        ([[1, 10**6]], lc.OutOfRangeError, "token 1000000 of text 0"),
        ([[1, -1]], lc.OutOfRangeError, "token -1 of text 0"),
        ([[1, 2**70]], (lc.OutOfRangeError, lc.InvalidArgumentError), "text 0"),
        (None, lc.InvalidArgumentError, "NoneType is no text"),
        (7, lc.InvalidArgumentError, "int is no text"),
        (["a", "\ud800"], lc.InvalidArgumentError, "lone surrogate"),
    ],
)
def test_what_is_no_text(tiny, texts, error, words):
    with Embedder(tiny("llama"), n_threads=1) as embedder, pytest.raises(error, match=words):
        embedder.embed(texts)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "max"},
        {"pooling": "rank"},
        {"pooling": 1},
        {"truncate": True},
        {"truncate": "middle"},
        {"truncate": None},
    ],
)
def test_wrong_options(embedder, options):
    with pytest.raises(lc.InvalidArgumentError):
        embedder.embed("a", **options)


def test_wrong_settings(tiny):
    for options in ({"n_ctx": -1}, {"n_batch": 0}, {"n_threads": 0}, {"pooling": "none"}, {"pooling": "x"}):
        with pytest.raises(lc.InvalidArgumentError):
            Embedder(tiny("bert"), **options)


@pytest.mark.parametrize("arch", ["bert", "llama", "qwen35"])
def test_too_long_is_refused_or_cut_as_asked(tiny, arch):
    words = WORDS[:80]
    long_text = " ".join(words)
    with Embedder(tiny(arch), n_ctx=64, n_threads=1) as embedder:
        tokens = embedder.tokenize(long_text)
        assert len(tokens) > 64
        with pytest.raises(lc.InvalidArgumentError, match=rf"text 1 \('the of.*{len(tokens)} tokens, the limit is 64"):
            embedder.embed(["short", long_text])
        with pytest.raises(lc.InvalidArgumentError, match="the limit is 64"):
            embedder.embed(long_text, truncate=0)  # another way to write False
        around = arch == "bert"
        end = [*tokens[:63], tokens[-1]] if around else tokens[:64]
        start = [tokens[0], *tokens[-63:]] if around else tokens[-64:]
        assert np.allclose(embedder.embed(long_text, truncate="end"), embedder.embed([end]), atol=1e-5)
        assert np.allclose(embedder.embed(long_text, truncate="start"), embedder.embed([start]), atol=1e-5)
        assert not np.allclose(embedder.embed([end]), embedder.embed([start]), atol=1e-3)
        assert np.allclose(embedder.embed([tokens], truncate="end"), embedder.embed([tokens[:64]]), atol=1e-5)


def test_values_that_are_no_numbers(tiny_path):
    import gguf

    path = tiny_path("llama", seed=77)
    reader = gguf.GGUFReader(path, "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "output_norm.weight").data[:] = np.nan
    del reader
    with lc.Model.load(path) as model, Embedder(model, n_threads=1) as embedder:
        for pooling in (*POOLINGS, "none"):
            with pytest.raises(lc.DecodeError, match="NaN or infinite values for text 0"):
                embedder.embed(["a"], pooling=pooling)


def test_progress_counts_and_cancels(tiny):
    with Embedder(tiny("bert"), n_threads=1, n_batch=16) as embedder:
        seen: list[tuple[int, int]] = []
        texts = some_texts(20)
        embedder.embed(texts, progress=lambda done, total: seen.append((done, total)))
        assert [total for _, total in seen] == [20] * len(seen)
        done = [count for count, _ in seen]
        assert done == sorted(done)
        assert done[-1] == 20
        assert len(done) > 5
        with pytest.raises(lc.AbortedError):
            embedder.embed(texts, progress=lambda done, total: done < 5)
        with pytest.raises(ZeroDivisionError):
            embedder.embed(texts, progress=lambda done, total: 1 // 0)
        with pytest.raises(lc.BusyError):
            embedder.embed(texts, progress=lambda done, total: embedder.embed("a"))
        with pytest.raises(lc.BusyError):
            embedder.embed(texts, progress=lambda done, total: embedder.close())
        assert embedder.embed(texts).shape == (20, 64)


def test_calls_of_many_threads_wait_for_their_turn(embedder):
    texts = [some_texts(8, seed=seed) for seed in range(8)]
    expected = [embedder.embed(part) for part in texts]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = embedder.embed(texts[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert np.array_equal(found[number], expected[number])


def busy_in_thread(embedder: Embedder, errors: list[BaseException]) -> threading.Thread:
    """A thread that embeds for long; returns once it has begun."""
    begun = threading.Event()

    def work() -> None:
        try:
            embedder.embed(some_texts(5000), progress=lambda done, total: begun.set())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(30)
    return thread


def test_cancel_ends_the_running_call_only(embedder):
    errors: list[BaseException] = []
    thread = busy_in_thread(embedder, errors)
    embedder.cancel()
    thread.join(30)
    assert [type(error) for error in errors] == [lc.AbortedError]
    embedder.cancel()  # nothing runs: nothing happens
    assert embedder.embed("a").shape == (1, 64)


@pytest.mark.parametrize("what", ["embedder", "model"])
def test_close_ends_a_running_call(tiny_path, what):
    model = lc.Model.load(tiny_path("bert"))
    embedder = Embedder(model, n_threads=1)
    errors: list[BaseException] = []
    thread = busy_in_thread(embedder, errors)
    (model if what == "model" else embedder).close()
    thread.join(30)
    assert [type(error) for error in errors] == [lc.ClosedError]
    assert embedder.closed
    with pytest.raises(lc.ClosedError):
        embedder.embed("a")
    embedder.close()
    embedder.close()
    model.close()


def test_async_twins(tiny):
    async def main(embedder: Embedder) -> None:
        expected = embedder.embed(["a", "the dog"])
        found = await asyncio.gather(*(embedder.aembed(["a", "the dog"]) for _ in range(20)))
        for one in found:
            assert np.array_equal(one, expected)
        long_call = asyncio.create_task(embedder.aembed(some_texts(5000)))
        queued = asyncio.create_task(embedder.aembed(["a", "the dog"]))
        await asyncio.sleep(0.2)
        started = time.monotonic()
        long_call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long_call
        assert np.array_equal(await queued, expected)
        assert time.monotonic() - started < 5
        with pytest.raises(lc.InvalidArgumentError):
            await embedder.aembed([""], truncate="no")

    with Embedder(tiny("bert"), n_threads=1) as embedder:
        asyncio.run(main(embedder))


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_adapters_change_one_call_and_can_be_closed_after_it(tiny_path, tmp_path, arch):
    path = tiny_path(arch)
    adapter_path = tiny_lora(tmp_path / "lora.gguf", path)
    with lc.Model.load(path) as model, Embedder(model, n_threads=1) as embedder:
        adapter = lc.LoraAdapter.load(model, adapter_path)
        plain = embedder.embed(["the dog", "a cat"])
        adapted = embedder.embed(["the dog", "a cat"], loras={adapter: 1.0})
        assert cosines(plain, adapted).max() < 0.999
        assert np.array_equal(embedder.embed(["the dog", "a cat"]), plain)
        assert np.array_equal(embedder.embed(["the dog", "a cat"], loras={adapter: 0.0}), plain)
        long_text = " ".join(WORDS)
        assert cosines(embedder.embed(long_text), embedder.embed(long_text, loras={adapter: 1.0})).max() < 0.999
        with pytest.raises(lc.InvalidArgumentError):
            embedder.embed("a", loras=[adapter])
        with pytest.raises(lc.InvalidArgumentError):
            embedder.embed("a", loras={"adapter": 1.0})
        with pytest.raises(ZeroDivisionError):
            embedder.embed(["a"], loras={adapter: 1.0}, progress=lambda done, total: 1 // 0)
        adapter.close()
        with pytest.raises(lc.ClosedError):
            embedder.embed("a", loras={adapter: 1.0})
        assert np.array_equal(embedder.embed(["the dog", "a cat"]), plain)
        with lc.Model.load(path) as other, pytest.raises(lc.AdapterError):
            embedder.embed("a", loras={lc.LoraAdapter.load(other, adapter_path): 1.0})


def test_a_model_without_weights(tiny_path):
    with (
        lc.Model.load(tiny_path("bert"), vocab_only=True) as model,
        pytest.raises(lc.UnsupportedError, match="weights"),
    ):
        Embedder(model)


def test_nothing_is_left_when_it_is_dropped(tiny_path):
    with lc.Model.load(tiny_path("bert")) as model:
        embedder = Embedder(model, n_threads=1)
        embedder.embed("a")
        assert len(model._children) == 1
        del embedder
        assert len(model._children) == 0


def test_packs_hold_every_text_once_and_are_full():
    generator = random.Random(5)
    for _ in range(50):
        lengths = [generator.randint(1, 60) for _ in range(generator.randint(0, 200))]
        room, most = generator.randint(1, 128), generator.randint(1, 40)
        packs = pack(lengths, room, most)
        assert sorted(item for group in packs for item in group.items) == list(range(len(lengths)))
        for group in packs:
            assert group.n_tokens == sum(lengths[item] for item in group.items)
            assert len(group.items) <= most
            assert group.n_tokens <= room or len(group.items) == 1
            assert lengths[group.items[0]] == max(lengths[item] for item in group.items)
    full = pack([generator.randint(1, 30) for _ in range(1000)], 128, 128)
    assert sum(group.n_tokens for group in full) > 0.97 * 128 * len(full)
