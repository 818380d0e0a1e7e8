"""Fitting a model and its context to the memory of the devices, before any weights are loaded.

Upstream (`common_fit_params`) makes the model and the context without allocating anything, adds up what they would take
on each device, and changes what was left at its default until it fits: first the size of the context, then the number
of layers on the devices and their split, for mixtures of experts also which experts stay in host memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from ..errors import InvalidArgumentError, ModelLoadError, OutOfMemoryError, UnsupportedError
from ..params import ContextParams, GpuLayers, ModelParams, StrPath
from . import backend, log
from ._context_params import native_context_params
from ._model_params import native_model_params
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status, ran_out_of_memory
from .model import Model

Status = Literal["unchanged", "fitted", "failed"]

_MOST_DEVICES = 64
_CELLS = 256  # upstream makes contexts of a multiple of these


@dataclass(frozen=True, kw_only=True)
class FitParams:
    """What a fit aims at.

    Attributes:
        margins: Bytes to leave free on every device, or one number for each device in the model's order. On a machine
            without a device for the model it is host memory that is left free.
        n_ctx_min: The smallest context that memory is saved with; after that layers leave the devices.
        n_ctx_max: The largest context that is made of free memory; None for what the model was trained with.
    """

    margins: int | Sequence[int] = 1024 * 1024 * 1024
    n_ctx_min: int = 4096
    n_ctx_max: int | None = 32768

    def __post_init__(self) -> None:
        margins: Any = [self.margins] if hasattr(self.margins, "__index__") else self.margins
        if isinstance(margins, (str, bytes)) or not isinstance(margins, Sequence) or not margins:
            raise InvalidArgumentError(f"margins={self.margins!r}", hint="give bytes, or a list of bytes")
        for value in margins:
            if not hasattr(value, "__index__") or not 0 <= value < 2**63:
                raise InvalidArgumentError(f"margins={self.margins!r}", hint="give whole numbers of bytes")
        for name in ("n_ctx_min", "n_ctx_max"):
            value = getattr(self, name)
            if value is not None and not (hasattr(value, "__index__") and 1 <= value < 2**31):
                raise InvalidArgumentError(f"{name}={value!r}", hint="give a number of tokens")
        if self.n_ctx_max is not None and self.n_ctx_max < self.n_ctx_min:
            raise InvalidArgumentError(f"n_ctx_max={self.n_ctx_max} with n_ctx_min={self.n_ctx_min}")


@dataclass(frozen=True, kw_only=True)
class FitExtra:
    """A second model on the same devices, such as a draft model; its context is as large as the first one's.

    Attributes:
        path: Its file; the same one for the MTP layers of the model itself, whose weights then count once.
        model_params: How it will be loaded.
        context_params: Its context; `n_ctx` is that of the first one.
    """

    path: StrPath
    model_params: ModelParams = dataclasses.field(default_factory=ModelParams)
    context_params: ContextParams = dataclasses.field(default_factory=ContextParams)


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """What is planned for the memory of one device; all in bytes.

    Attributes:
        name: Name of the device; "host" for what stays in the memory of the machine itself.
        total: Memory that it has.
        free: Memory that is free now.
        model: Taken by weights.
        context: Taken by the memory of the context.
        compute: Taken by temporary results.
        margin: To be left free; 0 where nothing was asked for.
    """

    name: str
    total: int
    free: int
    model: int
    context: int
    compute: int
    margin: int

    @property
    def used(self) -> int:
        """Taken by all of it."""
        return self.model + self.context + self.compute


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The outcome of `fit`.

    Attributes:
        status: "unchanged" when it fits as it was asked for, "fitted" when something had to change, "failed" when no
            way was found; then the parameters are those that were asked for.
        reason: Why it failed, in upstream's words.
        n_ctx: Tokens of context.
        n_gpu_layers: Layers on the devices, or "all".
        tensor_split: Share of the model for each device; empty where it is split by free memory.
        devices: What is planned, a row for each device and the host last. Of a failed fit it is what would be taken.
        model_params: How to load the model so.
        context_params: How to make its context so.
    """

    status: Status
    reason: str
    n_ctx: int
    n_gpu_layers: GpuLayers
    tensor_split: tuple[float, ...]
    devices: tuple[DeviceMemory, ...]
    model_params: ModelParams
    context_params: ContextParams

    @property
    def fits(self) -> bool:
        """Whether it is planned to fit."""
        return self.status != "failed"


@dataclass
class _Native:
    """Parameters in upstream's form, with the memory that they point to."""

    path: Any
    model: Any
    context: Any
    keep: list[Any]
    n_ctx_train: int


def fit(
    path: StrPath,
    model_params: ModelParams | None = None,
    context_params: ContextParams | None = None,
    *,
    params: FitParams | None = None,
    extra: FitExtra | None = None,
) -> Fit:
    """Find parameters with which a model and its context fit into the memory that is free now.

    Only what is at its default is changed: `n_gpu_layers`, `tensor_split` and `tensor_overrides` of the model, and
    `n_ctx` where it is None or 0. No weights are read. One fit runs at a time in a process.

    Args:
        path: The GGUF file; of several parts the first.
        model_params: How the model is to be loaded.
        context_params: How its context is to be made.
        params: What to aim at.
        extra: A second model on the same devices.

    Returns:
        What was found; see `Fit.status`.

    Raises:
        ModelNotFoundError: There is no such file.
        InvalidModelError: The file is damaged or not a GGUF model.
        ModelLoadError: llama.cpp cannot make the model or the context; the native log says why.
        InvalidArgumentError: A parameter is wrong.
        UnsupportedError: It is to be loaded without its weights.
        OutOfMemoryError: The context asked for is larger than the machine.
        RpcError: A server that has a device was lost.
    """
    asked, wanted = model_params or ModelParams(), context_params or ContextParams()
    aim = params or FitParams()
    if asked.vocab_only or asked.no_alloc:
        raise UnsupportedError("fitting a model that is loaded without its weights", hint="leave out that option")
    what = f"fitting {os.fspath(path)}"
    automatic = not wanted.n_ctx
    first = _native(path, asked, wanted, aim.n_ctx_min if automatic else None)
    second = None if extra is None else _native(extra.path, extra.model_params, extra.context_params, aim.n_ctx_min)
    most = min(first.n_ctx_train, aim.n_ctx_max or first.n_ctx_train)
    least = min(aim.n_ctx_min, most)
    same = extra is not None and os.path.samefile(path, extra.path)
    if automatic:
        first.context.n_ctx = 0
    reason = _run(what, first, second, same, aim)
    if not reason and automatic and first.context.n_ctx > most:
        # what the larger context would have taken may hold layers
        first = _native(path, asked, wanted, most)
        reason = _run(what, first, second, same, aim)
    if reason:
        first = _native(path, asked, wanted, least if automatic else None)
    devices = _measured(what, first, second, same, aim)
    while automatic and not reason and first.model.n_gpu_layers != 0 and _too_much(devices):
        # upstream takes it that all of the memory grows evenly with the context
        if first.context.n_ctx <= least:
            reason = _run(what, first, second, same, aim) if first.model.n_gpu_layers < 0 else ""
            devices = _measured(what, first, second, same, aim)
            break
        first.context.n_ctx = max(least, first.context.n_ctx * 3 // 4 // _CELLS * _CELLS)
        devices = _measured(what, first, second, same, aim)
    return _result(asked, wanted, first, reason, devices, shorter=automatic and first.context.n_ctx < most)


def _too_much(devices: Sequence[DeviceMemory]) -> bool:
    """Whether less would be left free than was asked for; of the host alone all memory counts, as upstream has it."""
    alone = len(devices) == 1
    return any(row.margin and row.used + row.margin > (row.total if alone else row.free) for row in devices)


def _native(path: StrPath, model_params: ModelParams, context_params: ContextParams, n_ctx: int | None) -> _Native:
    """Turn parameters into upstream's, checked against the model as for a real context."""
    alone = dataclasses.replace(context_params, samplers=None, ctx_other=None, capture=None)
    with Model.load(path, dataclasses.replace(model_params, no_alloc=True, load_mode=None)) as model:
        if n_ctx is not None:
            alone = dataclasses.replace(alone, n_ctx=min(n_ctx, model.n_ctx_train))
        context, keep = native_context_params(model, alone)
        name, n_ctx_train = ffi.new("char[]", path_bytes(model.paths[0])), model.n_ctx_train
    model_native, alive = native_model_params(model_params)
    return _Native(name, model_native, context, [*keep, *alive], n_ctx_train)


def _run(what: str, first: _Native, second: _Native | None, same: bool, aim: FitParams) -> str:
    """Let upstream change the parameters; returns why it found no way, or nothing."""
    if first.model.n_gpu_layers == 0:  # nothing can be moved, and upstream would divide by the number
        first.context.n_ctx = first.context.n_ctx or min(first.n_ctx_train, aim.n_ctx_max or first.n_ctx_train)
        return ""
    limits = backend.limits()
    split = ffi.new("float[]", limits["devices"])
    overrides = ffi.new("struct llama_model_tensor_buft_override[]", limits["tensor_buft_overrides"])
    first.keep += [split, overrides]
    margins = ffi.new("size_t[]", [_margin(aim, i) for i in range(limits["devices"])])
    extra = ffi.NULL
    if second is not None:
        extra = ffi.new("struct llc_fit_extra *", (second.path, second.model, second.context, same))
    outcome = ffi.new("int32_t *")
    mark = log.mark()
    status = lib.llc_fit(
        first.path, first.model, first.context, split, overrides, margins, aim.n_ctx_min, extra, outcome
    )
    if status == lib.LLC_FAILED and outcome[0] == 1:
        return text(lib.llc_last_error()) or "no way was found"
    if status != lib.LLC_OK:
        _raise(status, what, mark)
    return ""


def _raise(status: int, what: str, mark: int) -> NoReturn:
    if status != lib.LLC_DEVICE_LOST and ran_out_of_memory(mark):
        raise_status(lib.LLC_OUT_OF_MEMORY, what, OutOfMemoryError, mark=mark)
    raise_status(status, what, ModelLoadError, mark=mark, hint="check the parameters; the file may be damaged")


def _margin(aim: FitParams, device: int) -> int:
    if isinstance(aim.margins, Sequence):
        return int(aim.margins[min(device, len(aim.margins) - 1)])
    return int(aim.margins)


def _measured(
    what: str, first: _Native, second: _Native | None, same: bool, aim: FitParams
) -> tuple[DeviceMemory, ...]:
    """What both models would take; of one that is the same file the weights count once."""
    devices = _measured_alone(what, first, aim)
    if second is None:
        return devices
    second.context.n_ctx = first.context.n_ctx
    taken = {row.name: row for row in _measured_alone(what, second, aim)}
    return tuple(
        row if row.name not in taken else dataclasses.replace(
            row,
            model=row.model + (0 if same else taken[row.name].model),
            context=row.context + taken[row.name].context,
            compute=row.compute + taken[row.name].compute,
        )
        for row in devices
    )  # fmt: skip


def _measured_alone(what: str, native: _Native, aim: FitParams) -> tuple[DeviceMemory, ...]:
    rows, count = ffi.new("struct llc_fit_memory[]", _MOST_DEVICES), ffi.new("size_t *")
    mark = log.mark()
    status = lib.llc_fit_measure(native.path, native.model, native.context, rows, _MOST_DEVICES, count)
    if status != lib.LLC_OK:
        _raise(status, what, mark)
    last = count[0] - 1
    return tuple(
        DeviceMemory(
            name="host" if row.device == ffi.NULL else text(lib.ggml_backend_dev_name(row.device)),
            total=int(row.total),
            free=int(row.free),
            model=int(row.model),
            context=int(row.context),
            compute=int(row.compute),
            margin=_margin(aim, i) if i < last or last == 0 else 0,
        )
        for i, row in enumerate(rows[0 : count[0]])
    )


def _result(
    asked: ModelParams,
    wanted: ContextParams,
    native: _Native,
    reason: str,
    devices: tuple[DeviceMemory, ...],
    *,
    shorter: bool,
) -> Fit:
    layers = native.model.n_gpu_layers
    model_params = asked
    moved = asked.n_gpu_layers is None and layers >= 0 and not reason
    if moved:
        split = [float(share) for share in native.model.tensor_split[0 : len(devices) - 1]]
        model_params = dataclasses.replace(
            asked,
            n_gpu_layers=int(layers),
            tensor_split=split if any(split) else asked.tensor_split,
            tensor_overrides=_overrides(native.model.tensor_buft_overrides) or asked.tensor_overrides,
        )
    n_ctx = int(native.context.n_ctx)
    return Fit(
        status="failed" if reason else "fitted" if moved or shorter else "unchanged",
        reason=reason,
        n_ctx=n_ctx,
        n_gpu_layers="all" if layers < 0 else int(layers),
        tensor_split=tuple(model_params.tensor_split or ()),
        devices=devices,
        model_params=model_params,
        context_params=dataclasses.replace(wanted, n_ctx=n_ctx),
    )


def _overrides(rows: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    i = 0
    while rows != ffi.NULL and rows[i].pattern != ffi.NULL:
        found[text(rows[i].pattern)] = backend.buffer_type_name(rows[i].buft)
        i += 1
    return found
