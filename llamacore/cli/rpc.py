"""`llamacore rpc`: the devices of this machine for programs on others."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from llamacore.core import rpc

from ._errors import reported
from ._terminal import note

_STARTED_AFTER_SECONDS = 0.2

app = typer.Typer(help="Devices on other machines (RPC).", no_args_is_help=True)


@app.callback()
def _rpc() -> None:
    pass


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", "-H", help="IPv4 address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="Port to listen on.")] = rpc.DEFAULT_PORT,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="Device to serve (repeat); default: all GPUs, else the CPU."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder that keeps large tensors for the next time.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", help="Threads of the CPU; default: physical cores.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors and warnings.")] = False,
) -> None:
    """Serve devices of this machine to one program after another, until Ctrl-C."""
    with reported():
        if not rpc.is_loopback(host):
            note(
                f"WARNING: {host} can be reached from other machines, and the protocol has neither a password nor "
                "encryption: whoever can connect can use these devices and crash this process"
            )
        failure: list[BaseException] = []

        def run() -> None:
            try:
                rpc.serve(host, port, devices=device, cache_dir=cache, n_threads=threads)
            except BaseException as exc:
                failure.append(exc)

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # native code that never returns cannot be interrupted: it runs beside the thread that hears of Ctrl-C
        server = threading.Thread(target=run, name="llamacore-rpc", daemon=True)
        server.start()
        try:
            server.join(_STARTED_AFTER_SECONDS)
            if server.is_alive():
                note(f"serving on {host}:{port}; Ctrl-C stops", quiet=quiet)
            while server.is_alive():
                server.join(1.0)
        except KeyboardInterrupt:
            note("stopped", quiet=quiet)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        raise failure[0]
