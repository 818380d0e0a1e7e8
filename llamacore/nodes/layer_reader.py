"""Reading layer outputs of whole texts, in a context of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.batch import Batch
from ..core.model import Model
from ..core.tap import LayerTap, Rows
from ..errors import InvalidArgumentError, UnsupportedError
from ..params import ContextParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .params import BackendParams


class LayerReader:
    """Computes texts one at a time and keeps one row of each layer. Used by one thread at a time.

    Args:
        model: The model; it stays the caller's.
        layers: Layers counted from 0.
        rows: Which row of a layer: "last", "first" or "mean".
        backend: How it is computed.
        n_ctx: Most tokens of a text.
        n_batch: Tokens that are computed at a time.

    Raises:
        OutOfRangeError: The model has no such layer.
        UnsupportedError: The architecture does not name the output of a layer, or the model has an encoder.
        ContextError: The context could not be made.
    """

    def __init__(
        self, model: Model, layers: Sequence[int], rows: Rows, backend: BackendParams, *, n_ctx: int, n_batch: int
    ) -> None:
        if model.has_encoder:
            raise UnsupportedError(
                "the activations of models with an encoder cannot be read", hint="use a model of one part"
            )
        self._tap = LayerTap()
        self._layers = tuple(dict.fromkeys(layers))
        # upstream computes of the last layer only the rows whose output is asked for
        self._all_rows = rows == "mean" and model.n_layer - 1 in self._layers
        n_batch = min(n_batch, n_ctx)
        try:
            self._context = model.context(
                ContextParams(
                    n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_batch, n_seq_max=1,
                    n_outputs_max=n_batch if self._all_rows else min(2, n_batch),
                    n_threads=backend.threads, n_threads_batch=backend.threads_batch,
                    flash_attn="enabled" if backend.flash_attention else None, capture=self._tap,
                )
            )  # fmt: skip
        except BaseException:
            self._tap.close()
            raise
        try:
            self._tap.capture(self._layers, rows)
        except BaseException:
            self.close()
            raise
        self._batch = Batch(n_batch)

    def read(self, tokens: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """Compute a text, and return float32 [n_embd] for each layer, in the order they were asked for.

        Raises:
            InvalidArgumentError: The text has no tokens, or more than the context.
            AbortedError: `cancel()` was called.
        """
        count, context, batch = len(tokens), self._context, self._batch
        if not 0 < count <= context.n_ctx_seq:
            raise InvalidArgumentError(
                f"a text of {count} tokens", hint=f"context_size leaves room for 1 to {context.n_ctx_seq} tokens"
            )
        if context.memory.present:
            context.memory.clear()
        elif count > batch.capacity:
            raise InvalidArgumentError(
                f"a text of {count} tokens", hint=f"this model computes texts whole: raise batch_size to {count}"
            )
        self._tap.restart()
        for start in range(0, count, batch.capacity):
            batch.clear()
            for pos in range(start, min(start + batch.capacity, count)):
                batch.add(tokens[pos], pos, output=self._all_rows or pos in (0, count - 1))
            context.decode(batch)
        return {layer: self._tap.sequence(layer, 0) for layer in self._layers}

    def cancel(self) -> None:
        """Make the text that is computed end early; callable from any thread. `resume()` takes it back."""
        self._context.cancel()

    def resume(self) -> None:
        """Compute texts again."""
        self._context.resume()

    def close(self) -> None:
        """Free the context. Doing it again does nothing."""
        self._context.close()
        self._tap.close()
