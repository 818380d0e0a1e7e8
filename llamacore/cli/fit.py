"""`llamacore fit`: what a model would take of the memory of the devices, and how it fits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llamacore.core import backend, rpc
from llamacore.core.fit import Fit, FitParams
from llamacore.core.fit import fit as fit_model
from llamacore.hub import demo_model_path
from llamacore.params import ContextParams, ModelParams

from . import _devices as dev
from ._errors import EXIT_FAILURE, reported

_MIB = 1024 * 1024


def fit(
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="GGUF file; default: the bundled demo model.")
    ] = None,
    ctx_size: Annotated[
        int | None,
        typer.Option("-c", "--ctx-size", help="Tokens of context; default: as many as fit.", show_default=False),
    ] = None,
    ctx_max: Annotated[int, typer.Option("--ctx-max", help="Most tokens that are chosen.")] = 32768,
    ctx_min: Annotated[int, typer.Option("--ctx-min", help="Fewest tokens that are chosen.")] = 4096,
    margin: Annotated[int, typer.Option("--margin", help="MiB to leave free on every device.")] = 1024,
    gpu_layers: dev.GpuLayersOption = None,
    device: dev.DeviceNames = None,
    split_mode: dev.SplitModeOption = None,
    main_gpu: dev.MainGpu = None,
    tensor_split: dev.TensorSplit = None,
    flash_attn: dev.FlashAttnOption = None,
    rpc_servers: dev.Rpc = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how a model fits into the memory that is free, without loading it; status 1 if it does not."""
    with reported():
        given = dev.device_options(
            gpu_layers=gpu_layers, device=device, split_mode=split_mode, main_gpu=main_gpu, tensor_split=tensor_split
        )
        remote = [found.name for endpoint in rpc_servers or () for found in rpc.add_rpc_server(endpoint)]
        if remote and device is None:
            given["devices"] = [*remote, *backend.default_devices()]
        options: dict[str, Any] = {"n_ctx": ctx_size, "flash_attn": dev.flash_attn_of(flash_attn)}
        found = fit_model(
            model or demo_model_path(),
            ModelParams(**given),
            ContextParams(**options),
            params=FitParams(margins=margin * _MIB, n_ctx_min=min(ctx_min, ctx_max), n_ctx_max=ctx_max),
        )
        print(json.dumps(_as_json(found)) if json_output else _table(found))
        if not found.fits:
            raise typer.Exit(EXIT_FAILURE)


def _as_json(found: Fit) -> dict[str, Any]:
    return {
        "status": found.status,
        "reason": found.reason,
        "n_ctx": found.n_ctx,
        "n_gpu_layers": found.n_gpu_layers,
        "tensor_split": list(found.tensor_split),
        "tensor_overrides": dict(found.model_params.tensor_overrides or {}),
        "devices": [dataclasses.asdict(row) | {"used": row.used} for row in found.devices],
    }


def _table(found: Fit) -> str:
    heads = ("MiB", "total", "free", "used", "model", "context", "compute", "margin")
    rows: list[tuple[str, ...]] = [heads]
    for row in found.devices:
        numbers = (row.total, row.free, row.used, row.model, row.context, row.compute, row.margin)
        rows.append((row.name, *(str(number // _MIB) for number in numbers)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    said = {
        "unchanged": "fits as asked for",
        "fitted": "fits when changed",
        "failed": f"does not fit: {found.reason}",
    }[found.status]
    split = f" --tensor-split {','.join(f'{share:g}' for share in found.tensor_split)}" if found.tensor_split else ""
    lines.append(f"{said}: --ctx-size {found.n_ctx} --gpu-layers {found.n_gpu_layers}{split}")
    lines += [f"tensors {pattern} in {place}" for pattern, place in (found.model_params.tensor_overrides or {}).items()]
    return "\n".join(lines)
