"""From `ModelParams` to `llama_model_params`, with what upstream would assert on checked first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidArgumentError, UnsupportedError
from ..params import ModelParams
from . import _enums, backend, kv_override
from ._native import ffi, lib
from .sampler_checks import utf8

_MAX_PATTERN_BYTES = 2048  # the C++ library recurses once for each character of a pattern


def native_model_params(params: ModelParams) -> tuple[Any, list[Any]]:
    """Fill a `llama_model_params`; the second value must live as long as the model.

    Raises:
        InvalidArgumentError: A value is unknown, or out of range for the devices there are.
        UnsupportedError: The devices cannot hold a model that is split like that.
    """
    native = ffi.new("struct llama_model_params *", lib.llama_model_default_params())
    if params.no_alloc:
        if params.load_mode not in (None, "none"):
            raise InvalidArgumentError(f"no_alloc with load_mode={params.load_mode!r}", hint="leave load_mode out")
        native.load_mode = _enums.value("load_mode", "none")  # upstream asserts on mapping what is not to be allocated
    keep: list[Any] = []
    for name in ("main_gpu", "vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc", "load_mtp"):
        value = getattr(params, name)
        if value is not None:
            setattr(native, name, value)
    for name in ("split_mode", "load_mode", "lazy_mode"):
        value = getattr(params, name)
        if value is not None:
            setattr(native, name, _enums.value(name, value))
    if params.n_gpu_layers is not None:
        layers = params.n_gpu_layers
        native.n_gpu_layers = -1 if layers == "all" else 0 if layers == "none" else layers
    if params.devices is not None:
        devices = ffi.new("ggml_backend_dev_t[]", [*_named(params.devices).values(), ffi.NULL])
        keep.append(devices)
        native.devices = devices
    _check_split(params)
    if params.tensor_split is not None:
        limit = backend.limits()["devices"]
        split = ffi.new("float[]", list(params.tensor_split) + [0.0] * (limit - len(params.tensor_split)))
        keep.append(split)
        native.tensor_split = split
    if params.tensor_overrides:
        native.tensor_buft_overrides = _tensor_overrides(params.tensor_overrides, keep)
    if params.kv_overrides:
        overrides, alive = kv_override.native(params.kv_overrides)
        keep += [overrides, alive]
        native.kv_overrides = overrides
    return native, keep


def _named(names: Sequence[str]) -> dict[str, Any]:
    known = backend.device_handles()
    found: dict[str, Any] = {}
    for name in names:
        if name not in known:
            raise InvalidArgumentError(f"there is no device {name!r}", hint="devices here: " + ", ".join(known))
        if name in found:
            raise InvalidArgumentError(f"devices has {name!r} twice", hint="name each device once")
        found[name] = known[name]
    return found


def _check_split(params: ModelParams) -> None:
    """Refuse what upstream would read past its list of devices for, ignore, or fail at after reading the file."""
    given = params.devices is not None
    devices = _named(params.devices) if params.devices is not None else backend.default_devices()
    here = f"{'devices has' if given else 'this machine has'} {', '.join(devices) or 'none'}"
    if params.split_mode == "tensor" and not devices:
        raise UnsupportedError('split_mode="tensor" without a device to split over', hint=here)
    if params.split_mode == "row":
        for name, handle in devices.items():
            reg = lib.ggml_backend_dev_backend_reg(handle)
            if lib.ggml_backend_reg_get_proc_address(reg, b"ggml_backend_split_buffer_type") == ffi.NULL:
                raise UnsupportedError(
                    f'the device {name} cannot hold rows of a tensor: split_mode="row"', hint='use "layer" or "tensor"'
                )
    main_gpu = params.main_gpu
    if params.split_mode == "none" and devices and main_gpu is not None and main_gpu >= len(devices):
        raise InvalidArgumentError(f"main_gpu={main_gpu}", hint=f"0 to {len(devices) - 1}, negative for none: {here}")
    if params.tensor_split is None:
        return
    shares, limit = len(params.tensor_split), backend.limits()["devices"]
    if shares > limit:
        raise InvalidArgumentError(f"tensor_split has {shares} shares", hint=f"at most {limit}")
    if devices and shares > len(devices):
        raise InvalidArgumentError(f"tensor_split has {shares} shares for {len(devices)} devices", hint=here)
    if shares and not any(params.tensor_split):
        raise InvalidArgumentError("tensor_split gives no device a share", hint="leave it out to split by free memory")


def _tensor_overrides(overrides: Mapping[str, str], keep: list[Any]) -> Any:
    known = backend.buffer_types()
    limit = backend.limits()["tensor_buft_overrides"]
    if len(overrides) >= limit:
        raise InvalidArgumentError(f"tensor_overrides has {len(overrides)} patterns", hint=f"at most {limit - 1}")
    rows = ffi.new("struct llama_model_tensor_buft_override[]", len(overrides) + 1)
    for row, (pattern, buffer_type) in zip(rows, overrides.items(), strict=False):  # one row more ends the list
        raw = utf8("a pattern of tensor_overrides", pattern)
        if len(raw) > _MAX_PATTERN_BYTES:
            raise InvalidArgumentError(
                f"a pattern of tensor_overrides has {len(raw)} bytes", hint=f"give at most {_MAX_PATTERN_BYTES}"
            )
        if buffer_type not in known:
            raise InvalidArgumentError(
                f"there is no buffer type {buffer_type!r}", hint="buffer types here: " + ", ".join(known)
            )
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as exc:
            raise InvalidArgumentError(f"tensor_overrides pattern {pattern!r}: {exc}") from exc
        name = ffi.new("char[]", raw)
        keep.append(name)
        row.pattern, row.buft = name, known[buffer_type]
    keep.append(rows)
    return rows
