"""An RPC server in a process of its own: this machine's CPU as a device over the network."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class RpcServer:
    """`llamacore rpc serve`, started and stopped."""

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "llamacore.cli.app", "rpc", "serve", "-p", str(self.port), "-t", "1", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"the server did not start: {self.output()}") from None
                time.sleep(0.05)

    def rss(self) -> int:
        """Bytes of memory that the process holds, without what it shares with others."""
        fields = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().split()
        return 1024 * int(fields[fields.index("Anonymous:") + 1])

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash or a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Press Ctrl-C and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)

    def output(self) -> str:
        """All that it printed, once it has ended."""
        out, err = self.process.communicate(timeout=30)
        return (out + err).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
