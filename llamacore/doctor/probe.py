"""What a process finds when it opens the libraries and the back ends."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from .children import Tell


class _Steps(logging.Handler):
    """Tells what is opened, so that a driver that crashes is named."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


def probe(tell: Tell) -> dict[str, Any]:
    """Open everything and describe it, as JSON can say it.

    Raises:
        ImportError: The libraries cannot be opened, or do not fit.
        NativeError: There is no CPU back end.
    """
    tell("opening the libraries")
    from ..core import backend, installation

    versions = dict(backend.versions())
    tell("loading the back ends")
    backend.logger.addHandler(_Steps(tell))
    backend.logger.setLevel(logging.DEBUG)
    backends = [dataclasses.asdict(found) for found in backend.backends()]
    found: dict[str, Any] = {
        "versions": versions,
        "structs": installation.struct_sizes(),
        "backends": backends,
        "variants": [dataclasses.asdict(variant) for variant in backend.variants()],
        "system_info": backend.system_info(),
        "devices": [],
        "silent": {},
    }
    for name, handle in backend.device_handles().items():
        tell(f"asking the device {name}")
        try:
            device = dataclasses.asdict(backend.describe_device(handle))
        except RuntimeError as exc:  # a NativeError: its driver refuses
            found["silent"][name] = str(exc)
        else:
            found["devices"].append({**device, "type": device["type"].name.lower()})
    return found
