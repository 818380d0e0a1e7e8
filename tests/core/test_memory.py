"""Editing what a context remembers, on every kind of memory."""

from __future__ import annotations

import numpy as np
import pytest
from decoding import DECODERS, feed, filled, words

import llamacore as lc

TOLERANCE = 2e-2


def span(ctx, seq_id=0):
    """First and last position of a sequence."""
    return ctx.memory.seq_pos_min(seq_id), ctx.memory.seq_pos_max(seq_id)


@pytest.fixture(params=[False, True], ids=["separate", "unified"])
def pair(request, tiny):
    """A context of the dense model with three sequences."""
    with tiny().context(n_ctx=768, n_seq_max=3, kv_unified=request.param, n_threads=1) as ctx:
        yield ctx


@pytest.mark.parametrize("arch", DECODERS)
def test_a_new_memory_is_empty_and_clear_makes_it_so_again(tiny, arch):
    """Positions are -1 before anything is decoded and after clear(), with and without zeroing the data."""
    with tiny(arch).context(n_ctx=256, n_threads=1) as ctx:
        expected = None
        for data in (True, False):
            assert span(ctx) == (-1, -1)
            logits = feed(ctx, words(9))
            assert ctx.memory.seq_pos_max(0) == 8
            assert expected is None or np.array_equal(logits, expected)
            expected = logits
            ctx.memory.clear(data=data)
        assert span(ctx) == (-1, -1)
        assert ctx.memory.present


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_removing_a_suffix_is_as_if_it_had_not_been(tiny, arch):
    """After removing the last positions other tokens can take their place."""
    with tiny(arch).context(n_ctx=256, n_threads=1) as ctx:
        expected = feed(ctx, words(20))
        ctx.memory.clear()
        feed(ctx, [*words(20)[:15], 9, 9, 9])
        assert ctx.memory.seq_rm(0, 15)
        assert ctx.memory.seq_pos_max(0) == 14
        assert np.abs(feed(ctx, words(20)[15:]) - expected).max() < TOLERANCE


@pytest.mark.parametrize("arch", ["mamba", "qwen35"])
def test_recurrent_state_has_no_parts(tiny, arch):
    """A part cannot be removed (False, nothing changes) or copied (an error); the whole can, for one and for all."""
    with tiny(arch).context(n_ctx=768, n_seq_max=3, kv_unified=True, n_threads=1) as ctx:
        memory = ctx.memory
        feed(ctx, words(9))
        feed(ctx, words(5), seq_id=1)
        assert not memory.seq_rm(0, 4)
        assert not memory.seq_rm(0, 4, 20)
        assert memory.seq_pos_max(0) == 8
        for p0, p1 in ((0, 4), (4, -1), (3, 5)):
            with pytest.raises(lc.UnsupportedError, match="recurrent"):
                memory.seq_cp(0, 2, p0, p1)
        assert memory.seq_pos_max(2) == -1
        memory.seq_cp(0, 2)
        assert memory.seq_rm(0)
        assert [memory.seq_pos_max(seq_id) for seq_id in range(3)] == [-1, 4, 8]
        assert memory.seq_rm(-1)
        assert [memory.seq_pos_max(seq_id) for seq_id in range(3)] == [-1, -1, -1]


@pytest.mark.parametrize("n_drafted", [1, 2, 3])
def test_recurrent_state_rolls_back_drafts(tiny, n_drafted):
    """With n_rs_seq snapshots all but the first token of the last decode can be taken back, once."""
    tokens = words(12)
    with tiny("qwen35").context(n_ctx=1024, n_seq_max=2, n_rs_seq=3, n_threads=1) as ctx:
        assert ctx.n_rs_seq == 3
        expected = feed(ctx, tokens)
        ctx.memory.clear()
        feed(ctx, tokens[:9])
        feed(ctx, [tokens[9], *[9] * n_drafted])
        feed(ctx, words(4), seq_id=1)
        assert not ctx.memory.seq_rm(0, 9)  # upstream would say yes and go on with another state
        assert not ctx.memory.seq_rm(0, 5)
        assert ctx.memory.seq_rm(0, 10)
        assert ctx.memory.seq_pos_max(0) == 9
        assert not ctx.memory.seq_rm(0, 9)
        with pytest.raises(lc.UnsupportedError, match="rolled back"):
            ctx.memory.seq_cp(0, 1)
        state = ctx.state.to_bytes(0)
        assert np.abs(feed(ctx, tokens[10:]) - expected).max() < 1e-4
        ctx.state.from_bytes(state, 1)
        assert np.abs(feed(ctx, tokens[10:], seq_id=1) - expected).max() < 1e-4


def test_snapshots_belong_to_one_sequence(tiny):
    """A copied or restored sequence cannot be rolled back, and neither can the one it shares its state with."""
    with tiny("qwen35").context(n_ctx=1024, n_seq_max=3, n_rs_seq=3, n_threads=1) as ctx:
        feed(ctx, words(8))
        feed(ctx, words(4))
        state = ctx.state.to_bytes(0)
        ctx.memory.seq_cp(0, 1)
        ctx.state.from_bytes(state, 2)
        assert not any(ctx.memory.seq_rm(seq_id, 10) for seq_id in range(3))
        assert [ctx.memory.seq_pos_max(seq_id) for seq_id in range(3)] == [11, 11, 11]
        feed(ctx, words(4), seq_id=1)
        assert ctx.memory.seq_rm(1, 14)
    with tiny("mamba").context(n_ctx=256, n_rs_seq=3) as ctx:
        assert ctx.n_rs_seq == 0  # upstream cannot for this architecture


def test_removing(pair):
    """Ranges are half open, -1 leaves an end open, sequence -1 means all of them."""
    for seq_id in range(3):
        feed(pair, words(10, seq_id), seq_id=seq_id)
    memory = pair.memory
    assert memory.seq_rm(0, 0, 3) and span(pair, 0) == (3, 9)
    assert memory.seq_rm(0, 8) and span(pair, 0) == (3, 7)
    assert memory.seq_rm(0, 5, 5) and memory.seq_rm(0, 100, 200) and span(pair, 0) == (3, 7)
    assert memory.seq_rm(-1, 0, 5)
    assert [span(pair, seq_id) for seq_id in range(3)] == [(5, 7), (5, 9), (5, 9)]
    assert memory.seq_rm(1) and span(pair, 1) == (-1, -1)
    assert memory.seq_rm(-1)
    assert [span(pair, seq_id) for seq_id in range(3)] == [(-1, -1)] * 3


@pytest.mark.parametrize("ends", [(-1, -1), (0, -1), (0, 10), (-1, 10), (0, 11), (0, 2**31 - 1)])
def test_copying_all(pair, ends):
    """However "all of it" is said, the copy goes on with the same logits, also when the source is then removed."""
    feed(pair, words(10))
    pair.memory.seq_cp(0, 2, *ends)
    assert span(pair, 2) == (0, 9)
    expected = feed(pair, [7])
    pair.memory.seq_rm(0)
    assert np.abs(feed(pair, [7], seq_id=2) - expected).max() < TOLERANCE


def test_copying_a_part(pair):
    """A part can be shared in a unified memory only; elsewhere it is refused and nothing happens."""
    feed(pair, words(10))
    if pair.kv_unified:
        pair.memory.seq_cp(0, 1, 2, 6)
        assert span(pair, 1) == (2, 5)
    else:
        with pytest.raises(lc.UnsupportedError, match="kv_unified"):
            pair.memory.seq_cp(0, 1, 2, 6)
        assert span(pair, 1) == (-1, -1)
    pair.memory.seq_cp(0, 0, 2, 6)
    pair.memory.seq_cp(2, 1)
    assert span(pair, 0) == (0, 9)


@pytest.mark.parametrize("arch", DECODERS)
@pytest.mark.parametrize("kv_unified", [False, True])
def test_keeping_one(tiny, arch, kv_unified):
    """seq_keep() removes the other sequences wherever they are stored."""
    with tiny(arch).context(n_ctx=768, n_seq_max=3, kv_unified=kv_unified, n_threads=1) as ctx:
        for seq_id in range(3):
            feed(ctx, words(4 + seq_id), seq_id=seq_id)
        ctx.memory.seq_keep(1)
        assert [ctx.memory.seq_pos_max(seq_id) for seq_id in range(3)] == [-1, 4, -1]
        feed(ctx, [5], seq_id=1)
        feed(ctx, [5], seq_id=0)


def test_moving_positions(pair):
    """Attention with relative positions does not notice that all of them moved; what falls below 0 is gone."""
    assert pair.memory.can_shift
    expected = feed(pair, words(12))
    pair.memory.seq_rm(0, 11)
    pair.memory.seq_add(0, 0, -1, 5)
    assert span(pair) == (5, 15)
    assert np.abs(feed(pair, words(12)[-1:]) - expected).max() < TOLERANCE
    pair.memory.seq_add(0, 0, -1, -8)
    assert span(pair) == (0, 8)
    pair.memory.seq_div(0, 0, -1, 2)
    assert span(pair) == (0, 4)
    pair.memory.seq_div(0, 0, -1, 1)
    pair.memory.seq_add(0, 3, 3, 100)
    pair.memory.seq_add(0, 0, -1, 0)
    assert span(pair) == (0, 4)


def test_moving_is_refused_where_it_cannot_be(tiny):
    """M-RoPE positions cannot move at all, a recurrent state not below 0, and none beyond what 32 bits can hold."""
    with tiny("qwen35").context(n_ctx=256, n_threads=1) as ctx:
        feed(ctx, words(4))
        assert not ctx.memory.can_shift
        for refused in (lambda: ctx.memory.seq_add(0, 0, -1, 1), lambda: ctx.memory.seq_div(0, 0, -1, 2)):
            with pytest.raises(lc.UnsupportedError):
                refused()
    with tiny("mamba").context(n_ctx=256, n_threads=1) as ctx:
        feed(ctx, words(4))
        with pytest.raises(lc.OutOfRangeError, match="below 0"):
            ctx.memory.seq_add(0, 0, -1, -4)
        ctx.memory.seq_add(0, 0, -1, 10)
        assert ctx.memory.seq_pos_max(0) == 13
        feed(ctx, [5])
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        feed(ctx, words(4))
        ctx.memory.seq_add(0, 0, -1, 2**30 - 100)
        with pytest.raises(lc.OutOfRangeError):
            ctx.memory.seq_add(0, 0, -1, 2**30 - 100)
        feed(ctx, [5])
        assert ctx.memory.seq_pos_max(0) == 2**30 - 96


def test_an_encoder_has_no_memory(tiny):
    """Every edit of a memory that does not exist is one clear error; asking for positions says that it is empty."""
    with tiny("bert").context(n_ctx=256, embeddings=True) as ctx:
        memory = ctx.memory
        assert not memory.present and not memory.can_shift and memory.seq_pos_max(0) == memory.seq_pos_min(0) == -1
        for edit in (
            memory.clear,
            lambda: memory.seq_rm(0),
            lambda: memory.seq_cp(0, 0),
            lambda: memory.seq_keep(0),
        ):
            with pytest.raises(lc.InvalidArgumentError, match="no memory"):
                edit()
        with pytest.raises(lc.UnsupportedError):
            memory.seq_add(0, 0, -1, 1)


def test_a_sliding_window_forgets(tiny):
    """With the small cache the oldest positions of a windowed model are gone, with swa_full they are kept."""
    first = {}
    for full in (False, True):
        with tiny("gemma3").context(n_ctx=512, n_batch=32, n_ubatch=32, swa_full=full, n_threads=1) as ctx:
            for start in range(0, 320, 32):
                feed(ctx, words(32, start))
            first[full] = ctx.memory.seq_pos_min(0)
            assert ctx.memory.seq_pos_max(0) == 319
    assert first[True] == 0
    assert first[False] > 0


def test_the_memory_keeps_its_context_alive(tiny):
    """A Memory that is held alone works on, because it holds the context."""
    memory = tiny().context(n_ctx=256).memory
    assert memory.seq_pos_max(0) == -1
    batch = filled([5])
    memory._context.decode(batch)
    assert memory.seq_pos_max(0) == 0
