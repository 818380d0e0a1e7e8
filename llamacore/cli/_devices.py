"""Options about devices."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from llamacore.errors import InvalidArgumentError
from llamacore.params import FlashAttn, GpuLayers

from ._option import option

_option = partial(option, "Devices")

GpuLayersOption = Annotated[
    str | None,
    _option("Layers on devices: a number, 'all' or 'none'; default: as many as fit.", "-ngl", "--gpu-layers"),
]
DeviceNames = Annotated[
    list[str] | None,
    _option("Device to use (repeat), as `llamacore devices` lists them; 'none' for the CPU alone.", "-dev", "--device"),
]
SplitModeOption = Annotated[
    str | None, _option("How several devices share a model: none, layer, row or tensor.", "-sm", "--split-mode")
]
MainGpu = Annotated[int | None, _option("Number of the device to use with --split-mode none.", "-mg", "--main-gpu")]
TensorSplit = Annotated[
    str | None,
    _option("Share of the model for each device, such as 3,1; default: by free memory.", "-ts", "--tensor-split"),
]
FlashAttnOption = Annotated[str | None, _option("Flash attention: on, off or auto.", "-fa", "--flash-attn")]
Rpc = Annotated[list[str] | None, _option("RPC server host:port whose devices are used too (repeat).", "--rpc")]

_FLASH_ATTN: dict[str, FlashAttn] = {
    "on": "enabled",
    "off": "disabled",
    "auto": "auto",
    "enabled": "enabled",
    "disabled": "disabled",
}


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


def device_options(
    *, gpu_layers: str | None, device: list[str] | None, split_mode: str | None, main_gpu: int | None,
    tensor_split: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of `ModelParams` that the options give.

    Raises:
        InvalidArgumentError: A value is of another form.
    """
    found = {
        "n_gpu_layers": gpu_layers_of(gpu_layers),
        "devices": [] if device == ["none"] else device,
        "split_mode": split_mode,
        "main_gpu": main_gpu,
        "tensor_split": None if tensor_split is None else _shares(tensor_split),
    }
    return {name: value for name, value in found.items() if value is not None}


def flash_attn_of(value: str | None) -> FlashAttn | None:
    """Return the value of --flash-attn in the words of `ContextParams`.

    Raises:
        InvalidArgumentError: It is none of the words.
    """
    if value is not None and value not in _FLASH_ATTN:
        raise InvalidArgumentError(f"--flash-attn {value}", hint="give on, off or auto")
    return None if value is None else _FLASH_ATTN[value]


def _shares(value: str) -> list[float]:
    try:
        return [float(share) for share in value.replace("/", ",").split(",")]
    except ValueError:
        raise InvalidArgumentError(f"--tensor-split {value}", hint="give numbers, such as 3,1") from None
