"""Tensors read out of the graph, and the other inner values of a decode."""

import numpy as np
import pytest

import llamacore as lc
from llamacore.testing import tiny_model

TOKENS = list(range(5, 25))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("capture") / "llama.gguf"
    tiny_model(path, arch="llama", n_layer=3, seed=1)
    with lc.Model.load(path) as model:
        yield model


def decoded(ctx, tokens=TOKENS, outputs="all"):
    """Decode the tokens in batches that fit the context."""
    for start in range(0, len(tokens), ctx.n_batch):
        batch = lc.Batch(ctx.n_batch)
        batch.add_tokens(tokens[start : start + ctx.n_batch], start, outputs=outputs)
        ctx.decode(batch)


def captured(model, capture, **options):
    """What a capture holds after one decode of all tokens."""
    with model.context(n_ctx=64, n_threads=1, capture=capture, **options) as ctx:
        decoded(ctx)
        return {name: capture.get(name) for name in capture}


def test_layers_have_a_row_per_token(model):
    """Each layer that was asked for is there, float32 [tokens, n_embd], and no other."""
    values = captured(model, lc.TensorCapture.for_layers(0, 2))
    assert ["l_out-0", "l_out-2"] == sorted(values)
    assert {(len(TOKENS), model.n_embd)} == {value.shape for value in values.values()}
    assert all(value.dtype == np.float32 and np.isfinite(value).all() and value.any() for value in values.values())


def test_micro_batches_add_up(model):
    """A decode in several micro-batches yields the same rows as one in a single piece."""
    whole = captured(model, lc.TensorCapture.for_layers(1), n_ubatch=64)["l_out-1"]
    pieces = captured(model, lc.TensorCapture.for_layers(1), n_ubatch=6)["l_out-1"]
    np.testing.assert_allclose(pieces, whole, rtol=1e-4, atol=1e-5)


def test_the_next_decode_overwrites(model):
    """After another decode only its values are there."""
    capture = lc.TensorCapture.for_layers(0)
    with model.context(n_ctx=64, n_threads=1, capture=capture) as ctx:
        decoded(ctx)
        decoded_once = capture.get_layer(0)
        ctx.memory.clear()
        decoded(ctx, TOKENS[:3])
        np.testing.assert_allclose(capture.get_layer(0), decoded_once[:3], rtol=1e-4, atol=1e-5)
        capture.clear()
        assert [] == capture.names()


def test_a_capture_changes_no_logits(model):
    """Cutting the graph for a capture leaves the results as they are."""
    logits = []
    for capture in (None, lc.TensorCapture.all()):
        with model.context(n_ctx=64, n_threads=1, capture=capture) as ctx:
            decoded(ctx)
            logits.append(ctx.logits(-1))
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)


def test_prefix_and_names(model):
    """Tensors are chosen by prefix or exact name; what the graph does not have is an error when it is read."""
    assert {"Qcur-0", "Qcur-1", "Qcur-2"} <= set(captured(model, lc.TensorCapture.for_prefix("Qcur")))
    capture = lc.TensorCapture.for_names("result_norm", "no_such_tensor")
    assert ["result_norm"] == list(captured(model, capture))
    with pytest.raises(lc.OutputError, match="no_such_tensor"):
        capture.get("no_such_tensor")


def test_a_capture_that_grows_too_large_fails_that_decode_only(model):
    """More than max_bytes is an error that names the limit; the context goes on with less."""
    capture = lc.TensorCapture.for_layers(0, max_bytes=4 * model.n_embd * 4)
    with model.context(n_ctx=64, n_threads=1, capture=capture) as ctx:
        with pytest.raises(lc.DecodeError, match="max_bytes"):
            decoded(ctx)
        ctx.memory.clear()
        decoded(ctx, TOKENS[:3])
        assert (3, model.n_embd) == capture.get_layer(0).shape


def test_misuse_is_named(model):
    """Wrong layers, two contexts, closing early, reading after close: errors of ours."""
    with pytest.raises(lc.OutOfRangeError):
        lc.TensorCapture.for_layers()
    with pytest.raises(lc.OutOfRangeError):
        lc.TensorCapture.for_layers(-1)
    with pytest.raises(lc.InvalidArgumentError):
        lc.TensorCapture.for_layers(0, max_bytes=0)
    with pytest.raises(lc.OutOfRangeError, match="3 layers"):
        model.context(n_ctx=64, capture=lc.TensorCapture.for_layers(3))
    capture = lc.TensorCapture.for_layers(0)
    ctx = model.context(n_ctx=64, capture=capture)
    with pytest.raises(lc.BusyError, match="another context"):
        model.context(n_ctx=64, capture=capture)
    with pytest.raises(lc.BusyError, match="used by"):
        capture.close()
    ctx.close()
    capture.close()
    capture.close()
    for call in (capture.names, capture.clear, lambda: capture.get("x")):
        with pytest.raises(lc.ClosedError):
            call()


def test_layer_inputs_are_the_outputs_before(model):
    """The input of a layer is the output of the one below it, for every row of the batch."""
    capture = lc.TensorCapture.for_layers(0)
    with model.context(n_ctx=64, n_threads=1, n_ubatch=8, capture=capture) as ctx:
        with pytest.raises(lc.OutputError, match="before the decode"):
            ctx.embeddings_layer_inp(1)
        ctx.set_embeddings_layer_inp(1, True)
        with pytest.raises(lc.OutputError):
            ctx.embeddings_layer_inp(1)
        decoded(ctx, outputs="last")
        np.testing.assert_array_equal(capture.get_layer(0), ctx.embeddings_layer_inp(1))
        ctx.set_embeddings_layer_inp(1, False)
        with pytest.raises(lc.OutputError):
            ctx.embeddings_layer_inp(1)
        for layer in (-1, 4, 2**40):
            with pytest.raises(lc.OutOfRangeError):
                ctx.set_embeddings_layer_inp(layer, True)


def test_layer_inputs_where_the_architecture_has_none(tmp_path):
    """An architecture without them is refused at once, and the context goes on."""
    tiny_model(tmp_path / "mamba.gguf", arch="mamba")
    with lc.Model.load(tmp_path / "mamba.gguf") as model, model.context(n_ctx=64, n_threads=1) as ctx:
        with pytest.raises(lc.InvalidArgumentError, match="does not offer"):
            ctx.set_embeddings_layer_inp(1, True)
        decoded(ctx)
        assert np.isfinite(ctx.logits(-1)).all()


def test_nextn_embeddings_of_the_demo_model(demo_model, model):
    """The hidden state that MTP reads: masked rows by default, all rows unmasked, refused without MTP layers."""
    tokens = demo_model.vocab.tokenize("Once upon a time")
    with demo_model.context(n_ctx=256, n_threads=1) as ctx:
        with pytest.raises(lc.OutputError):
            ctx.embeddings_nextn()
        ctx.set_embeddings_nextn(True)
        decoded(ctx, tokens, outputs="last")
        last = ctx.embeddings_nextn(-1)
        ctx.set_embeddings_nextn(True, masked=False)
        ctx.memory.clear()
        decoded(ctx, tokens, outputs="last")
        np.testing.assert_allclose(ctx.embeddings_nextn(len(tokens) - 1), last, rtol=1e-4, atol=1e-5)
        assert (demo_model.n_embd_out,) == last.shape
        with pytest.raises(lc.OutputError):
            ctx.embeddings_nextn(len(tokens) + 1000)
    with model.context(n_ctx=64) as ctx, pytest.raises(lc.UnsupportedError, match="MTP"):
        ctx.set_embeddings_nextn(True)


def test_what_a_sampler_in_the_graph_left(model):
    """Candidates, logits and probabilities of a chain that the back end runs; an error where none ran."""
    chain = lc.Sampler.chain(lc.Sampler.top_k(5), lc.Sampler.dist(1))
    with model.context(n_ctx=64, n_threads=1, samplers={0: chain}) as ctx:
        decoded(ctx, outputs="last")
        found = ctx.sampled(-1)
        assert found.token in found.candidates
        assert 5 == len(found.candidates) == len(found.probs)
        assert np.isclose(found.probs.sum(), 1, atol=1e-4)
        assert found.token == chain.sample(ctx, -1)
    with model.context(n_ctx=64, n_threads=1) as ctx:
        decoded(ctx)
        with pytest.raises(lc.OutputError, match="no sampler"):
            ctx.sampled(-1)
