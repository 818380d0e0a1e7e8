"""Reading and changing layer outputs while a context computes, by row and by sequence."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import (
    AdapterError,
    BusyError,
    ClosedError,
    DecodeError,
    InvalidArgumentError,
    NativeError,
    OutOfRangeError,
    OutputError,
    UnsupportedError,
)
from . import sampler_checks
from ._handle import Handle
from ._native import ffi, lib, text
from ._status import raise_status
from .control_vector import ControlVector, mix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .context import Context

Rows = Literal["all", "last", "first", "mean"]
Steering = Mapping[ControlVector, float] | Iterable[tuple[ControlVector, float]]

_MAX_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class LayerRows:
    """What a tap kept of one layer: arrays of as many entries as there are rows.

    Attributes:
        values: float32 [rows, n_embd].
        rows: int32, row in the batch; of a mean, the last one that counted.
        seq_ids: int32, sequence; of a row that belongs to several, the lowest one.
        positions: int32, position in the sequence.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.int32]
    seq_ids: NDArray[np.int32]
    positions: NDArray[np.int32]


class LayerTap(Handle):
    """Reads layer outputs of a context, and adds control vectors to them, each sequence its own.

    Pass it as `ContextParams.capture`; it serves one context and stays open until that is closed. It starts switched
    off, and costs nothing then. Switched on, native code copies the rows, and the graph is cut at each layer that is
    read or changed. What is read of a layer is its output after steering: what the next layer sees.

    Used by the thread that uses the context. Rows are those of the batch, in its order, in however many micro-batches
    upstream computes it. Of the last layer upstream computes the output rows alone: mark those as outputs that are to
    be read.

    Args:
        layers: Captured from the first decode on; checked when the context is created. See `capture`.
        rows: Which rows of them.
        max_bytes: Most that one decode may keep with `rows="all"`; a batch that would need more is refused.
    """

    def __init__(self, layers: Sequence[int] = (), rows: Rows = "all", *, max_bytes: int = _MAX_BYTES) -> None:
        out = ffi.new("struct llc_tap **")
        size = sampler_checks.whole("max_bytes", max_bytes, 1, 2**63 - 1)
        self._first = (_layer_numbers(layers), _mode(rows))
        self._rows: Rows = rows
        self._captured: tuple[int, ...] = ()
        self._steered: set[int] = set()
        self._offered: tuple[int, ...] = ()
        self._context: weakref.ref[Context] | None = None
        self._width = 0
        status = lib.llc_tap_new(size, out)
        if status != lib.LLC_OK:
            raise_status(status, "making a tap", NativeError)
        super().__init__(out[0], lib.llc_tap_free)

    # what a context calls

    def _install(self, native: Any) -> None:
        if self._context is not None:
            raise BusyError("this tap serves another context already", hint="make one for each context")

    def _attach(self, context: Context) -> None:
        self._install(None)
        with self._held() as ptr:
            status = lib.llc_tap_attach(ptr, context._core.ptr)
            if status != lib.LLC_OK:
                raise_status(status, "attaching a tap", NativeError)
            found = ffi.new("int32_t[]", lib.llc_tap_layers(ptr, ffi.NULL, 0))
            lib.llc_tap_layers(ptr, found, len(found))
            self._offered = tuple(found)
        self._context = weakref.ref(context)
        self._width = context.model.n_embd
        self._pinned_by.add(context)
        layers, _ = self._first
        if layers:
            self.capture(layers, self._rows)

    def _begin(self, batch: Any) -> None:
        status = lib.llc_tap_begin(self._core.ptr, batch)
        if status != lib.LLC_OK:
            hint = "keep fewer layers, decode shorter batches, or steer alike"
            raise_status(status, "decoding with a tap", InvalidArgumentError, hint=hint)

    def _require_complete(self) -> None:
        error = text(lib.llc_tap_error(self._core.ptr))
        if error:
            raise DecodeError(f"decoding with a tap: {error}", hint="capture and steer fewer layers, or none")

    # switching

    @property
    def available_layers(self) -> tuple[int, ...]:
        """Layers of the context that can be read and changed; none before it serves one."""
        return self._offered

    @property
    def captured_layers(self) -> tuple[int, ...]:
        """Layers that are captured."""
        return self._captured

    @property
    def steered_sequences(self) -> tuple[int, ...]:
        """Sequences that are steered, ascending."""
        return tuple(sorted(self._steered))

    def capture(self, layers: Sequence[int], rows: Rows = "all") -> None:
        """Choose what is kept from the next decode on; what was kept before is forgotten.

        Args:
            layers: Layers counted from 0; none ends capturing.
            rows: "all" keeps the rows of the last decode. "last", "first" and "mean" keep one row for each sequence,
                of all rows that were decoded since this call or the last `restart`, in however many decodes.

        Raises:
            OutOfRangeError: The model has no such layer.
            UnsupportedError: The architecture does not name the output of that layer.
            ClosedError: The tap or its context is closed, or it has none.
        """
        numbers, mode = _layer_numbers(layers), _mode(rows)
        with self._taken() as (ptr, context):
            self._require_layers(context, numbers)
            status = lib.llc_tap_capture(ptr, list(numbers), len(numbers), mode)
            if status != lib.LLC_OK:
                raise_status(status, "capturing layers", NativeError)
            self._captured, self._rows = numbers, rows

    def restart(self, seq_id: int | None = None) -> None:
        """Forget what was kept of a sequence, None for all: "first" and "mean" begin again."""
        number = -1 if seq_id is None else self._sequence_number(seq_id)
        with self._held() as ptr:
            lib.llc_tap_restart(ptr, number)

    def steer(self, seq_id: int, vectors: Steering | None) -> None:
        """Add control vectors to the layer outputs of a sequence from the next decode on, in place of those before.

        What is in the memory stays as it was computed. A row of several sequences must be steered alike for all.

        Args:
            seq_id: The sequence.
            vectors: Vectors with their scales, added up; None or nothing ends steering.

        Raises:
            AdapterError: A vector does not fit the model.
            UnsupportedError: The architecture does not name the output of a layer.
            OutOfRangeError: The context has no such sequence.
            ClosedError: The tap or its context is closed, or it has none.
        """
        import numpy as np

        directions = {} if vectors is None else mix(vectors)
        number = self._sequence_number(seq_id)
        with self._taken() as (ptr, context):
            if any(direction.shape != (self._width,) for direction in directions.values()):
                found = len(next(iter(directions.values())))
                raise AdapterError(
                    f"a control vector of {found} numbers per layer for a model of {self._width}",
                    hint="use one that was made for this model",
                )
            if directions and max(directions) >= context.model.n_layer:
                raise AdapterError(
                    f"a control vector for layer {max(directions)} of a model of {context.model.n_layer} layers",
                    hint="use one that was made for this model, or a part of it: for_layers()",
                )
            self._require_layers(context, tuple(directions))
            data = np.stack(list(directions.values())) if directions else np.zeros((1, 1), np.float32)
            native = ffi.from_buffer("float[]", np.ascontiguousarray(data, dtype=np.float32))
            status = lib.llc_tap_steer(ptr, number, list(directions), len(directions), native)
            if status != lib.LLC_OK:
                raise_status(status, f"steering sequence {seq_id}", NativeError)
            (self._steered.add if directions else self._steered.discard)(number)

    # reading

    def read(self, layer: int) -> LayerRows:
        """Return what was kept of a layer, as copies: all rows in the batch's order, or one row per sequence.

        Raises:
            OutputError: The layer is not captured, or nothing was decoded since.
        """
        import numpy as np

        (number,) = _layer_numbers([layer])
        n_rows = ffi.new("size_t *")
        with self._held() as ptr:
            status = lib.llc_tap_count(ptr, number, n_rows) if number in self._captured else lib.LLC_NO_OUTPUT
            if status != lib.LLC_OK or not n_rows[0]:
                raise OutputError(
                    f"nothing was captured of layer {layer}",
                    hint=f"captured are {list(self._captured)}; of the last layer only output rows are computed",
                )
            values = np.empty((n_rows[0], self._width), dtype=np.float32)
            rows, seq_ids, positions = (np.empty(n_rows[0], dtype=np.int32) for _ in range(3))
            status = lib.llc_tap_read(
                ptr, number, ffi.from_buffer("float[]", values, require_writable=True),
                *(ffi.from_buffer("int32_t[]", part, require_writable=True) for part in (rows, seq_ids, positions)),
            )  # fmt: skip
            if status != lib.LLC_OK:
                raise_status(status, f"reading layer {layer}", NativeError)
        return LayerRows(values, rows, seq_ids, positions)

    def layer(self, layer: int) -> NDArray[np.float32]:
        """Return the values of `read(layer)`, float32 [rows, n_embd]."""
        return self.read(layer).values

    def sequence(self, layer: int, seq_id: int) -> NDArray[np.float32]:
        """Return what was kept of a sequence: float32 [n_embd], with `rows="all"` [rows, n_embd].

        Raises:
            OutputError: Nothing was.
        """
        kept, number = self.read(layer), self._sequence_number(seq_id)
        values: NDArray[np.float32] = kept.values[kept.seq_ids == number]
        if not len(values):
            raise OutputError(f"nothing was captured of sequence {seq_id} at layer {layer}", hint="decode it first")
        return values if self._rows == "all" else values[0]

    # checks

    @contextmanager
    def _taken(self) -> Iterator[tuple[Any, Context]]:
        context = None if self._context is None else self._context()
        if context is None:
            raise ClosedError(
                "this tap serves no context" if self._context is None else "the context of this tap is gone",
                hint="pass it as ContextParams.capture",
            )
        with context._held(), self._held() as ptr:
            yield ptr, context

    def _sequence_number(self, seq_id: int) -> int:
        number = sampler_checks.whole("seq_id", seq_id, 0)
        context = None if self._context is None else self._context()
        if context is not None and number >= context.n_seq_max:
            raise OutOfRangeError(f"sequence {seq_id!r}", hint=f"this context has 0 to {context.n_seq_max - 1}")
        return number

    def _require_layers(self, context: Context, layers: Sequence[int]) -> None:
        n_layer = context.model.n_layer
        for layer in layers:
            if layer >= n_layer:
                raise OutOfRangeError(
                    f"layer {layer} of a model with {n_layer} layers", hint=f"layers are 0 to {n_layer - 1}"
                )
            if layer not in self._offered:
                raise UnsupportedError(
                    f"the architecture {context.model.arch!r} does not name the output of layer {layer}",
                    hint=f"those it names: {list(self._offered)}",
                )

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"layers {list(self._captured)}, sequences {list(self.steered_sequences)}"
        return f"<LayerTap {state}>"


def _layer_numbers(layers: Sequence[int]) -> tuple[int, ...]:
    if isinstance(layers, str | bytes) or not isinstance(layers, Iterable):
        raise InvalidArgumentError(f"layers={layers!r}", hint="give a list of layer numbers")
    return tuple(sorted({sampler_checks.whole("a layer", layer, 0) for layer in layers}))


def _mode(rows: Rows) -> int:
    if rows not in get_args(Rows):
        raise InvalidArgumentError(f"rows={rows!r}", hint=f"use one of: {', '.join(get_args(Rows))}")
    return int(getattr(lib, f"LLC_TAP_{rows.upper()}"))
