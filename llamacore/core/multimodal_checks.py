"""What upstream's multimodal code asserts on or reads without looking is refused here first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError, OutOfRangeError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .chunks import Chunk
    from .context import Context
    from .model import Model
    from .multimodal import MultimodalContext


def check_context(model: Model, ctx: Context, seq_id: int, n_batch: int) -> None:
    """Refuse a context that cannot decode what a projector gives, and numbers outside its limits."""
    if ctx.model is not model:
        raise InvalidArgumentError("the context belongs to another model", hint="load a projector for that model")
    if ctx.model.params.no_alloc:
        raise UnsupportedError("the model was loaded with no_alloc: it has no weights")
    if not ctx._has_memory or ctx.params.ctx_type == "mtp":
        raise UnsupportedError("images and audio need an ordinary context with a memory")
    if ctx._must_encode:
        raise InvalidArgumentError("nothing was encoded yet", hint="call ctx.encode() with the input first")
    if not 0 <= seq_id < ctx.n_seq_max:
        raise OutOfRangeError(f"sequence {seq_id!r}", hint=f"this context has sequences 0 to {ctx.n_seq_max - 1}")
    if not 1 <= n_batch <= ctx.n_batch:
        raise OutOfRangeError(f"n_batch={n_batch!r}", hint=f"this context decodes 1 to {ctx.n_batch} tokens at a time")


def check_chunks(context: MultimodalContext, chunks: Sequence[Chunk], *, media_only: bool = False) -> None:
    """Refuse chunks that another projector made, or that cannot be computed."""
    for chunk in chunks:
        if chunk._chunks.context is not context:
            raise InvalidArgumentError("a chunk of another MultimodalContext", hint="tokenize the prompt with this one")
        if media_only and chunk.type == "text":
            raise InvalidArgumentError("a text chunk has nothing to encode", hint="pass image or audio chunks")
        if chunk.n_tokens < 1:
            raise InvalidArgumentError(f"an {chunk.type} chunk without tokens", hint="use a larger image or more audio")


def check_non_causal(ctx: Context, chunks: Sequence[Chunk], non_causal: Sequence[bool], n_batch: int) -> None:
    """Refuse an image that has to be decoded in one piece and does not fit into one micro-batch."""
    room = min(n_batch, ctx.n_ubatch)
    for chunk, whole in zip(chunks, non_causal, strict=True):
        if whole and chunk.type != "text" and chunk.n_tokens > room:
            raise InvalidArgumentError(
                f"an {chunk.type} of {chunk.n_tokens} tokens is decoded in one piece, without causal attention",
                hint=f"n_batch is {n_batch} and n_ubatch is {ctx.n_ubatch}: make the context with larger ones",
            )


def check_embeddings(n_embd: int, chunk: Chunk, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return embeddings as C reads them; refuse another shape or type."""
    import numpy as np

    rows = np.ascontiguousarray(embeddings)
    if chunk.type == "text":
        raise InvalidArgumentError("embeddings for a text chunk", hint="leave them out")
    if rows.dtype != np.float32 or rows.shape != (chunk.n_tokens, n_embd):
        raise InvalidArgumentError(
            f"embeddings of shape {rows.shape} and type {rows.dtype}",
            hint=f"they must be float32 [{chunk.n_tokens}, {n_embd}]",
        )
    return rows
