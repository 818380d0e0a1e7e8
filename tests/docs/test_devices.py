"""Every command of the guide about devices runs, against a server of this machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from rpc_server import RpcServer

from .conftest import ROOT, blocks, run_cli

GUIDE = ROOT / "docs" / "devices.md"
COMMANDS = [line for _, code in blocks(GUIDE, "sh") for line in code.splitlines() if line.startswith("llamacore ")]
SERVING = [line for line in COMMANDS if " rpc serve " in line]


@pytest.fixture(scope="module")
def server() -> Iterator[RpcServer]:
    """What the guide calls gpu-box:50052."""
    with RpcServer() as running:
        yield running


def test_the_guide_shows_commands() -> None:
    assert len(COMMANDS) > 8
    assert len(SERVING) == 1


@pytest.mark.parametrize("command", [line for line in COMMANDS if line not in SERVING])
def test_a_command_runs(command: str, server: RpcServer) -> None:
    arguments = shlex.split(command.replace("gpu-box:50052", server.endpoint))[1:]
    if arguments[0] == "generate":
        arguments += ["--max-tokens", "4"]
    result = run_cli(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_command_that_serves() -> None:
    options = shlex.split(SERVING[0])[3:]
    named = dict(zip(options[::2], options[1::2], strict=True))
    assert set(named) == {"--host", "--port"}
    with RpcServer("--host", "127.0.0.1") as running:
        assert running.stop() == 0
