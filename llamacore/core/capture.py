"""Reading named tensors out of the graph while a decode computes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BusyError, DecodeError, InvalidArgumentError, NativeError, OutOfRangeError, OutputError
from ._handle import Handle
from ._native import ffi, lib, text
from ._status import raise_status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .context import Context

_MAX_BYTES = 1 << 30
_LAYER_OUTPUT = "l_out-"


class TensorCapture(Handle):
    """Keeps the values of chosen graph tensors of the last decode. Made by the class methods.

    Pass it as `ContextParams.capture`; it serves one context and stays open until that is closed. Native code copies
    the tensors; the graph is cut at each of them, which costs time, and contexts without a capture pay nothing. A
    decode that is computed in several micro-batches yields all of its rows.
    """

    def __init__(self, names: Sequence[str], prefixes: Sequence[str], max_bytes: int) -> None:
        if not 0 < max_bytes < 2**63:
            raise InvalidArgumentError(f"max_bytes={max_bytes!r}", hint="give a positive number of bytes")
        keep = [ffi.new("char[]", item.encode()) for item in (*names, *prefixes)]
        out = ffi.new("struct llc_capture **")
        first, rest = ffi.new("char *[]", keep[: len(names)]), ffi.new("char *[]", keep[len(names) :])
        status = lib.llc_capture_new(first, len(names), rest, len(prefixes), max_bytes, out)
        if status != lib.LLC_OK:
            raise_status(status, "making a capture", NativeError)
        self._context: object = None
        self._layers = [int(m[1]) for name in names if (m := re.fullmatch(_LAYER_OUTPUT + r"(\d+)", name))]
        super().__init__(out[0], lib.llc_capture_free)

    @classmethod
    def for_layers(cls, *layers: int, max_bytes: int = _MAX_BYTES) -> TensorCapture:
        """Capture the output of layers (the tensors `l_out-N`), counted from 0.

        Args:
            *layers: At least one; checked against the model when the context is created.
            max_bytes: Most that one decode may capture; more is an error of that decode.

        Raises:
            OutOfRangeError: There is no layer, or a negative one.
            InvalidArgumentError: `max_bytes` is not positive.
        """
        if not layers or min(layers) < 0:
            raise OutOfRangeError(f"layers {layers!r}", hint="give one or more layer numbers from 0")
        return cls([f"{_LAYER_OUTPUT}{layer}" for layer in layers], [], max_bytes)

    @classmethod
    def for_names(cls, *names: str, max_bytes: int = _MAX_BYTES) -> TensorCapture:
        """Capture tensors by their names in the graph.

        Args:
            *names: At least one; whether the graph has them shows in `names()` after a decode.
            max_bytes: See `for_layers`.

        Raises:
            InvalidArgumentError: There is no name, or `max_bytes` is not positive.
        """
        if not names:
            raise InvalidArgumentError("there is no name to capture", hint="give at least one")
        return cls(names, [], max_bytes)

    @classmethod
    def for_prefix(cls, *prefixes: str, max_bytes: int = _MAX_BYTES) -> TensorCapture:
        """Capture every tensor whose name starts with one of the prefixes.

        Args:
            *prefixes: At least one.
            max_bytes: See `for_layers`.

        Raises:
            InvalidArgumentError: There is no prefix, or `max_bytes` is not positive.
        """
        if not prefixes:
            raise InvalidArgumentError("there is no prefix to capture", hint="give at least one, or use all()")
        return cls([], prefixes, max_bytes)

    @classmethod
    def all(cls, *, max_bytes: int = _MAX_BYTES) -> TensorCapture:
        """Capture every tensor of the graph: for small models and short batches.

        Args:
            max_bytes: See `for_layers`.

        Raises:
            InvalidArgumentError: `max_bytes` is not positive.
        """
        return cls([], [""], max_bytes)

    def _install(self, native: Any) -> None:
        """Write itself into the parameters of a context that is about to be made."""
        native.cb_eval = ffi.addressof(lib, "llc_capture_callback")
        native.cb_eval_user_data = self._enter()
        self._exit()

    def _begin(self, batch: Any) -> None:
        """Forget the decode before; called inside of `_enter()`."""
        lib.llc_capture_begin(self._core.ptr)

    def _attach(self, context: Context) -> None:
        if self._context is not None:
            raise BusyError("this capture serves another context already", hint="make one for each context")
        n_layer = context.model.n_layer
        wrong = [layer for layer in self._layers if layer >= n_layer]
        if wrong:
            raise OutOfRangeError(
                f"layer {wrong[0]} of a model with {n_layer} layers", hint=f"layers are 0 to {n_layer - 1}"
            )
        self._context = id(context)
        self._pinned_by.add(context)

    def _require_complete(self) -> None:
        error = text(lib.llc_capture_error(self._core.ptr))
        if error:
            raise DecodeError(
                f"decoding with a capture: {error}", hint="capture fewer tensors, or decode shorter batches"
            )

    def _index(self) -> dict[str, int]:
        captured = ffi.new("struct llc_captured *")
        names = {}
        for i in range(lib.llc_capture_count(self._core.ptr)):
            lib.llc_capture_get(self._core.ptr, i, captured)
            names[text(captured.name)] = i
        return names

    def names(self) -> list[str]:
        """Return the names that the last decode captured, in the order of the graph."""
        self._enter()
        try:
            return list(self._index())
        finally:
            self._exit()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> NDArray[np.float32]:
        """Return a captured tensor, float32, a copy; its shape is numpy's, [tokens, width] for the usual ones.

        Raises:
            OutputError: The last decode computed no tensor of that name.
        """
        import numpy as np

        self._enter()
        try:
            index = self._index().get(name)
            if index is None:
                raise OutputError(
                    f"no tensor {name!r} was captured by the last decode",
                    hint="names() lists what was; this architecture may use another name",
                )
            captured = ffi.new("struct llc_captured *")
            lib.llc_capture_get(self._core.ptr, index, captured)
            shape = list(captured.shape)[::-1]
            while len(shape) > 2 and shape[0] == 1:
                shape.pop(0)
            count = int(np.prod(shape))
            flat = np.frombuffer(ffi.buffer(captured.data, count * 4), dtype=np.float32) if count else np.empty(0, "f4")
            values: NDArray[np.float32] = flat.reshape(shape).copy()
            return values
        finally:
            self._exit()

    def get_layer(self, layer: int) -> NDArray[np.float32]:
        """Return the output of a layer, float32 [rows, n_embd].

        The rows are the tokens of the batch in the order in which upstream computes them, which is the batch's own
        unless sequences of unequal length meet in it (`LayerTap` gives them in the batch's order); of the last layer
        upstream computes the output rows alone.

        Raises:
            OutputError: It was not captured.
        """
        return self.get(f"{_LAYER_OUTPUT}{layer}")

    def clear(self) -> None:
        """Forget what was captured."""
        ptr = self._enter()
        try:
            lib.llc_capture_begin(ptr)
        finally:
            self._exit()
