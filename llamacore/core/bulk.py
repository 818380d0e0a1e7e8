"""Many rows of a batch at a time: filling it, reading its embeddings, scoring it; a loop in Python is too slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import BusyError, InvalidArgumentError, NativeError, OutOfRangeError, OutputError
from ._native import ffi, lib
from ._status import raise_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .batch import Batch
    from .context import Context


def fill(batch: Batch, texts: Sequence[NDArray[np.int32]], *, pos: int = 0, outputs: int | None = None) -> None:
    """Make a batch hold these texts and nothing else: the first is sequence 0, the next one sequence 1, and so on.

    Args:
        batch: A batch of tokens with one sequence per row.
        texts: Token ids, int32 [n] each; whether they are in the vocabulary is checked at the decode.
        pos: Position of the first token of each.
        outputs: How many rows at the end are output rows; None for all.

    Raises:
        OutOfRangeError: They do not fit into the batch.
        InvalidArgumentError: The batch is one for embeddings, or rows of it may belong to several sequences.
        BusyError: Another thread is decoding it.
    """
    if batch._decoding:
        raise BusyError("this Batch is being decoded by another thread", hint="give each thread its own")
    if batch.n_embd or batch.n_seq_max != 1:
        raise InvalidArgumentError("this batch cannot be filled with texts", hint="make a plain Batch(n_tokens)")
    lengths = [len(text) for text in texts]
    rows = sum(lengths)
    if rows > batch.capacity:
        raise OutOfRangeError(f"{rows} tokens for a batch of {batch.capacity}", hint="make a larger one")
    if not 0 <= pos <= 2**31 - 1 - rows:
        raise OutOfRangeError(f"position {pos!r}", hint="positions start at 0")
    batch._native.n_tokens = rows
    if not rows:
        return
    batch.tokens[:] = np.concatenate(texts)
    batch.pos[:] = np.concatenate([np.arange(pos, pos + length, dtype=np.int32) for length in lengths])
    batch._view(batch._seq_ids, "i4")[:] = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
    batch._view(batch._n_seq_id, "i4")[:] = 1
    flags = batch.outputs
    flags[:] = outputs is None
    if outputs:
        flags[-outputs:] = 1


def embedding_rows(context: Context, rows: int) -> NDArray[np.float32]:
    """Return the embeddings of the first rows of the last batch, float32 [rows, n_embd_out], a copy.

    All of them have one in a context with embeddings and without pooling.

    Raises:
        OutputError: There are none, or fewer.
        OutOfRangeError: `rows` is not a number of rows of a batch.
    """
    if not 1 <= rows <= context.n_batch:
        raise OutOfRangeError(f"{rows!r} rows", hint=f"a batch has 1 to {context.n_batch}")
    hint = "create the context with embeddings=True and pooling_type='none', and decode that many rows"
    width = context._n_embd_out
    ptr = context._enter()
    try:
        row, last = context._row, ffi.new("float **")
        status = lib.LLC_NO_OUTPUT
        if context._embd_computed and rows <= context._n_rows:
            status = lib.llc_embeddings(ptr, 0, row)  # brings the rows of all sequences into the order of the batch
            if status == lib.LLC_OK:
                status = lib.llc_embeddings(ptr, rows - 1, last)
        if status == lib.LLC_NO_OUTPUT or (status == lib.LLC_OK and last[0] - row[0] != (rows - 1) * width):
            raise OutputError(f"{rows} embeddings were not computed by the last decode", hint=hint)
        if status != lib.LLC_OK:
            context._note(status)
            raise_status(status, "reading embeddings", NativeError)
        copy: NDArray[np.float32] = np.frombuffer(ffi.buffer(row[0], rows * width * 4), dtype=np.float32).copy()
        return copy.reshape(rows, width)
    finally:
        context._exit()


def score_rows(
    context: Context, rows: NDArray[np.int32], targets: NDArray[np.int32], n_top: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Return natural log-probabilities of tokens on rows of the last batch, without copying logits.

    The threads of the context for batches share the work.

    Args:
        context: The context that decoded.
        rows: Output rows, int32 [n].
        targets: The token that is scored on each, int32 [n].
        n_top: How many of the most likely tokens to return for each row.

    Returns:
        Log-probabilities, float32 [n], NaN for a row that has NaN among its logits; the most likely tokens, best
        first, int32 [n, n_top]; and their log-probabilities, float32 [n, n_top].

    Raises:
        OutputError: A row has no logits.
        OutOfRangeError: A token is not in the vocabulary, or `n_top` out of range.
        InvalidArgumentError: There are not as many targets as rows.
    """
    rows = np.ascontiguousarray(rows, dtype=np.int32)
    targets = np.ascontiguousarray(targets, dtype=np.int32)
    n, n_vocab = len(rows), context._n_vocab
    if rows.shape != targets.shape or rows.ndim != 1:
        raise InvalidArgumentError(f"{len(targets)} targets for {n} rows", hint="give one for each")
    if not 0 <= n_top <= n_vocab:
        raise OutOfRangeError(f"n_top={n_top!r}", hint=f"give 0 to {n_vocab}")
    for token in (int(targets.min(initial=0)), int(targets.max(initial=0))):
        if not 0 <= token < n_vocab:
            raise OutOfRangeError(f"token {token} is not in the vocabulary", hint=f"tokens are 0 to {n_vocab - 1}")
    logprobs = np.empty(n, dtype=np.float32)
    top_tokens, top_logprobs = np.empty((n, n_top), dtype=np.int32), np.empty((n, n_top), dtype=np.float32)
    ptr = context._enter()
    try:
        status = lib.LLC_NO_OUTPUT
        if context._logits_computed:
            status = lib.llc_score(
                ptr, n, ffi.from_buffer("int32_t[]", rows), ffi.from_buffer("llama_token[]", targets),
                context.n_threads_batch, ffi.from_buffer("float[]", logprobs), n_top,
                ffi.from_buffer("llama_token[]", top_tokens), ffi.from_buffer("float[]", top_logprobs),
            )  # fmt: skip
        if status == lib.LLC_NO_OUTPUT:
            raise OutputError("a row was not computed by the last decode", hint="mark the rows as outputs")
        if status != lib.LLC_OK:
            context._note(status)
            raise_status(status, "scoring rows", NativeError)
    finally:
        context._exit()
    return logprobs, top_tokens, top_logprobs
