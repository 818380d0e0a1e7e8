"""Values from inside the last decode: next-token-prediction embeddings, layer inputs, results of graph samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import NativeError, OutOfRangeError, OutputError, UnsupportedError
from ._native import ffi, lib
from ._outputs import OutputReader
from ._status import raise_status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .model import Model


@dataclass(frozen=True, eq=False)
class Sampled:
    """What a sampler chain that runs in the graph left of a row.

    Attributes:
        token: The token it chose, or None.
        candidates: Token ids, int32 [n], or None when all tokens are candidates or none were computed.
        logits: float32 [n], or None.
        probs: float32 [n], or None.
    """

    token: int | None
    candidates: NDArray[np.int32] | None
    logits: NDArray[np.float32] | None
    probs: NDArray[np.float32] | None


class InnerValueReader(OutputReader):
    """The part of a `Context` that reads what most callers never look at."""

    model: Model
    _nextn_enabled = False
    _layer_inputs: dict[int, bool]  # layer to whether the last decode computed it
    _n_rows: int  # of the last batch

    def _call(self, function: Any, what: str, hint: str, *args: Any) -> None:
        ptr = self._enter()
        try:
            status = function(ptr, *args)
            if status != lib.LLC_OK:
                self._note(status)
                raise_status(status, what, NativeError, hint=hint)
        finally:
            self._exit()

    def set_embeddings_nextn(self, enabled: bool, *, masked: bool = True) -> None:
        """Choose whether the following decodes keep the hidden state that the MTP block reads.

        Args:
            enabled: Whether they do.
            masked: Keep output rows only, instead of every row of the batch.

        Raises:
            UnsupportedError: The model has no next-token-prediction layers.
        """
        if enabled and self.model.n_layer_nextn == 0:
            raise UnsupportedError("this model has no next-token-prediction (MTP) layers")
        self._call(lib.llc_set_embeddings_nextn, "keeping next-n embeddings", "", bool(enabled), bool(masked))
        self._nextn_enabled = False  # until a decode has computed them
        self._nextn_wanted = bool(enabled)

    _nextn_wanted = False

    def embeddings_nextn(self, i: int = -1) -> NDArray[np.float32]:
        """Return the next-n hidden state of a row of the last batch, float32 [n_embd_out], a copy.

        Args:
            i: Row of the batch; negative numbers count output rows from the end, when `masked` was chosen.

        Raises:
            OutputError: The last decode did not keep it.
        """
        hint = "call set_embeddings_nextn(True) before the decode"
        what = "the next-n embedding of row"
        return self._copy_row(lib.llc_embeddings_nextn, i, self._n_embd_out, what, hint, self._nextn_enabled)

    def set_nextn_layer_offset(self, offset: int) -> None:
        """Choose which of several MTP blocks a context of type "mtp" runs, from 0.

        Raises:
            InvalidArgumentError: The model has not that many.
        """
        if not -(2**31) <= offset < 2**31:
            raise OutOfRangeError(f"MTP block {offset!r}", hint=f"the model has {self.model.n_layer_nextn}")
        self._call(lib.llc_set_nextn_layer_offset, "choosing an MTP block", "see Model.n_layer_nextn", offset)

    def set_embeddings_layer_inp(self, layer: int, enabled: bool) -> None:
        """Choose whether the following decodes keep the input of a layer for every row.

        Args:
            layer: From 0; the number of layers stands for the output of the last one, where it is offered.
            enabled: Whether they do.

        Raises:
            InvalidArgumentError: There is no such layer, or the architecture does not offer it (`TensorCapture` may).
        """
        if not 0 <= layer <= self.model.n_layer:
            raise OutOfRangeError(f"layer {layer!r}", hint=f"layers are 0 to {self.model.n_layer}")
        hint = "TensorCapture.for_layers reads layer outputs of any architecture that names them"
        self._call(lib.llc_set_embeddings_layer_inp, f"keeping the input of layer {layer}", hint, layer, bool(enabled))
        self._layer_inputs.pop(layer, None)
        if enabled:
            self._layer_inputs[layer] = False

    def embeddings_layer_inp(self, layer: int) -> NDArray[np.float32]:
        """Return the input of a layer in the last decode, float32 [rows of the batch, n_embd], a copy.

        Raises:
            OutputError: The last decode did not keep it.
        """
        width = self.model.n_embd
        hint, computed = (
            "call set_embeddings_layer_inp(layer, True) before the decode",
            bool(self._layer_inputs.get(layer)),
        )
        what = "the input of layer"
        flat = self._copy_row(lib.llc_embeddings_layer_inp, layer, self._n_rows * width, what, hint, computed)
        return flat.reshape(self._n_rows, width)

    def sampled(self, i: int = -1) -> Sampled:
        """Return what the sampler chain of `ContextParams.samplers` or `set_sampler` computed for a row, as copies.

        Raises:
            OutputError: No sampler ran in the graph for that row.
        """
        import numpy as np

        if not -(2**31) <= i < 2**31:
            raise OutOfRangeError(f"row {i!r}", hint="rows are numbers of the last batch")
        out = ffi.new("struct llc_sampled *")
        ptr = self._enter()
        try:
            status = lib.llc_sampled(ptr, i, out) if self._logits_computed else lib.LLC_NO_OUTPUT
            if status == lib.LLC_NO_OUTPUT:
                raise OutputError(f"no sampler ran in the graph for row {i}", hint="give the context samplers")
            if status != lib.LLC_OK:
                self._note(status)
                raise_status(status, f"reading what was sampled for row {i}", NativeError)

            def copy(pointer: Any, dtype: str) -> Any:
                if pointer == ffi.NULL:
                    return None
                return np.frombuffer(ffi.buffer(pointer, out.n * 4), dtype=dtype).copy()

            token = None if out.token == lib.LLAMA_TOKEN_NULL else int(out.token)
            return Sampled(token, copy(out.candidates, "i4"), copy(out.logits, "f4"), copy(out.probs, "f4"))
        finally:
            self._exit()

    def _inner_values_computed(self, n_rows: int) -> None:
        """Note that a decode has just computed what was asked for."""
        self._n_rows = n_rows
        self._nextn_enabled = self._nextn_wanted
        self._layer_inputs = dict.fromkeys(self._layer_inputs, True)
