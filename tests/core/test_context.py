"""Decoding: the same numbers however the work is cut, every refusal before the native code could assert."""

from __future__ import annotations

import itertools
import os
import threading
import time

import gguf
import numpy as np
import pytest
from decoding import DECODERS, feed, filled, words

import llamacore as lc

TOLERANCE = 2e-2  # f16 memory and other kernels for other batch sizes; the logits have a spread of about 1


@pytest.mark.parametrize("arch", DECODERS)
def test_the_same_decode_gives_the_same_bits(tiny, arch):
    """Two contexts that decode the same batch agree to the last bit."""
    logits = []
    for _ in range(2):
        with tiny(arch).context(n_ctx=256, n_threads=1) as ctx:
            logits.append(feed(ctx, words(20)))
    assert logits[0].dtype == np.float32
    assert logits[0].shape == (tiny(arch).n_vocab,)
    assert np.isfinite(logits[0]).all()
    assert logits[0].std() > 0.1
    assert np.array_equal(*logits)


@pytest.mark.parametrize("arch", DECODERS)
@pytest.mark.parametrize("cuts", [(1,), (7, 13), tuple(range(1, 40)), (39,)])
def test_a_decode_may_be_split(tiny, arch, cuts):
    """Forty tokens decoded at once or in pieces end in the same logits, on every kind of memory."""
    tokens = words(40)
    with tiny(arch).context(n_ctx=256, n_threads=1) as ctx:
        at_once = feed(ctx, tokens)
        ctx.memory.clear()
        edges = (0, *cuts, len(tokens))
        for start, end in itertools.pairwise(edges):
            in_pieces = feed(ctx, tokens[start:end])
        assert ctx.memory.seq_pos_max(0) == 39
    assert np.abs(at_once - in_pieces).max() < TOLERANCE


@pytest.mark.parametrize("arch", DECODERS)
@pytest.mark.parametrize("n_ubatch", [1, 3, 16])
def test_micro_batches_do_not_change_the_result(tiny, arch, n_ubatch):
    """Every row of a batch has the same logits whatever n_ubatch is."""
    rows = []
    for size in (64, n_ubatch):
        with tiny(arch).context(n_ctx=256, n_batch=64, n_ubatch=size, n_threads=1) as ctx:
            ctx.decode(filled(words(30), outputs="all"))
            rows.append(np.stack([ctx.logits(row) for row in range(30)]))
    assert np.abs(rows[0] - rows[1]).max() < TOLERANCE


@pytest.mark.parametrize("arch", DECODERS)
@pytest.mark.parametrize("kv_unified", [False, True])
def test_sequences_do_not_see_each_other(tiny, arch, kv_unified):
    """Three interleaved sequences in one batch each get the logits that they get alone."""
    texts = [words(12, seed) for seed in range(3)]
    with tiny(arch).context(n_ctx=256, n_threads=1) as ctx:
        alone = []
        for text in texts:
            ctx.memory.clear()
            alone.append(feed(ctx, text))
    with tiny(arch).context(n_ctx=768, n_seq_max=3, kv_unified=kv_unified, n_threads=1) as ctx:
        batch = lc.Batch(64)
        last = {}
        for pos in range(12):
            for seq_id, text in enumerate(texts):
                last[seq_id] = batch.add(text[pos], pos, (seq_id,), output=pos == 11)
        ctx.decode(batch)
        for seq_id in range(3):
            assert np.abs(ctx.logits(last[seq_id]) - alone[seq_id]).max() < TOLERANCE


@pytest.mark.parametrize("arch", DECODERS)
def test_threads_do_not_change_the_result(tiny, arch):
    """One, two or three threads, chosen at the start or changed later, compute the same."""
    with tiny(arch).context(n_ctx=256, n_threads=1) as ctx:
        expected = feed(ctx, words(20))
        for n_threads, n_threads_batch in ((2, None), (1, 3), (3, 1)):
            ctx.memory.clear()
            ctx.set_threads(n_threads, n_threads_batch)
            assert (ctx.n_threads, ctx.n_threads_batch) == (n_threads, n_threads_batch or n_threads)
            assert np.abs(feed(ctx, words(20)) - expected).max() < TOLERANCE


@pytest.mark.parametrize("arch", ["llama", "gemma3", "qwen35", "mamba"])
def test_embeddings_in_place_of_tokens(tiny, tiny_path, arch):
    """A batch of the rows of token_embd gives what the batch of tokens gives."""
    model = tiny(arch)
    reader = gguf.GGUFReader(tiny_path(arch))
    table = next(t for t in reader.tensors if t.name == "token_embd.weight").data.reshape(model.n_vocab, model.n_embd)
    scale = np.sqrt(np.float32(model.n_embd)) if arch == "gemma3" else np.float32(1)  # applied to tokens only
    tokens = words(9)
    with model.context(n_ctx=256, n_threads=1) as ctx:
        expected = feed(ctx, tokens)
        ctx.memory.clear()
        batch = lc.Batch(16, n_embd=model.n_embd_inp)
        for pos, token in enumerate(tokens):
            batch.add_embd(table[token] * scale, pos, output=pos == 8)
        ctx.decode(batch)
        assert np.abs(ctx.logits() - expected).max() < TOLERANCE


def test_mrope_positions(tiny):
    """One number stands for the same three coordinates; other coordinates give another result, and no garbage."""
    model = tiny("qwen35")
    assert model.rope_type == "imrope"
    vectors = np.random.default_rng(3).standard_normal((6, model.n_embd_inp), dtype=np.float32)
    results = {}
    for name, positions in {
        "plain": list(range(6)),
        "text": [(i, i, i, 0) for i in range(6)],
        "image": [(0, i // 3, i % 3, 0) for i in range(6)],
    }.items():
        with model.context(n_ctx=256, n_threads=1) as ctx:
            batch = lc.Batch(8, n_embd=model.n_embd_inp)
            for vector, pos in zip(vectors, positions, strict=True):
                batch.add_embd(vector, pos, output=True)
            ctx.decode(batch)
            results[name] = ctx.logits()
            assert ctx.memory.seq_pos_max(0) == (0 if name == "image" else 5)
    assert np.array_equal(results["plain"], results["text"])
    assert np.abs(results["plain"] - results["image"]).max() > 1e-3


def test_many_mrope_rows_keep_their_positions(tiny):
    """The laid-out positions live as long as the decode reads them."""
    model = tiny("qwen35")
    vectors = np.random.default_rng(3).standard_normal((200, model.n_embd_inp), dtype=np.float32)
    with model.context(n_ctx=256, n_threads=1) as ctx:
        for _ in range(5):
            ctx.memory.clear()
            batch = lc.Batch(200, n_embd=model.n_embd_inp)
            for pos, vector in enumerate(vectors):
                batch.add_embd(vector, (pos, pos, pos, 0), output=pos == 199)
            ctx.decode(batch)
            assert ctx.memory.seq_pos_max(0) == 199


def test_causal_attention_can_be_switched(tiny):
    """Without causal attention the first row sees the last one, and again not when it is switched back."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        assert ctx.causal_attn
        rows = []
        for causal in (True, False, True):
            ctx.set_causal_attn(causal)
            ctx.memory.clear()
            ctx.decode(filled(words(6), outputs="all"))
            rows.append(ctx.logits(0))
        assert not np.allclose(rows[0], rows[1], atol=1e-3)
        assert np.array_equal(rows[0], rows[2])


def test_logprobs_are_the_log_softmax(tiny):
    """Log-probabilities of a token and of the best ones are those of numpy on the logits."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        logits = feed(ctx, words(9)).astype(np.float64)
        expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        own, top = ctx.logprobs(token=17, n_top=5)
        assert own == pytest.approx(expected[17], abs=1e-5)
        assert [token for token, _ in top] == list(np.argsort(-logits, kind="stable")[:5])
        assert [value for _, value in top] == pytest.approx([expected[token] for token, _ in top], abs=1e-5)
        everything = ctx.logprobs(n_top=tiny().n_vocab)[1]
        assert sum(np.exp(value) for _, value in everything) == pytest.approx(1.0, abs=1e-4)
        assert np.isnan(ctx.logprobs()[0])


def test_outputs_are_those_that_were_marked(tiny):
    """Rows count as in the batch; negative ones count the outputs from the end; others have no logits."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        with pytest.raises(lc.OutputError):
            ctx.logits()  # nothing was decoded yet
        batch = filled(words(6), outputs="none")
        batch.outputs[[1, 4]] = 1
        ctx.decode(batch)
        assert np.array_equal(ctx.logits(-1), ctx.logits(4))
        assert np.array_equal(ctx.logits(-2), ctx.logits(1))
        for row in (0, 2, 3, 5, 6, 1000, -3, -1000, 2**31 - 1, -(2**31)):
            with pytest.raises(lc.OutputError):
                ctx.logits(row)
            with pytest.raises(lc.OutputError):
                ctx.logprobs(row)
        copy = ctx.logits(4)
        ctx.decode(filled(words(2), pos=6))
        assert not np.array_equal(copy, ctx.logits())  # a copy, not a view of what the next decode overwrites


def test_pooled_embeddings(tiny):
    """Each kind of pooling gives one vector for each sequence of the batch, mean pooling the mean of the rows."""
    model = tiny("bert")
    text, other = words(7), words(5, 1)
    with model.context(n_ctx=256, n_threads=1, embeddings=True, pooling_type="none") as ctx:
        ctx.encode(filled(text))
        rows = np.stack([ctx.embeddings(row) for row in range(7)])
        with pytest.raises(lc.OutputError):
            ctx.embeddings_seq(0)
        with pytest.raises(lc.OutputError):
            ctx.logits(0)  # upstream would hand out a buffer of zeros
    expected = {"mean": rows.mean(axis=0), "cls": rows[0], "last": rows[-1]}
    for pooling, vector in expected.items():
        with model.context(n_ctx=512, n_threads=1, embeddings=True, pooling_type=pooling, n_seq_max=2) as ctx:
            assert ctx.pooling_type == pooling
            batch = lc.Batch(16)
            batch.add_tokens(text)
            batch.add_tokens(other, seq_id=1)
            ctx.decode(batch)  # an encoder takes both verbs
            assert ctx.embeddings_seq(0).shape == (model.n_embd_out,)
            assert np.abs(ctx.embeddings_seq(0) - vector).max() < 1e-4
            assert not np.allclose(ctx.embeddings_seq(0), ctx.embeddings_seq(1), atol=1e-2)
            for refused in (lambda: ctx.embeddings_seq(2), lambda: ctx.embeddings_seq(-1), lambda: ctx.embeddings(0)):
                with pytest.raises(lc.OutputError):
                    refused()


@pytest.mark.parametrize("labels", [(), ("good", "bad", "ugly")])
def test_rank_pooling(tiny, labels):
    """A reranker has one score, a classifier as many as it has labels."""
    model = tiny("bert", pooling="rank", **({"labels": labels} if labels else {}))
    assert model.cls_labels == (list(labels) or [""])
    with model.context(n_ctx=256, n_threads=1, embeddings=True) as ctx:
        assert ctx.pooling_type == "rank"
        ctx.encode(filled(words(7)))
        assert ctx.embeddings_seq(0).shape == (max(len(labels), 1),)


def test_embeddings_of_a_decoder(tiny):
    """A language model computes embeddings when it is asked to, beside its logits, and stops when told so."""
    model = tiny()
    with model.context(n_ctx=256, n_threads=1) as ctx:
        logits = feed(ctx, words(6))
        with pytest.raises(lc.OutputError):
            ctx.embeddings(5)
        ctx.set_embeddings(True)
        with pytest.raises(lc.OutputError):
            ctx.embeddings(5)  # those of the last decode were not computed
        ctx.memory.clear()
        assert np.abs(feed(ctx, words(6)) - logits).max() < TOLERANCE
        assert ctx.embeddings(5).shape == (model.n_embd_out,)
        assert ctx.embeddings(5).std() > 0.1
        ctx.set_embeddings(False)
        feed(ctx, words(2))
        with pytest.raises(lc.OutputError):
            ctx.embeddings(1)


def test_encoder_and_decoder(tiny):
    """T5 decodes what it encoded: another input gives another output, and decoding first is refused."""
    model = tiny("t5")
    assert model.has_encoder and model.has_decoder
    with model.context(n_ctx=256, n_threads=1) as ctx:
        with pytest.raises(lc.InvalidArgumentError, match="encode"):
            ctx.decode(filled([model.decoder_start_token]))
        results = []
        for text in (words(8), words(8, 1), words(8)):
            ctx.memory.clear()
            ctx.encode(filled(text))
            with pytest.raises(lc.OutputError):
                ctx.logits(0)
            assert ctx.embeddings(0).shape == (model.n_embd_out,)
            results.append(feed(ctx, [model.decoder_start_token, 7, 8]))
            with pytest.raises(lc.OutputError):
                ctx.embeddings(0)
        assert not np.allclose(results[0], results[1], atol=1e-3)
        assert np.array_equal(results[0], results[2])


def test_an_encoder_is_not_everyones(tiny):
    """Encoding with a model that has no encoder is refused, and so is a batch in more pieces than one."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx, pytest.raises(lc.UnsupportedError):
        ctx.encode(filled(words(3)))
    for arch in ("bert", "t5"):
        with tiny(arch).context(n_ctx=256, n_batch=64, n_ubatch=4, n_threads=1, embeddings=True) as ctx:
            with pytest.raises(lc.InvalidArgumentError, match="n_ubatch"):
                ctx.encode(filled(words(5)))
            ctx.encode(filled(words(4)))


def test_learned_positions_end(tiny):
    """BERT has as many positions as it was trained with; one more would end the process in a worker thread."""
    model = tiny("bert")
    with model.context(n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=2, embeddings=True) as ctx:
        ctx.encode(filled(words(model.n_ctx_train)))
        for batch in (filled(words(model.n_ctx_train + 1)), filled([5], pos=2**31 - 1)):
            with pytest.raises(lc.OutOfRangeError, match="position"):
                ctx.encode(batch)


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({"n_batch": 4}, filled(words(5)), "n_batch"),
        ({}, lc.Batch(4), "empty"),
        ({}, filled([2**31 - 1]), "vocabulary"),
        ({}, filled([5], seq_id=1), "sequence"),
        ({}, filled([5], seq_id=2**24), "sequence"),
        ({"n_outputs_max": 2}, filled(words(3), outputs="all"), "n_outputs_max"),
        ({"n_outputs_max": 2, "embeddings": True}, filled(words(3)), "n_outputs_max"),
        ({"attention_type": "non_causal", "n_ubatch": 4}, filled(words(5)), "micro-batch"),
        ({}, lc.Batch(4, n_embd=3), "width 3"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(tiny, options, batch, message):
    """What upstream would assert on is an InvalidArgumentError, and the context goes on working."""
    with tiny().context(**{"n_ctx": 256, "n_threads": 1, **options}) as ctx:
        with pytest.raises(lc.InvalidArgumentError, match=message):
            ctx.decode(batch)
        assert ctx.memory.seq_pos_max(0) == -1
        feed(ctx, [5])


def test_a_row_of_several_sequences_needs_one_memory(tiny):
    """A shared row works in a unified memory only; elsewhere it is refused with the cure."""
    batch = lc.Batch(4, n_seq_max=2)
    batch.add(5, 0, (0, 1), output=True)
    with (
        tiny().context(n_ctx=512, n_seq_max=2, n_threads=1) as ctx,
        pytest.raises(lc.InvalidArgumentError, match="kv_unified"),
    ):
        ctx.decode(batch)
    with tiny().context(n_ctx=512, n_seq_max=2, n_threads=1, kv_unified=True) as ctx:
        ctx.decode(batch)
        assert [ctx.memory.seq_pos_max(seq_id) for seq_id in range(2)] == [0, 0]


@pytest.mark.parametrize("positions", [(0, 7), (3, 1), (5, 6)])
def test_positions_must_follow(tiny, positions):
    """Gaps, steps back and a wrong start are a DecodeError that explains itself; nothing was decoded."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        feed(ctx, words(2))
        batch = lc.Batch(4)
        for pos in positions:
            batch.add(5, pos)
        with pytest.raises(lc.DecodeError, match="positions") as caught:
            ctx.decode(batch)
        assert caught.value.code == -1
        assert caught.value.native_log
        assert ctx.memory.seq_pos_max(0) == 1
        feed(ctx, [5])


def test_an_error_carries_its_own_log_only(tiny):
    """The lines attached to the second failure are not those of the first."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        bad = filled([5], pos=9)
        feed(ctx, [5])
        logs = []
        for _ in range(2):
            with pytest.raises(lc.DecodeError) as caught:
                ctx.decode(bad)
            logs.append(caught.value.native_log)
        assert len(logs[0]) == len(logs[1])


def test_a_full_memory(tiny):
    """No room is NoKvSlotError and leaves the memory as it was; the same context goes on after removing something."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        feed(ctx, words(250))
        with pytest.raises(lc.NoKvSlotError) as caught:
            feed(ctx, words(7))
        assert caught.value.code == 1
        assert ctx.memory.seq_pos_max(0) == 249
        ctx.memory.seq_rm(0, 240, -1)
        feed(ctx, words(7))


def test_cancel_from_another_thread(tiny):
    """cancel() ends a decode that runs, forbids the next, and is taken back by resume()."""
    model = tiny()
    with model.context(n_ctx=4096, n_batch=4096, n_ubatch=64, n_threads=1) as ctx:
        batch = filled([5] * 4096)
        errors = []

        def compute():
            try:
                while True:
                    ctx.memory.clear()
                    ctx.decode(batch)
            except lc.LlamaCoreError as error:
                errors.append(error)

        thread = threading.Thread(target=compute)
        thread.start()
        time.sleep(0.2)
        started = time.monotonic()
        ctx.cancel()
        thread.join(30)
        assert not thread.is_alive()
        assert time.monotonic() - started < 10
        assert [type(error) for error in errors] == [lc.AbortedError]
        assert ctx.cancelled
        with pytest.raises(lc.AbortedError):
            ctx.decode(filled([5], pos=ctx.memory.seq_pos_max(0) + 1))
        ctx.resume()
        assert not ctx.cancelled
        ctx.memory.clear()
        feed(ctx, words(5))


def test_perf_counts_tokens(tiny):
    """Prompt tokens and single tokens are counted and timed apart, and forgotten by perf_reset()."""
    with tiny().context(n_ctx=256, n_threads=1, no_perf=False) as ctx:
        feed(ctx, words(10))
        for token in words(3):
            feed(ctx, [token])
        perf = ctx.perf()
        assert (perf.n_p_eval, perf.n_eval) == (10, 3)
        assert perf.t_p_eval_ms > 0 and perf.t_eval_ms > 0
        ctx.perf_reset()
        assert ctx.perf().n_p_eval <= 1


def test_memory_use(tiny):
    """The bytes of the model are those of its tensors; a larger context takes more."""
    model = tiny()
    sizes = []
    for n_ctx in (256, 2048):
        with model.context(n_ctx=n_ctx, n_threads=1) as ctx:
            rows = ctx.memory_use()
            assert sum(row.model for row in rows) >= model.size
            assert sum(row.compute for row in rows) > 0
            sizes.append(sum(row.context for row in rows))
    row = 2 * 2 * model.n_layer * model.n_head_kv * (model.n_embd // model.n_head)  # K and V in f16
    assert sizes == [256 * row, 2048 * row]


@pytest.mark.parametrize("arch", ["llama", "gemma3", "qwen35", "mamba", "bert", "t5"])
def test_warmup_leaves_nothing_behind(tiny, arch):
    """After a warm-up the memory, the counters and the outputs are empty and an encoder still wants its input."""
    model = tiny(arch)
    with model.context(n_ctx=256, n_threads=1, embeddings=arch == "bert") as ctx:
        ctx.warmup()
        assert ctx.memory.seq_pos_max(0) == -1
        with pytest.raises(lc.OutputError):
            ctx.logits()
        if arch == "t5":
            with pytest.raises(lc.InvalidArgumentError):
                ctx.decode(filled([5]))
        elif arch != "bert":
            feed(ctx, [5])
            with pytest.raises(lc.InvalidArgumentError):
                ctx.warmup()
            assert ctx.memory.seq_pos_max(0) == 0


def test_the_rotation_switch_belongs_to_one_context(tiny):
    """disable_attn_rot changes a context with a quantised memory and neither the environment nor the next context."""
    model = tiny(n_embd=128, n_head=2, n_head_kv=2)
    results = []
    before = os.environ.get("LLAMA_ATTN_ROT_DISABLE")
    for disable in (None, True, None):
        with model.context(n_ctx=256, type_k="q8_0", type_v="q8_0", disable_attn_rot=disable, n_threads=1) as ctx:
            results.append(feed(ctx, words(30)))
    assert os.environ.get("LLAMA_ATTN_ROT_DISABLE") == before
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])
    assert np.abs(results[0] - results[1]).max() < 0.2


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0", "Q4_1", "iq4_nl"])
def test_memory_types(tiny, kind):
    """Every type that upstream's tools accept for the memory computes, the finer ones close to f32."""
    model = tiny(n_embd=128, n_head=2, n_head_kv=2)
    with model.context(n_ctx=256, type_k="f32", type_v="f32", n_threads=1) as ctx:
        expected = feed(ctx, words(30))
    with model.context(n_ctx=256, type_k=kind, type_v=kind, n_threads=1) as ctx:
        close = np.abs(feed(ctx, words(30)) - expected).max()
    assert close < (0.05 if kind in ("f32", "f16", "bf16", "q8_0") else 3)


def test_an_mtp_context_needs_mtp_layers(tiny, tiny_path):
    """It is made for a model that has them loaded, and refused before upstream asserts otherwise."""
    with pytest.raises(lc.UnsupportedError, match="MTP"):
        tiny("qwen35").context(ctx_type="mtp")
    path = tiny_path("qwen35", n_nextn=1)
    with lc.Model.load(path) as model:  # upstream's default leaves them out
        assert model.n_layer_nextn == 1
        with pytest.raises(lc.UnsupportedError, match="load_mtp"):
            model.context(ctx_type="mtp")
    with lc.Model.load(path, load_mtp=True) as model, model.context(ctx_type="mtp", n_ctx=256) as ctx:
        assert ctx.memory.present


@pytest.mark.parametrize(
    ("arch", "options", "error"),
    [
        ("llama", {"n_ctx": 2**31 - 1}, lc.OutOfMemoryError),
        ("llama", {"n_seq_max": 257}, lc.InvalidArgumentError),
        ("llama", {"n_seq_max": 4, "n_outputs_max": 3}, lc.InvalidArgumentError),
        ("llama", {"n_threads": 513}, lc.InvalidArgumentError),
        ("llama", {"type_k": "q4_K"}, lc.InvalidArgumentError),
        ("llama", {"type_k": "nonsense"}, lc.InvalidArgumentError),
        ("llama", {"type_v": "q8_0", "flash_attn": "disabled"}, lc.ContextError),
        ("llama", {"type_k": "q8_0"}, lc.ContextError),  # heads of 16 are no whole blocks
        ("llama", {"pooling_type": "MEAN"}, lc.InvalidArgumentError),
        ("llama", {"samplers": {0: 5}}, lc.InvalidArgumentError),
        ("llama", {"samplers": [1]}, lc.InvalidArgumentError),
        ("llama", {"samplers": {1: lc.Sampler.chain()}}, lc.OutOfRangeError),
        ("llama", {"ctx_other": 5}, lc.InvalidArgumentError),
        ("llama", {"nctx": 5}, lc.InvalidArgumentError),
        ("qwen35", {"n_rs_seq": 2**31 - 1}, lc.OutOfMemoryError),
        ("qwen35", {"n_ctx": 2**31 - 1}, lc.OutOfMemoryError),
        ("qwen35", {"n_rs_seq": 3, "n_ubatch": 4}, lc.InvalidArgumentError),
        ("t5", {"n_seq_max": 2}, lc.UnsupportedError),
    ],
)
def test_a_context_that_cannot_be(tiny, arch, options, error):
    """Each impossible wish is one named error that names the wish, and no assertion of upstream."""
    with pytest.raises(error) as caught:
        tiny(arch).context(**options)
    assert "GGML_ASSERT" not in str(caught.value)
    with tiny(arch).context(n_ctx=256) as ctx:
        assert ctx.n_ctx == 256


def test_the_smallest_and_the_odd_parameters(tiny_path):
    """Extreme but possible values make contexts that work."""
    model = lc.Model.load(
        tiny_path()
    )  # of its own: a context with its own YaRN scaling changes the model's n_ctx_train
    for options in (
        {"n_ctx": 1},
        {"n_ctx": np.int64(300)},
        {"n_batch": 2**31 - 1, "n_ubatch": 2**31 - 1},
        {"n_batch": 4, "n_ubatch": 64},
        {"n_outputs_max": 2**31 - 1},
        {"rope_freq_base": 1e-30, "rope_freq_scale": 1e-30},
        {"rope_scaling_type": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": 1},
        {"n_seq_max": 256, "kv_unified": True},
        {"offload_kqv": False, "op_offload": False, "no_perf": True, "swa_full": True},
    ):
        with model.context(**{"n_ctx": 256, "n_threads": 1, **options}) as ctx:
            assert feed(ctx, [5]).shape == feed(ctx, [6]).shape == (model.n_vocab,)
    model.close()


def test_properties_tell_what_was_made(tiny):
    """The numbers of a context are upstream's, rounding included."""
    with tiny().context(n_ctx=700, n_batch=128, n_ubatch=32, n_seq_max=2, n_threads=1, n_threads_batch=2) as ctx:
        assert (ctx.n_ctx, ctx.n_ctx_seq, ctx.n_batch, ctx.n_ubatch, ctx.n_seq_max) == (1024, 512, 128, 32, 2)
        assert (ctx.n_threads, ctx.n_threads_batch, ctx.n_rs_seq, ctx.kv_unified) == (1, 2, 0, False)
        assert ctx.pooling_type == "none"
        assert repr(ctx) == "<Context n_ctx=1024 (2 sequences)>"
        ctx.synchronize()
    assert repr(ctx) == "<Context n_ctx=1024 (closed)>"
