"""`llamacore devices`: what a model can be computed on."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from llamacore.core import backend, rpc

from ._devices import Rpc
from ._errors import reported

_MIB = 1024 * 1024


def devices(
    rpc_servers: Rpc = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the devices of this machine, and those of RPC servers."""
    with reported():
        for endpoint in rpc_servers or ():
            rpc.add_rpc_server(endpoint)
        found = backend.devices()
        if json_output:
            rows = [
                {
                    "name": device.name,
                    "description": device.description,
                    "type": device.type.name.lower(),
                    "memory_free": device.memory_free,
                    "memory_total": device.memory_total,
                    "backend": device.backend,
                    "device_id": device.device_id,
                }
                for device in found
            ]
            print(json.dumps(rows, ensure_ascii=False))
            return
        width = max(len(device.name) for device in found)
        for device in found:
            memory = f"{device.memory_free // _MIB} of {device.memory_total // _MIB} MiB free"
            print(f"{device.name:<{width}}  {device.type.name:<5}  {memory:>28}  {device.description}")
