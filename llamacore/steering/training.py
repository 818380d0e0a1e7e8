"""Control vectors from contrastive texts, or from activations with labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..core import sampler_checks
from ..core.control_vector import ControlVector
from ..core.model import Model
from ..errors import InvalidArgumentError
from .activations import Progress, Texts, capture_activations
from .directions import LayerQuality, Matrix, Method, find_direction, measure

Rows = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class TrainedVector:
    """A control vector and what is known of it.

    Attributes:
        vector: The directions. With a scale of 1 each carries a row from the mean of the negative set to that of the
            positive one; steering several layers at once adds up.
        quality: By layer, on rows that the directions were not made from; empty when none were held out.
        method: How they were made.
        n_positive: Rows of the positive set that they were made from.
        n_negative: Rows of the negative set that they were made from.
    """

    vector: ControlVector
    quality: Mapping[int, LayerQuality]
    method: Method
    n_positive: int
    n_negative: int

    @property
    def best_layer(self) -> int | None:
        """Layer that separates the held-out rows best; None when none were held out."""
        return max(self.quality, key=lambda layer: self.quality[layer].separation) if self.quality else None


def train_control_vector(
    model: Model,
    positive: Texts,
    negative: Texts,
    *,
    layers: Sequence[int] | None = None,
    method: Method = "mean",
    rows: Literal["last", "mean"] = "mean",
    held_out: float = 0.25,
    seed: int = 0,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> TrainedVector:
    """Make a control vector from texts that show what is wanted and texts that show the opposite.

    Texts of equal number are taken as pairs: text 3 of one list is the counterpart of text 3 of the other.

    Args:
        model: The model that is to be steered.
        positive: Texts, or lists of token ids, of what is wanted.
        negative: Texts of the opposite.
        layers: Layers from 1; None for all but the last one.
        method: "mean" (difference of the means) or "pca" (principal component of the differences).
        rows: What stands for a text: the output at its last token, or the mean over its tokens.
        held_out: Share of both sets that the directions are not made from but measured on.
        seed: Of the choice of those.
        n_threads: Threads; None for the number of physical cores.
        progress: Called with the texts done and their number; False ends it.

    Raises:
        InvalidArgumentError: Too few texts, or an option is out of range.
        OutOfRangeError, UnsupportedError, AbortedError: See `capture_activations`.
    """
    if rows not in ("last", "mean"):
        raise InvalidArgumentError(f"rows={rows!r}", hint='give "last" or "mean"')
    chosen = range(1, max(model.n_layer - 1, 2)) if layers is None else layers
    if any(sampler_checks.whole("a layer", layer, 0) == 0 for layer in chosen):
        raise InvalidArgumentError("layer 0 cannot be steered", hint="give layers from 1")
    _check(len(positive), len(negative), method, held_out)
    found = capture_activations(
        model, [*positive, *negative], list(chosen), rows=rows, n_threads=n_threads, progress=progress
    )
    n = len(positive)
    return fit_control_vector(
        {layer: values[:n] for layer, values in found.values.items()},
        {layer: values[n:] for layer, values in found.values.items()},
        method=method, held_out=held_out, seed=seed, model_hint=model.arch,
    )  # fmt: skip


def fit_labelled(
    values: Rows,
    labels: Sequence[Hashable],
    positive: Hashable,
    *,
    method: Method = "mean",
    held_out: float = 0.25,
    seed: int = 0,
    model_hint: str = "",
) -> TrainedVector:
    """Make a control vector from activations with labels: towards those of one label, away from all others.

    Args:
        values: float32 [rows, n_embd] by layer, such as `Activations.values`.
        labels: A label for each row.
        positive: The label of what is wanted.
        method: See `train_control_vector`.
        held_out: See `train_control_vector`.
        seed: See `train_control_vector`.
        model_hint: Architecture of the model that they come from.

    Raises:
        InvalidArgumentError: Too few rows of either kind, or not one label for each row.
    """
    chosen = np.array([label == positive for label in labels], dtype=bool)
    if any(len(rows) != len(chosen) for rows in values.values()):
        raise InvalidArgumentError(f"{len(chosen)} labels", hint="give one for each row")
    return _fit(
        {layer: np.asarray(rows)[chosen] for layer, rows in values.items()},
        {layer: np.asarray(rows)[~chosen] for layer, rows in values.items()},
        method, held_out, seed, model_hint, paired=False,
    )  # fmt: skip


def fit_control_vector(
    positive: Rows,
    negative: Rows,
    *,
    method: Method = "mean",
    held_out: float = 0.25,
    seed: int = 0,
    model_hint: str = "",
) -> TrainedVector:
    """Make a control vector from activations of two kinds; as many of one as of the other are taken as pairs.

    Args:
        positive: float32 [rows, n_embd] by layer.
        negative: The same of the opposite.
        method: See `train_control_vector`.
        held_out: See `train_control_vector`.
        seed: See `train_control_vector`.
        model_hint: Architecture of the model that they come from.

    Raises:
        InvalidArgumentError: Too few rows, or the two do not fit together.
    """
    sizes = {len(rows) for kind in (positive, negative) for rows in kind.values()}
    return _fit(positive, negative, method, held_out, seed, model_hint, paired=len(sizes) == 1)


def _check(n_positive: int, n_negative: int, method: Method, held_out: float) -> None:
    if method not in get_args(Method):
        raise InvalidArgumentError(f"method={method!r}", hint=f"use one of: {', '.join(get_args(Method))}")
    if not sampler_checks.real("held_out", held_out, 0.0, 0.9) >= 0:
        raise InvalidArgumentError(f"held_out={held_out!r}", hint="give a share from 0 to 0.9")
    if min(n_positive, n_negative) < 2:
        raise InvalidArgumentError(
            f"{n_positive} positive and {n_negative} negative ones", hint="give at least two of each; dozens are better"
        )


def _fit(
    positive: Rows, negative: Rows, method: Method, held_out: float, seed: int, model_hint: str, *, paired: bool
) -> TrainedVector:
    if not positive or positive.keys() != negative.keys():
        raise InvalidArgumentError(
            f"layers {sorted(positive)} and {sorted(negative)}", hint="give the same layers of both"
        )
    kinds: list[dict[int, Matrix]] = []
    for kind in (positive, negative):
        rows = {layer: np.asarray(values, dtype=np.float32) for layer, values in kind.items()}
        if any(part.ndim != 2 or not np.isfinite(part).all() for part in rows.values()):
            raise InvalidArgumentError("the activations are no finite numbers [rows, n_embd]")
        if len({len(part) for part in rows.values()}) != 1:
            raise InvalidArgumentError("the layers have unequal numbers of rows")
        kinds.append(rows)
    first = next(iter(positive))
    sizes = [len(rows[first]) for rows in kinds]
    _check(sizes[0], sizes[1], method, held_out)
    generator = np.random.default_rng(sampler_checks.whole("seed", seed, 0))
    orders = [generator.permutation(size) for size in sizes]
    if paired:
        orders[1] = orders[0]
    cuts = [min(round(size * held_out), size - 1) for size in sizes]
    directions: dict[int, Matrix] = {}
    quality: dict[int, LayerQuality] = {}
    for layer in sorted(positive):
        train, rest = (
            [rows[layer][order[part]] for rows, order, part in zip(kinds, orders, parts, strict=True)]
            for parts in ([slice(cut, None) for cut in cuts], [slice(0, cut) for cut in cuts])
        )
        if train[0].shape[1] != train[1].shape[1]:
            raise InvalidArgumentError(f"rows of {train[0].shape[1]} and {train[1].shape[1]} numbers at layer {layer}")
        directions[layer] = find_direction(train[0], train[1], method, paired=paired)
        if min(cuts):
            quality[layer] = measure(directions[layer], (train[0], train[1]), (rest[0], rest[1]), paired=paired)
    return TrainedVector(ControlVector(directions, model_hint), quality, method, sizes[0] - cuts[0], sizes[1] - cuts[1])
