"""What a session of a `SteerNode` is steered by, and what comes of it: vectors, coefficients, their sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core import sampler_checks
from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NOTHING = 1e-8


@dataclass(eq=False)
class Steering:
    """What a session is steered by.

    Attributes:
        vectors: float32 [n_embd] by label.
        coefficients: How much of each.
        delta: What the last turn was steered by; None for nothing.
    """

    vectors: dict[str, NDArray[np.float32]]
    coefficients: dict[str, float]
    delta: NDArray[np.float32] | None = None

    def copy(self) -> Steering:
        """Return one to begin a session with."""
        return Steering(dict(self.vectors), dict(self.coefficients))


def steering_delta(
    vectors: Mapping[str, NDArray[np.float32]], coefficients: Mapping[str, float], layer_norm_value: float
) -> NDArray[np.float32] | None:
    """Add up vectors: coefficient times `layer_norm_value` times vector, in the order of the labels.

    Args:
        vectors: float32 [n] by label, all of one length.
        coefficients: By label; those next to zero count as none, as do those without a vector.
        layer_norm_value: What all are multiplied by.

    Returns:
        float32 [n]; None if nothing is added.

    Raises:
        InvalidArgumentError: The vectors have unequal lengths.
    """
    delta: Any = None
    for label in sorted(vectors):
        coefficient = coefficients.get(label, 0.0)
        if abs(coefficient) <= _NOTHING:
            continue
        part = coefficient * layer_norm_value * vectors[label]
        if delta is not None and delta.shape != part.shape:
            raise InvalidArgumentError(f"the vector {label!r} has {part.size} numbers, others have {delta.size}")
        delta = part if delta is None else delta + part
    return None if delta is None else delta.astype("float32")


def coefficients_of(given: object) -> dict[str, float]:
    """Read coefficients as JSON has them.

    Raises:
        InvalidArgumentError: They are no object of finite numbers.
    """
    if not isinstance(given, Mapping) or not all(isinstance(label, str) for label in given):
        raise InvalidArgumentError(f"coefficients={given!r}", hint="give {label: number}")
    return {label: _number(label, value) for label, value in given.items()}


def _number(label: str, value: Any) -> float:
    try:
        if isinstance(value, (bool, str)):
            raise InvalidArgumentError("it is none")
        return float(sampler_checks.real("a coefficient", value))
    except InvalidArgumentError:
        raise InvalidArgumentError(f"the coefficient of {label!r} is {value!r}", hint="give a number") from None
