"""`llamacore devices`, `fit` and `rpc serve`, and the options of `generate` about devices, as a user runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpc_server import RpcServer, free_port

PROMPT = ("--raw", "Once upon a time", "-n", "12", "--temp", "0", "-t", "1", "-q")


def run(*arguments: str, status: int = 0) -> tuple[str, str]:
    """Run the command to its end and return (stdout, stderr)."""
    command = [sys.executable, "-m", "llamacore.cli.app", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[RpcServer]:
    """This machine's CPU as a device."""
    with RpcServer() as running:
        yield running


def test_devices_are_listed(server: RpcServer) -> None:
    """As a table and as JSON; those of servers too."""
    out, _ = run("devices")
    assert any(line.startswith("CPU") and "MiB free" in line for line in out.splitlines())
    rows = json.loads(run("devices", "--json", "--rpc", server.endpoint)[0])
    assert {"CPU", "RPC0"} <= {row["name"] for row in rows}
    remote = next(row for row in rows if row["name"] == "RPC0")
    assert (remote["description"], remote["type"], remote["backend"]) == (server.endpoint, "gpu", "RPC")
    assert remote["memory_total"] > 0


def test_generate_on_a_device(server: RpcServer) -> None:
    """The text is the CPU's; every option is taken."""
    wanted = run("generate", *PROMPT, "--device", "none")[0]
    remote = ("--rpc", server.endpoint)
    assert run("generate", *PROMPT, *remote)[0] == wanted
    for options in (
        ("--gpu-layers", "3"),
        ("--gpu-layers", "all", "--flash-attn", "on"),
        ("--device", "RPC0", "--split-mode", "none", "--main-gpu", "0"),
        ("--split-mode", "layer", "--tensor-split", "1"),
    ):
        assert run("generate", *PROMPT, *remote, *options)[0] == wanted


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rpc", "nonsense"), "host:port"),
        (("--device", "CUDA9"), "there is no device 'CUDA9'"),
        (("--gpu-layers", "most"), "--gpu-layers most"),
        (("--flash-attn", "maybe"), "--flash-attn maybe"),
        (("--tensor-split", "1,x"), "--tensor-split 1,x"),
        (("--tensor-split", "0,0"), "no device a share"),
        (("--split-mode", "diagonal"), "split_mode"),
        (("--split-mode", "tensor", "--device", "none"), "without a device"),
    ],
)
def test_wrong_options_are_one_line(options: tuple[str, ...], says: str) -> None:
    """Status 1, nothing on stdout."""
    out, err = run("generate", *PROMPT, *options, status=1)
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1


def test_fit_shows_what_is_taken(server: RpcServer) -> None:
    """A row for each device and one for the host; then options that generate takes."""
    out, _ = run("fit", "--rpc", server.endpoint, "--ctx-size", "512")
    lines = out.splitlines()
    assert lines[0].split() == ["MiB", "total", "free", "used", "model", "context", "compute", "margin"]
    assert [line.split()[0] for line in lines[1:3]] == ["RPC0", "host"]
    assert "fits as asked for: --ctx-size 512 --gpu-layers all" in lines[3]
    found = json.loads(run("fit", "--json")[0])
    assert (found["status"], found["n_ctx"], found["n_gpu_layers"]) == ("unchanged", 2048, "all")
    row = found["devices"][-1]
    assert row["name"] == "host"
    assert row["used"] == row["model"] + row["context"] + row["compute"]


def test_fit_that_fails(tmp_path: Path) -> None:
    """Status 1 with the table when nothing fits, with one line when there is nothing to fit."""
    out, err = run("fit", "--margin", str(2**40), status=1)
    assert "does not fit" in out
    assert err == ""
    assert "there is no file" in run("fit", "-m", str(tmp_path / "none.gguf"), status=1)[1]


def test_serving_ends_with_ctrl_c() -> None:
    """Cleanly, and so it does when it is terminated; without --quiet it says where it listens."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with RpcServer() as server:
            time.sleep(0.5)  # so that it has said where it listens
            server.signal(number)
            assert server.process.wait(timeout=30) == 0
            said = server.output()
            assert f"serving on {server.endpoint}" in said
            assert "stopped" in said
            assert "WARNING" not in said


def test_serving_to_others_warns() -> None:
    """An address that others can reach is not secret."""
    with RpcServer("--host", "0.0.0.0", "--quiet") as server:
        assert server.stop() == 0
        said = server.output()
        assert "WARNING: 0.0.0.0 can be reached from other machines" in said
        assert "stopped" not in said


def test_what_cannot_be_served(server: RpcServer) -> None:
    """One line and status 1."""
    for options, says in (
        (("--port", str(server.port)), "in use"),
        (("--port", "0"), "port=0"),
        (("--device", "CUDA9"), "to serve"),
        (("--host", "no-such-host.invalid"), "no-such-host.invalid"),
        (("--threads", "0"), "n_threads=0"),
    ):
        port = () if "--port" in options else ("--port", str(free_port()))
        _, err = run("rpc", "serve", *port, *options, "-q", status=1)
        assert says in err
        assert len(err.splitlines()) == 1
