"""Layer outputs read and changed while a context computes, by row and sequence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from decoding import DECODERS, filled, words

import llamacore as lc
from llamacore.core.control_vector import ControlVector
from llamacore.core.tap import LayerTap

N_LAYER = 4
TEXTS = {0: words(23, seed=1), 1: words(7, seed=2), 2: words(40, seed=3)}
EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "disabled", "n_threads": 1}  # rounds alike in any batch
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def model_of(tiny, arch: str) -> lc.Model:
    return tiny(arch, n_layer=N_LAYER, seed=5, **({"n_swa": 8} if arch == "gemma3" else {}))


def vector(model: lc.Model, seed: int, layers=(1, 2, 3)) -> ControlVector:
    rng = np.random.default_rng(seed)
    return ControlVector({layer: rng.normal(size=model.n_embd).astype(np.float32) for layer in layers})


def interleaved(parts: dict[int, list[int]], start: dict[int, int], outputs: str = "last") -> Iterator[tuple]:
    """Rows of several sequences, a token of each in turn: sequence, position, token, whether it is the last."""
    for i in range(max(len(part) for part in parts.values())):
        for seq_id, part in parts.items():
            if i < len(part):
                last = i == len(part) - 1
                yield seq_id, start[seq_id] + i, part[i], last or outputs == "all"


def decoded_together(ctx: lc.Context, n_chunks: int, outputs: str = "all", see=lambda rows: None) -> None:
    """Decode all texts side by side, in so many decodes; `see` is told the rows of each."""
    for chunk in range(n_chunks):
        parts, start = {}, {}
        for seq_id, text in TEXTS.items():
            cut = [len(text) * k // n_chunks for k in (chunk, chunk + 1)]
            parts[seq_id], start[seq_id] = text[cut[0] : cut[1]], cut[0]
        rows = list(interleaved(parts, start, outputs))
        batch = lc.Batch(len(rows), n_seq_max=3)
        for seq_id, pos, token, output in rows:
            batch.add(token, pos, (seq_id,), output=output)
        ctx.decode(batch)
        see(rows)


@pytest.fixture(scope="module")
def alone(tiny):
    """What each layer puts out for each text on its own, float32 [tokens, n_embd], by architecture."""
    known: dict[str, dict[tuple[int, int], np.ndarray]] = {}

    def values(arch: str) -> dict[tuple[int, int], np.ndarray]:
        if arch not in known:
            tap = LayerTap(range(N_LAYER))
            with model_of(tiny, arch).context(n_ctx=64, capture=tap, **EXACT) as ctx:
                found = {}
                for seq_id, text in TEXTS.items():
                    ctx.memory.clear()
                    ctx.decode(filled(text, outputs="all"))
                    found |= {(seq_id, layer): tap.layer(layer) for layer in range(N_LAYER)}
            known[arch] = found
        return known[arch]

    return values


@pytest.mark.parametrize("n_chunks", [1, 3])
@pytest.mark.parametrize("n_ubatch", [128, 16, 7])
@pytest.mark.parametrize("kv_unified", [True, False])
@pytest.mark.parametrize("arch", DECODERS)
def test_rows_are_those_of_the_batch(tiny, alone, arch, kv_unified, n_ubatch, n_chunks):
    """However upstream cuts and orders the batch, each row is that of its token, as if its text were alone."""
    tap = LayerTap(range(N_LAYER))
    with model_of(tiny, arch).context(
        n_ctx=384, n_seq_max=3, n_ubatch=n_ubatch, kv_unified=kv_unified, capture=tap, **EXACT
    ) as ctx:

        def see(rows):
            for layer in range(N_LAYER):
                kept = tap.read(layer)
                assert kept.rows.tolist() == list(range(len(rows)))
                assert kept.seq_ids.tolist() == [row[0] for row in rows]
                assert kept.positions.tolist() == [row[1] for row in rows]
                wanted = np.stack([alone(arch)[seq_id, layer][pos] for seq_id, pos, _, _ in rows])
                np.testing.assert_allclose(kept.values, wanted, **CLOSE)

        decoded_together(ctx, n_chunks, see=see)


@pytest.mark.parametrize("arch", DECODERS)
@pytest.mark.parametrize("mode", ["last", "first", "mean"])
def test_pooled_rows_span_decodes(tiny, alone, arch, mode):
    """One row per sequence, over chunks, micro-batches and sequences."""
    pick = {"last": lambda v: v[-1], "first": lambda v: v[0], "mean": lambda v: v.mean(0)}[mode]
    tap = LayerTap([0, 3], rows=mode)
    with model_of(tiny, arch).context(n_ctx=384, n_seq_max=3, n_ubatch=9, capture=tap, **EXACT) as ctx:
        decoded_together(ctx, 3)
        for layer in (0, 3):
            kept = tap.read(layer)
            assert kept.seq_ids.tolist() == [0, 1, 2]
            if mode != "mean":
                assert kept.positions.tolist() == [0 if mode == "first" else len(t) - 1 for t in TEXTS.values()]
            for seq_id in TEXTS:
                np.testing.assert_allclose(tap.sequence(layer, seq_id), pick(alone(arch)[seq_id, layer]), **CLOSE)
        tap.restart(1)
        assert tap.read(0).seq_ids.tolist() == [0, 2]
        tap.restart()
        with pytest.raises(lc.OutputError):
            tap.read(0)


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_of_the_last_layer_there_are_the_output_rows(tiny, alone, arch):
    """Upstream computes no others, and the tap says which they are."""
    tap = LayerTap([2, 3])
    with model_of(tiny, arch).context(n_ctx=384, n_seq_max=3, n_ubatch=16, n_threads=1, capture=tap) as ctx:

        def see(rows):
            outputs = [k for k, row in enumerate(rows) if row[3]]
            assert tap.read(2).rows.tolist() == list(range(len(rows)))
            kept = tap.read(3)
            assert kept.rows.tolist() == outputs
            wanted = np.stack([alone(arch)[rows[k][0], 3][rows[k][1]] for k in outputs])
            np.testing.assert_allclose(kept.values, wanted, rtol=1e-2, atol=1e-2)

        decoded_together(ctx, 2, outputs="last", see=see)


def test_a_decode_without_outputs_has_no_rows_of_the_last_layer(tiny):
    """The layers before have theirs."""
    tap = LayerTap([2, 3])
    with model_of(tiny, "llama").context(n_ctx=64, n_threads=1, capture=tap) as ctx:
        ctx.decode(filled(words(9), outputs="none"))
        assert (9, 64) == tap.layer(2).shape
        with pytest.raises(lc.OutputError, match="output rows"):
            tap.layer(3)


@pytest.mark.parametrize("arch", DECODERS)
def test_steering_equals_upstreams_control_vector(tiny, arch):
    """The logits are those of set_control_vector, for every layer that upstream can steer, and the layers' outputs."""
    model = model_of(tiny, arch)
    tap = LayerTap([3])
    steering = vector(model, 1)
    with model.context(n_ctx=64, n_threads=1, n_ubatch=8, capture=tap) as ctx:
        ctx.set_control_vector(steering * 0.5)
        ctx.decode(filled(TEXTS[0]))
        logits, outputs = ctx.logits(), tap.layer(3)
        ctx.set_control_vector(None)
        ctx.memory.clear()
        tap.steer(0, {steering: 0.5})
        ctx.decode(filled(TEXTS[0]))
        np.testing.assert_allclose(ctx.logits(), logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(tap.layer(3), outputs, rtol=0, atol=1e-4)
        ctx.memory.clear()
        tap.steer(0, None)
        ctx.decode(filled(TEXTS[0]))
        assert np.abs(ctx.logits() - logits).max() > 0.1


@pytest.mark.parametrize("n_ubatch", [128, 10])
@pytest.mark.parametrize("kv_unified", [True, False])
@pytest.mark.parametrize("arch", DECODERS)
def test_each_sequence_of_a_batch_is_steered_by_its_own(tiny, arch, kv_unified, n_ubatch):
    """Sequences steered differently, and one not at all, each as if alone with upstream's control vector."""
    model = model_of(tiny, arch)
    vectors = {0: vector(model, 1), 2: vector(model, 2, layers=(2,))}
    wanted = {}
    with model.context(n_ctx=64, **EXACT) as ctx:
        for seq_id, text in TEXTS.items():
            ctx.memory.clear()
            ctx.set_control_vector(vectors.get(seq_id))
            ctx.decode(filled(text))
            wanted[seq_id] = ctx.logits()
    tap = LayerTap()
    with model.context(n_ctx=384, n_seq_max=3, n_ubatch=n_ubatch, kv_unified=kv_unified, capture=tap, **EXACT) as ctx:
        for seq_id, item in vectors.items():
            tap.steer(seq_id, [(item, 1.0)])
        assert tap.steered_sequences == (0, 2)
        found = {}

        def see(rows):
            found.update({seq_id: ctx.logits(k) for k, (seq_id, *_, last) in enumerate(rows) if last})

        decoded_together(ctx, 2, outputs="last", see=see)
        for seq_id in TEXTS:
            np.testing.assert_allclose(found[seq_id], wanted[seq_id], rtol=1e-3, atol=1e-3)


def test_vectors_are_mixed_and_layer_0_is_read_only(tiny):
    """Several vectors with scales are their sum; a scale of 0 and opposite ones change nothing at all."""
    model = model_of(tiny, "llama")
    one, two = vector(model, 1), vector(model, 2, layers=(1,))
    tap = LayerTap()
    with model.context(n_ctx=64, n_threads=1, capture=tap) as ctx:

        def logits(steering):
            ctx.memory.clear()
            tap.steer(0, steering)
            ctx.decode(filled(TEXTS[1]))
            return ctx.logits()

        plain = logits(None)
        np.testing.assert_allclose(logits({one: 0.5, two: -2}), logits({one * 0.5 - two * 2: 1}), rtol=1e-5, atol=1e-5)
        for nothing in ({}, [], {one: 0}, {one: 1, -one: 1}):
            np.testing.assert_array_equal(logits(nothing), plain)
            assert tap.steered_sequences == ()
    with pytest.raises(lc.InvalidArgumentError):
        ControlVector({0: np.ones(64)})


def test_graphs_are_used_again_with_a_tap(tiny):
    """Token after token, with the tap switched off and on in between: rows and logits stay right."""
    model = model_of(tiny, "llama")
    text = TEXTS[2]
    with model.context(n_ctx=64, n_threads=1, capture=LayerTap(range(N_LAYER))) as ctx:
        ctx.decode(filled(text, outputs="all"))
        whole = ctx.params.capture.layer(2)
        logits = [ctx.logits(i) for i in range(len(text))]
    tap = LayerTap()
    with model.context(n_ctx=64, n_threads=1, n_seq_max=2, kv_unified=True, capture=tap) as ctx:
        for pos in range(len(text)):
            on = pos % 6 < 4
            if pos % 3 == 0 or on != bool(tap.captured_layers):
                tap.capture([2] if on else [])
            batch = lc.Batch(2, n_seq_max=2)
            order = (0, 1) if pos % 2 else (1, 0)
            for seq_id in order:
                batch.add(text[pos if seq_id == 0 else (pos + 1) % len(text)], pos, (seq_id,), output=True)
            ctx.decode(batch)
            row = order.index(0)
            np.testing.assert_allclose(ctx.logits(row), logits[pos], rtol=1e-2, atol=1e-2)
            if on:
                assert tap.read(2).seq_ids.tolist() == list(order)
                np.testing.assert_allclose(tap.layer(2)[row], whole[pos], rtol=1e-2, atol=1e-2)
        assert ctx.perf().n_reused > len(text) // 2


def test_a_tap_that_is_off_changes_nothing(tiny):
    """Neither before it was ever on nor after."""
    model = model_of(tiny, "llama")
    found = []
    for capture in (None, LayerTap()):
        with model.context(n_ctx=64, n_threads=1, capture=capture) as ctx:
            ctx.decode(filled(TEXTS[0]))
            found.append(ctx.logits())
            if capture is not None:
                capture.capture([1])
                capture.steer(0, {vector(model, 1): 1})
                capture.steer(0, None)
                capture.capture([])
                ctx.memory.clear()
                ctx.decode(filled(TEXTS[0]))
                found.append(ctx.logits())
                with pytest.raises(lc.OutputError):
                    capture.layer(1)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_an_encoder_is_read_and_what_names_no_layers_is_refused(tiny):
    """t5 renames its last layer, bert names none: an error before anything runs, and the context goes on."""
    tap = LayerTap()
    with tiny("bert", n_layer=N_LAYER).context(n_ctx=64, n_threads=1, embeddings=True, capture=tap) as ctx:
        assert tap.available_layers == ()
        with pytest.raises(lc.UnsupportedError, match="bert"):
            tap.capture([0])
        ctx.encode(filled(words(5)))
    with pytest.raises(lc.UnsupportedError, match="bert"):
        tiny("bert", n_layer=N_LAYER).context(n_ctx=64, embeddings=True, capture=LayerTap([0]))
    tap = LayerTap([0, 2])
    with tiny("t5", n_layer=N_LAYER).context(n_ctx=64, n_threads=1, capture=tap) as ctx:
        ctx.encode(filled(words(5), outputs="all"))
        assert (5, 64) == tap.layer(0).shape == tap.layer(2).shape
        with pytest.raises(lc.UnsupportedError, match="layer 3"):
            tap.capture([3])


def test_cancelled_half_way(tiny):
    """The rows that were computed are there, and the next decode starts anew."""
    tap = LayerTap([0])
    with model_of(tiny, "llama").context(n_ctx=64, n_threads=1, capture=tap) as ctx:
        ctx.cancel()
        with pytest.raises(lc.AbortedError):
            ctx.decode(filled(TEXTS[0]))
        ctx.resume()
        ctx.memory.clear()
        ctx.decode(filled(TEXTS[1]))
        assert tap.read(0).rows.tolist() == list(range(len(TEXTS[1])))


def test_too_many_rows_are_refused_before_anything_runs(tiny):
    """The batch is named; a shorter one is decoded."""
    model = model_of(tiny, "llama")
    tap = LayerTap([0, 1], max_bytes=2 * 4 * model.n_embd * 4)
    with model.context(n_ctx=64, n_threads=1, capture=tap) as ctx:
        with pytest.raises(lc.InvalidArgumentError, match="max_bytes"):
            ctx.decode(filled(TEXTS[0]))
        assert ctx.memory.seq_pos_max(0) == -1
        ctx.decode(filled(TEXTS[0][:4]))
        assert (4, model.n_embd) == tap.layer(1).shape
        tap.capture([0, 1], rows="mean")
        ctx.memory.clear()
        ctx.decode(filled(TEXTS[0]))


def test_a_row_of_two_sequences(tiny):
    """It counts for both, and is refused when they are steered differently."""
    model = model_of(tiny, "llama")
    tap = LayerTap([0], rows="last")
    item = vector(model, 1)
    with model.context(n_ctx=64, n_threads=1, n_seq_max=2, kv_unified=True, capture=tap) as ctx:
        batch = lc.Batch(4, n_seq_max=2)
        for pos in range(4):
            batch.add(10 + pos, pos, (1, 0), output=pos == 3)
        ctx.decode(batch)
        np.testing.assert_array_equal(tap.sequence(0, 0), tap.sequence(0, 1))
        ctx.memory.clear()
        tap.steer(0, {item: 1})
        with pytest.raises(lc.InvalidArgumentError, match="steered differently"):
            ctx.decode(batch)
        assert ctx.memory.seq_pos_max(0) == -1
        tap.steer(1, {item: 1})
        ctx.decode(batch)


def test_misuse_is_named(tiny):
    """Wrong layers, modes, sequences and vectors, two contexts, no context, closed ones: errors of ours."""
    model = model_of(tiny, "llama")
    fits = vector(model, 1)
    for bad in ([-1], ["1"], "12", 3, [1.5], None):
        with pytest.raises(lc.InvalidArgumentError):
            LayerTap(bad)
    with pytest.raises(lc.InvalidArgumentError, match="rows"):
        LayerTap([0], rows="some")
    with pytest.raises(lc.InvalidArgumentError):
        LayerTap(max_bytes=0)
    with pytest.raises(lc.OutOfRangeError, match="4 layers"):
        model.context(n_ctx=64, capture=LayerTap([4]))
    with pytest.raises(lc.InvalidArgumentError, match="capture"):
        model.context(n_ctx=64, capture="tap")
    tap = LayerTap()
    for call in (lambda: tap.capture([0]), lambda: tap.steer(0, {fits: 1})):
        with pytest.raises(lc.ClosedError, match="no context"):
            call()
    with pytest.raises(lc.OutputError):
        tap.read(0)
    ctx = model.context(n_ctx=64, n_threads=1, capture=tap)
    with pytest.raises(lc.BusyError, match="another context"):
        model.context(n_ctx=64, capture=tap)
    for seq_id in (1, 2**40, -1, "0", None):
        with pytest.raises((lc.OutOfRangeError, lc.InvalidArgumentError)):
            tap.steer(seq_id, {fits: 1})
    for wrong in ({"x": 1}, {fits: float("nan")}, [fits], 5, {fits: None}):
        with pytest.raises(lc.InvalidArgumentError):
            tap.steer(0, wrong)
    with pytest.raises(lc.AdapterError, match="numbers"):
        tap.steer(0, {ControlVector({1: np.ones(8)}): 1})
    with pytest.raises(lc.AdapterError, match="layers"):
        tap.steer(0, {ControlVector({4: np.ones(model.n_embd)}): 1})
    with pytest.raises(lc.OutOfRangeError):
        tap.capture([99])
    assert tap.captured_layers == () and tap.steered_sequences == ()
    with pytest.raises(lc.BusyError, match="used by"):
        tap.close()
    ctx.close()
    for call in (lambda: tap.capture([0]), lambda: tap.steer(0, None)):
        with pytest.raises(lc.ClosedError):
            call()
    tap.close()
    tap.close()
    for call in (lambda: tap.read(0), lambda: tap.restart(), lambda: tap.capture([0])):
        with pytest.raises(lc.ClosedError):
            call()
    assert "closed" in repr(tap)


def test_a_context_that_is_dropped_takes_the_tap_along(tiny):
    """Nothing of it is touched any more."""
    tap = LayerTap()
    ctx = model_of(tiny, "llama").context(n_ctx=64, n_threads=1, capture=tap)
    ctx.decode(filled(words(3)))
    del ctx
    with pytest.raises(lc.ClosedError, match="gone"):
        tap.steer(0, None)
    tap.close()


def test_a_tap_in_use_is_busy(tiny):
    """While its context computes nobody switches it, and nobody reads it while it is switched; later it works."""
    model = model_of(tiny, "llama")
    tap = LayerTap()
    with model.context(n_ctx=64, n_threads=1, capture=tap) as ctx:
        with ctx._held():
            for call in (lambda: tap.capture([0]), lambda: tap.steer(0, {vector(model, 1): 1})):
                with pytest.raises(lc.BusyError):
                    call()
        with tap._held():
            for call in (lambda: tap.read(0), lambda: tap.capture([0]), lambda: ctx.decode(filled(words(3)))):
                with pytest.raises((lc.BusyError, lc.OutputError)):
                    call()
        tap.capture([0])
        ctx.decode(filled(words(3)))
        assert (3, model.n_embd) == tap.layer(0).shape


def test_settings_that_make_new_graphs_keep_the_tap(tiny):
    """Adapters, attention and embeddings make upstream build its scheduler and graphs anew."""
    model = model_of(tiny, "llama")
    tap = LayerTap([1, 3])
    with model.context(n_ctx=64, n_threads=1, capture=tap) as ctx:
        for change in (
            lambda: ctx.set_control_vector(vector(model, 1)),
            lambda: ctx.set_control_vector(None),
            lambda: ctx.set_embeddings(True),
            lambda: ctx.set_causal_attn(False),
            lambda: ctx.set_causal_attn(True),
            lambda: ctx.set_threads(1),
            lambda: ctx.set_embeddings(False),
        ):
            change()
            ctx.memory.clear()
            ctx.decode(filled(words(6), outputs="all"))
            assert tap.read(1).rows.tolist() == tap.read(3).rows.tolist() == list(range(6))


def test_a_shifted_memory_is_no_batch(tiny):
    """The graph that moves positions has no rows of a batch, and the decode after it has its own."""
    model = model_of(tiny, "llama")
    tap = LayerTap([1])
    with model.context(n_ctx=64, n_threads=1, capture=tap) as ctx:
        ctx.decode(filled(words(20)))
        ctx.memory.seq_rm(0, 2, 6)
        ctx.memory.seq_add(0, 6, -1, -4)
        ctx.decode(filled(words(5, seed=4), pos=16))
        kept = tap.read(1)
        assert kept.positions.tolist() == list(range(16, 21)) and kept.rows.tolist() == list(range(5))


def test_a_context_that_refuses_its_layers_leaves_nothing(tiny):
    """The tap can be closed, and so can the model, while the error is still at hand."""
    model, tap = model_of(tiny, "llama"), LayerTap([99])
    with pytest.raises(lc.OutOfRangeError) as caught:
        model.context(n_ctx=64, n_threads=1, capture=tap)
    assert caught.value.__traceback__ is not None
    tap.close()
    with model.context(n_ctx=64, n_threads=1, capture=LayerTap([1])) as ctx:
        ctx.decode(filled(words(3)))
