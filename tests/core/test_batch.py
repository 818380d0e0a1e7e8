"""Filling batches."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from decoding import feed, filled, words

import llamacore as lc


def test_rows_are_what_was_added():
    """Tokens, positions, sequences and flags come back as views of the right types."""
    batch = lc.Batch(8, n_seq_max=3)
    assert len(batch) == 0 and repr(batch) == "<Batch 0 of 8 rows>"
    assert batch.add(7, 3, (2, 0), output=True) == 0
    assert batch.add(np.int32(8), np.int64(4)) == 1
    assert batch.add_tokens([1, 2, 3], pos=10, seq_id=1) == range(2, 5)
    assert batch.add_tokens([]) == range(5, 5)
    assert batch.tokens.tolist() == [7, 8, 1, 2, 3] and batch.tokens.dtype == np.int32
    assert batch.pos.tolist() == [3, 4, 10, 11, 12] and batch.pos.dtype == np.int32
    assert batch.outputs.tolist() == [1, 0, 0, 0, 1] and batch.outputs.dtype == np.int8
    assert [batch.seq_ids(row) for row in range(5)] == [(2, 0), (0,), (1,), (1,), (1,)]
    batch.clear()
    assert len(batch) == 0 and batch.tokens.size == 0


@pytest.mark.parametrize(("outputs", "flags"), [("none", [0, 0, 0]), ("last", [0, 0, 1]), ("all", [1, 1, 1])])
def test_which_rows_are_outputs(outputs, flags):
    """The three words mean what they say."""
    assert filled([1, 2, 3], outputs=outputs).outputs.tolist() == flags


def test_embeddings():
    """Rows of floats are copied in, their four positions kept beside the first."""
    batch = lc.Batch(4, n_embd=3)
    assert batch.add_embd([1, 2, 3], 5, output=True) == 0
    assert batch.add_embd(np.array([4, 5, 6], dtype=np.float64), np.int64(6)) == 1
    assert batch.add_embd(np.array([7, 8, 9], dtype=np.float32), (7, 1, 2, 0)) == 2
    assert batch.embd.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]] and batch.embd.dtype == np.float32
    assert batch.pos.tolist() == [5, 6, 7]
    batch.embd[0] = 0
    assert batch.embd[0].tolist() == [0, 0, 0]


def test_a_refused_row_changes_nothing():
    """After an error the batch is as it was, whichever row of several was refused."""
    batch = lc.Batch(4)
    batch.add(1, 0)
    for refused in (
        lambda: batch.add_tokens([2, 3, -1], pos=1),
        lambda: batch.add_tokens([2, 3, 4, 5], pos=1),
        lambda: batch.add_tokens([2, 3], pos=2**31 - 2 + 1),
        lambda: batch.add(2, -1),
        lambda: batch.add(2, 1, (0, 1)),
        lambda: batch.add(2, 1, ()),
        lambda: batch.add_tokens([2], outputs="some"),
    ):
        with pytest.raises(lc.LlamaCoreError):
            refused()
        assert len(batch) == 1 and batch.tokens.tolist() == [1]


def test_views_outlive_the_batch():
    """A view stays valid when the batch is gone, because it holds the memory."""
    batch = filled(words(64))
    view = batch.tokens
    del batch
    gc.collect()
    assert view.tolist() == words(64)


def test_what_was_written_through_a_view_is_checked(tiny):
    """Numbers put in behind the batch's back are refused by the decode."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        for write in (
            lambda batch: batch.tokens.__setitem__(1, 10**9),
            lambda batch: batch.tokens.__setitem__(1, -1),
            lambda batch: batch.pos.__setitem__(1, -7),
        ):
            batch = filled(words(4))
            write(batch)
            with pytest.raises(lc.InvalidArgumentError):
                ctx.decode(batch)
        feed(ctx, words(4))


def test_sizes_have_limits():
    """A size that no machine can hold is one error at once."""
    for options in (
        {"n_tokens": 2**31 - 1},
        {"n_tokens": 2**20, "n_seq_max": 2**20},
        {"n_tokens": 2**24, "n_embd": 2**24},
    ):
        with pytest.raises((lc.InvalidArgumentError, lc.OutOfMemoryError)):
            lc.Batch(**options)
    assert lc.Batch(np.int64(3)).capacity == 3


def test_advance_moves_every_row_on():
    """Each row becomes another token one position further; nothing else changes, and wrong input is refused."""
    batch = lc.Batch(4)
    batch.add(5, 7, (0,), True)
    batch.add(6, 9, (0,), False)
    batch.advance([15, 16])
    assert ([15, 16], [8, 10], [1, 0]) == (batch.tokens.tolist(), batch.pos.tolist(), batch.outputs.tolist())
    for wrong in ([1], [1, 2, 3]):
        with pytest.raises(lc.InvalidArgumentError):
            batch.advance(wrong)
    with pytest.raises(lc.OutOfRangeError):
        batch.advance([2**40, 1])
    with pytest.raises(lc.InvalidArgumentError):
        lc.Batch(2, n_embd=8).advance([])
