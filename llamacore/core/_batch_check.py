"""What of a batch upstream would assert on, unless the shim sees it: refused before the decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BusyError, InvalidArgumentError, OutOfRangeError, UnsupportedError
from .batch import Batch

if TYPE_CHECKING:
    from .context import Context


def require_sound(context: Context, batch: Batch, *, encode: bool) -> None:
    """Check a batch against the context that is to compute it.

    Raises:
        InvalidArgumentError: The batch does not fit the context.
        OutOfRangeError: A position is beyond those that the model has learned.
        BusyError: The batch is being decoded by another thread.
        UnsupportedError: The model has no weights.
    """
    if not isinstance(batch, Batch):
        raise InvalidArgumentError(f"a {type(batch).__name__} is no Batch", hint="fill a llamacore.Batch")
    model = context.model
    if model.params.no_alloc:
        raise UnsupportedError("the model was loaded with no_alloc: it has no weights")
    if batch._decoding:
        raise BusyError("this Batch is being decoded by another thread", hint="give each thread its own")
    if batch.n_embd and batch.n_embd != context._n_embd_inp:
        raise InvalidArgumentError(
            f"the batch holds embeddings of width {batch.n_embd}",
            hint=f"this model takes n_embd_inp={context._n_embd_inp}",
        )
    rows = len(batch)
    as_encoder = encode or not context._has_memory
    if (as_encoder or context._embeddings) and rows > context._n_outputs_max:
        raise InvalidArgumentError(
            f"all {rows} rows are outputs when embeddings are computed",
            hint=f"the context was made for n_outputs_max={context._n_outputs_max}",
        )
    if as_encoder and rows > context.n_ubatch:
        raise InvalidArgumentError(
            f"an encoder takes its input in one piece, not {rows} rows", hint=f"n_ubatch is {context.n_ubatch}"
        )
    if context._has_memory and not context.kv_unified and batch._widest_row() > 1:
        raise InvalidArgumentError("a row belongs to several sequences", hint="create the context with kv_unified=True")
    limit = model._n_pos_table
    if limit is not None and rows and int(batch.pos.max()) >= limit:
        raise OutOfRangeError(
            f"position {int(batch.pos.max())}", hint=f"this model has learned positions 0 to {limit - 1} only"
        )
    if context._must_encode and not encode:
        raise InvalidArgumentError("nothing was encoded yet", hint="call encode() with the input first")
