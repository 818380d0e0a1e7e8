"""The model's inside while texts are generated: activations that are read, and steering that is added."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..core.tap import LayerTap
from ..errors import OutOfRangeError, UnsupportedError
from .records import Activation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..core.context import Context
    from ..core.control_vector import ControlVector
    from .planner import Entry, Plan
    from .request import GenerationParams
    from .sample import Sample


def require_tap(context: Context, params: GenerationParams) -> None:
    """Check that a context can read and steer as a request asks.

    Raises:
        UnsupportedError: It was made without a tap.
        OutOfRangeError: The model has no such layer.
    """
    tap = context.params.capture
    if not params.steering and not params.activation_layers:
        return
    if not isinstance(tap, LayerTap):
        raise UnsupportedError(
            "this engine neither steers nor reads activations",
            hint="make it with Llama(..., taps=True), or its context with capture=LayerTap()",
        )
    for layer in params.activation_layers:
        if layer not in tap.available_layers:
            raise OutOfRangeError(f"layer {layer!r}", hint=f"this model has {tap.available_layers}")


class Inside:
    """What the requests of an engine ask of the tap of its context. For the engine's thread alone.

    Args:
        tap: The tap that the context was made with.
    """

    def __init__(self, tap: LayerTap) -> None:
        self._tap = tap
        self._steered: dict[int, frozenset[tuple[ControlVector, float]]] = {}
        self._layers: tuple[int, ...] = ()
        self._values: dict[int, dict[int, NDArray[np.float32]]] = {}  # by layer and row

    def take_over(self, sample: Sample) -> None:
        """A sample has got its sequence: steer it as its request asks, and no longer as the one before.

        Raises:
            LlamaCoreError: The tap refused.
        """
        wanted = sample.job.steering
        if wanted != self._steered.get(sample.seq, frozenset()):
            self._tap.steer(sample.seq, sample.job.params.steering or None)
            self._steered[sample.seq] = wanted

    def before(self, plan: Plan) -> None:
        """Choose what the next decode reads."""
        layers = {layer for entry in plan for layer in entry.sample.job.params.activation_layers if _is_due(entry)}
        if layers or self._layers:
            self._layers = tuple(sorted(layers))
            self._tap.capture(self._layers, rows="all")

    def after(self) -> None:
        """Keep what it read."""
        self._values = {}
        for layer in self._layers:
            read = self._tap.read(layer)
            self._values[layer] = dict(zip(read.rows.tolist(), read.values, strict=True))

    def read(self, sample: Sample, row: int) -> Sequence[Activation]:
        """What a request wants to see of a row, from which its next token was chosen."""
        params, count = sample.job.params, len(sample.tokens)
        if not self._values or not _is_wanted(count, params.activation_every):
            return ()
        since = (time.perf_counter() - sample.job.submitted) * 1000
        phase: Literal["input", "response"] = "response" if count else "input"
        return [
            Activation(layer, phase, count, self._values[layer][row].copy(), since)  # a view would keep all rows
            for layer in params.activation_layers
            if layer in self._values
        ]


def _is_wanted(n_tokens: int, every: int) -> bool:
    return n_tokens == 0 or (every > 0 and n_tokens % every == 0)


def _is_due(entry: Entry) -> bool:
    """Whether a token will be chosen from a row of this entry that somebody wants to look at."""
    sample = entry.sample
    if not sample.job.params.activation_layers or sample.remaining > len(entry.tokens):
        return False
    first, every = len(sample.tokens), sample.job.params.activation_every
    return any(_is_wanted(count, every) for count in range(first, first + len(entry.draft) + 1))
