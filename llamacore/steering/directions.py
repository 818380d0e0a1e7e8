"""From two sets of rows to the direction between them, and how well it tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["mean", "pca"]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class LayerQuality:
    """How well the direction of a layer tells rows apart that it was not made from.

    Attributes:
        accuracy: Share of held-out rows on their own side of the threshold, which lies half-way between the means of
            both sets that the direction was made from.
        pair_accuracy: Share of held-out pairs of which the positive one lies further along; None without pairs.
        separation: Distance of the means of both held-out sets along the direction, in standard deviations within them.
        n_held_out: Held-out rows of both sets.
    """

    accuracy: float
    pair_accuracy: float | None
    separation: float
    n_held_out: int


def find_direction(positive: Matrix, negative: Matrix, method: Method, *, paired: bool) -> Matrix:
    """Return the direction from the negative rows to the positive ones, float32 [n_embd].

    Its length is the distance of the two means along it: with a scale of 1 it carries a row of the one set as far as
    the other set is.

    Args:
        positive: [rows, n_embd].
        negative: [rows, n_embd].
        method: "mean" is the difference of the means; "pca" the principal component of the differences.
        paired: Rows of the same number belong together, so that "pca" looks at their differences; else at those from
            the point half-way between the means.
    """
    difference = positive.mean(0, dtype=np.float64) - negative.mean(0, dtype=np.float64)
    if method == "mean":
        return np.asarray(difference, dtype=np.float32)
    if paired:
        spread = positive.astype(np.float64) - negative
    else:
        rows = np.concatenate([positive, negative]).astype(np.float64)
        spread = rows - (positive.mean(0, dtype=np.float64) + negative.mean(0, dtype=np.float64)) / 2
    axis = np.linalg.svd(spread, full_matrices=False)[2][0]  # not centred: the common part is what is looked for
    return np.asarray(axis * (axis @ difference), dtype=np.float32)


def measure(
    direction: Matrix, train: tuple[Matrix, Matrix], held_out: tuple[Matrix, Matrix], *, paired: bool
) -> LayerQuality:
    """Return how well a direction tells the held-out rows apart, positive and negative ones."""
    norm = float(np.linalg.norm(direction))
    axis = direction.astype(np.float64) / (norm or 1.0)
    threshold = sum(float((rows @ axis).mean()) for rows in train) / 2
    positive, negative = (rows @ axis for rows in held_out)
    right = int((positive > threshold).sum()) + int((negative < threshold).sum())
    within = float(np.sqrt((positive.var() + negative.var()) / 2))
    distance = float(positive.mean() - negative.mean())
    return LayerQuality(
        accuracy=right / (len(positive) + len(negative)),
        pair_accuracy=float((positive > negative).mean()) if paired else None,
        separation=distance / within if within > 0 else float("inf") if distance > 0 else 0.0,
        n_held_out=len(positive) + len(negative),
    )
