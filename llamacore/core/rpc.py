"""Devices on other machines: llama.cpp's RPC servers, and serving the devices of this machine.

A server offers its devices to one program at a time. `add_rpc_server` makes them devices of this process, which models
use when they are named in `ModelParams.devices`. There is neither a password nor encryption in the protocol, and
whoever can connect can crash the server: use it in a network where everybody is trusted.

When a server goes away, what was computing raises `RpcError`, and so does every further use of models and contexts that
have a part there; closing them gives everything back. A lost device stays lost: `add_rpc_server` makes new ones.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidArgumentError, RpcError, UnsupportedError
from ..params import StrPath
from . import backend, log
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status
from ._threads import default_threads

DEFAULT_PORT = 50052

_MAX_DEVICES = 64
_PAUSE_SECONDS = 0.2  # after a client has brought a server down
_log = logging.getLogger("llamacore.rpc")


def available() -> bool:
    """Whether these libraries can use and serve devices over the network."""
    backend.init()
    return bool(lib.llc_rpc_available())


def add_rpc_server(endpoint: str, *, timeout: float = 5.0) -> list[backend.Device]:
    """Connect to an RPC server and make its devices devices of this process.

    Args:
        endpoint: "host:port"; "[address]:port" for IPv6.
        timeout: Seconds to wait for the connection, and for each answer while getting to know the server.

    Returns:
        Its devices, under names of this process ("RPC0", ...). The same ones again when it was added before and is not
        lost. Nothing is kept open until a model uses them.

    Raises:
        InvalidArgumentError: The endpoint is not of that form, or the timeout no number above zero.
        RpcError: There is no such server, it is busy with another program, or speaks another version of the protocol.
        UnsupportedError: These libraries have no RPC back end.
    """
    host, port = split_endpoint(endpoint)
    if not 0 < timeout <= 3600:
        raise InvalidArgumentError(f"timeout={timeout!r}", hint="give seconds, more than 0 and at most 3600")
    _require()
    found, count = ffi.new("ggml_backend_dev_t[]", _MAX_DEVICES), ffi.new("size_t *")
    mark = log.mark()
    status = lib.llc_rpc_add_server(
        host.encode(), str(port).encode(), max(1, int(timeout * 1000)), found, _MAX_DEVICES, count
    )
    if status != lib.LLC_OK:
        raise_status(
            status, f"the RPC server {endpoint}", RpcError, mark=mark,
            hint="is it running (llamacore rpc serve), of the same version, and not in use by another program?",
        )  # fmt: skip
    return [backend.describe_device(handle) for handle in found[0 : count[0]]]


def disconnect_rpc_server(endpoint: str) -> None:
    """Cut the connection to a server, from any thread: what waits for it raises `RpcError`.

    Its devices are lost to this process; `add_rpc_server` makes new ones. Nothing happens when it was never added.

    Raises:
        InvalidArgumentError: The endpoint is not of the form "host:port".
    """
    host, port = split_endpoint(endpoint)
    lib.llc_rpc_lose_server(host.encode(), str(port).encode(), b"this program has disconnected it")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[address]:port".

    Raises:
        InvalidArgumentError: It is of another form.
    """
    host, _, port = str(endpoint).rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    sound = host and host.isascii() and host.isprintable() and " " not in host
    if not (sound and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise InvalidArgumentError(
            f"the RPC server {endpoint!r}", hint=f'give "host:port", such as "127.0.0.1:{DEFAULT_PORT}"'
        )
    return host, int(port)


def serve(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    devices: Sequence[str] | None = None,
    cache_dir: StrPath | None = None,
    n_threads: int | None = None,
) -> None:
    """Serve devices of this machine to one program after another. Never returns; what happens is printed to stdout.

    Run it in a process of its own: it cannot be stopped but with the process.

    Args:
        host: IPv4 address to listen on, or a name of this machine that stands for one.
        port: Port to listen on.
        devices: Names of the devices; None for all GPUs, else the CPU.
        cache_dir: Folder that keeps large tensors, so that they need not be sent again; None for none.
        n_threads: Threads of the CPU; None for the number of physical cores.

    Raises:
        InvalidArgumentError: An argument is wrong.
        RpcError: The address cannot be listened on.
        UnsupportedError: These libraries have no RPC back end.
    """
    _require()
    served = _served(devices)
    if n_threads is not None and not (hasattr(n_threads, "__index__") and 1 <= n_threads <= 512):
        raise InvalidArgumentError(f"n_threads={n_threads!r}", hint="give a number from 1 to 512")
    address = _listenable(host, port)
    folder = ffi.NULL
    if cache_dir is not None:
        os.makedirs(cache_dir, exist_ok=True)
        folder = ffi.new("char[]", path_bytes(os.fspath(cache_dir)))
    handles = ffi.new("ggml_backend_dev_t[]", served)
    endpoint = ffi.new("char[]", f"{address}:{port}".encode())
    while True:
        mark = log.mark()
        status = lib.llc_rpc_serve(endpoint, folder, n_threads or default_threads(), len(served), handles)
        if status not in (lib.LLC_ABORTED, lib.LLC_EXCEPTION, lib.LLC_OUT_OF_MEMORY):
            raise_status(status, f"serving on {host}:{port}", RpcError, mark=mark, hint="is the port free?")
        _log.warning("a client was dropped: %s", text(lib.llc_last_error()))
        log.drain()
        time.sleep(_PAUSE_SECONDS)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can connect to an address to listen on, or nobody: there is none."""
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except (OSError, ValueError):
        return True


def _require() -> None:
    if not available():
        raise UnsupportedError(
            "these libraries have no RPC back end", hint="`llamacore doctor` says why; reinstall llamacore to get it"
        )


def _served(names: Sequence[str] | None) -> list[Any]:
    if isinstance(names, str):
        raise InvalidArgumentError(f"devices={names!r}", hint="give a list of names")
    known = backend.device_handles()
    if names is None:
        return list(backend.default_devices().values()) or [known["CPU"]]
    for name in names:
        if name not in known or lib.llc_rpc_endpoint(known[name]) != ffi.NULL:
            here = ", ".join(key for key, handle in known.items() if lib.llc_rpc_endpoint(handle) == ffi.NULL)
            raise InvalidArgumentError(f"there is no device {name!r} to serve", hint=f"devices here: {here}")
    if not names or len(set(names)) < len(names):
        raise InvalidArgumentError(f"devices={list(names)!r}", hint="name at least one device, and each once")
    return [known[name] for name in names]


def _listenable(host: str, port: int) -> str:
    """Return the IPv4 address of a host, having tried that the port can be had."""
    if not hasattr(port, "__index__") or not 1 <= port <= 65535:
        raise InvalidArgumentError(f"port={port!r}", hint="give a number from 1 to 65535")
    try:
        address = socket.gethostbyname(host)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address, port))
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise RpcError(f"serving on {host}:{port}: {reason}", hint="give another host or port") from exc
    return address
