"""Options about devices."""

from __future__ import annotations

from llamacore.errors import InvalidArgumentError
from llamacore.params import GpuLayers


def gpu_layers_of(value: str | None) -> GpuLayers | None:
    """Return the value of --gpu-layers.

    Raises:
        InvalidArgumentError: It is neither a number nor one of the words.
    """
    if value is None or value == "all" or value == "none":
        return value  # type: ignore[return-value]
    try:
        return int(value)
    except ValueError:
        raise InvalidArgumentError(f"--gpu-layers {value}", hint="give a number, 'all' or 'none'") from None
