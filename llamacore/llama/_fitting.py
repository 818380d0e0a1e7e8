"""Where a model goes: servers that lend their devices, and what fits into the memory of the devices."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..core import backend, rpc
from ..core.fit import Fit, FitExtra, FitParams, fit
from ..engine.speculation.params import DraftModel, Mtp, Speculative
from ..errors import InvalidArgumentError, ModelLoadError, OutOfMemoryError
from ..params import ContextParams, ModelParams, StrPath

if TYPE_CHECKING:
    from ..core.context import Context
    from ..core.model import Model

_log = logging.getLogger("llamacore.llama")


def with_servers(params: ModelParams, endpoints: Sequence[str] | None) -> ModelParams:
    """Add RPC servers; without `devices` the model uses theirs first, then those of this machine.

    Raises:
        RpcError: A server cannot be reached.
        InvalidArgumentError: It is no list of endpoints.
    """
    if endpoints is None:
        return params
    if isinstance(endpoints, (str, bytes)) or not isinstance(endpoints, Sequence):
        raise InvalidArgumentError(f"rpc={endpoints!r}", hint='give a list of "host:port"')
    remote = [device.name for endpoint in endpoints for device in rpc.add_rpc_server(endpoint)]
    if params.devices is not None:
        return params
    return dataclasses.replace(params, devices=[*dict.fromkeys(remote), *backend.default_devices()])


def aim_of(asked: bool | FitParams | None) -> FitParams | None:
    """Return what a fit that was asked for aims at, None where none was.

    Raises:
        InvalidArgumentError: It is neither of the two.
    """
    if asked is not None and not isinstance(asked, (bool, FitParams)):
        raise InvalidArgumentError(f"fit={asked!r}", hint="give True, False or a FitParams")
    return FitParams() if asked is True else asked or None


def plan(
    path: StrPath,
    asked: bool | FitParams | None,
    params: ModelParams,
    context_params: ContextParams,
    speculative: Speculative | Literal["auto"] | None,
    default_n_ctx: int,
) -> Fit | None:
    """Fit a model before it is loaded; None where nothing was to be done.

    When nothing was asked, it is done where a model would go to a device and nobody said how much of it. The context is
    then as large as it would be anyway.
    """
    aim = aim_of(asked)
    if aim is None:
        if asked is False or not _is_open(params):
            return None
        aim = FitParams(n_ctx_min=min(FitParams().n_ctx_min, default_n_ctx), n_ctx_max=default_n_ctx)
    try:
        found = fit(path, params, context_params, params=aim, extra=_extra(path, params, speculative))
    except OutOfMemoryError as error:  # the context that is asked for cannot even be planned
        _log.warning("%s", error)
        return None
    except ModelLoadError:
        if asked is not None:
            raise
        return None  # nobody asked for a plan, and loading has the better word on the file
    if not found.fits:
        _log.warning("%s: %s", os.fspath(path), found.reason)
    return found


def _is_open(params: ModelParams) -> bool:
    """Whether a model goes to a device, and how much of it is not said."""
    said: tuple[Any, ...] = (params.n_gpu_layers, params.tensor_split, params.tensor_overrides)
    if any(value is not None for value in said) or params.split_mode in ("row", "tensor"):
        return False
    if params.vocab_only or params.no_alloc:
        return False
    return bool(params.devices) if params.devices is not None else bool(backend.default_devices())


def _extra(path: StrPath, params: ModelParams, speculative: Speculative | Literal["auto"] | None) -> FitExtra | None:
    if isinstance(speculative, Mtp) and speculative.model is None:
        alike = dataclasses.replace(params, load_mtp=True)
        return FitExtra(path=path, model_params=alike, context_params=ContextParams(ctx_type="mtp"))
    if isinstance(speculative, (DraftModel, Mtp)) and isinstance(speculative.model, (str, os.PathLike)):
        layers = speculative.n_gpu_layers if isinstance(speculative, DraftModel) else None
        return FitExtra(path=speculative.model, model_params=ModelParams(n_gpu_layers=layers))
    return None


def open_context(model: Model, params: ContextParams, aim: FitParams | None) -> Context:
    """Make a context; with an aim one that is half as large whenever memory runs out, down to `n_ctx_min`.

    Raises:
        OutOfMemoryError: Memory ran out, and nothing smaller was allowed.
    """
    while True:
        try:
            return model.context(params)
        except OutOfMemoryError as error:
            n_ctx = params.n_ctx or model.n_ctx_train
            if aim is None or n_ctx <= aim.n_ctx_min:
                raise
            smaller = max(n_ctx // 2, aim.n_ctx_min)
            _log.warning("%s; trying a context of %d tokens", error.message, smaller)
            params = dataclasses.replace(params, n_ctx=smaller)
