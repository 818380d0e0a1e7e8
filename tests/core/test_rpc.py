"""Devices of RPC servers: used, refused, and lost in every way that a network has."""

from __future__ import annotations

import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from decoding import PROMPT
from rpc_server import RpcServer, free_port

import llamacore as lc
from llamacore.core import backend, rpc
from llamacore.engine.speculation.params import DraftModel
from llamacore.errors import InvalidArgumentError, RpcError, StateError
from llamacore.hub import demo_draft_path

HELLO, DEVICE_COUNT, GET_ALIGNMENT, GET_MAX_SIZE = 14, 15, 1, 2
ALLOC_BUFFER, BUFFER_GET_BASE, GET_TENSOR, SET_TENSOR = 0, 3, 8, 6
SOUND = {HELLO: bytes([7, 0, 0, 0]) + bytes(24), DEVICE_COUNT: struct.pack("<I", 1),
         GET_ALIGNMENT: struct.pack("<Q", 64), GET_MAX_SIZE: struct.pack("<Q", 2**40)}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[RpcServer]:
    """A server that nobody brings down."""
    with RpcServer() as running:
        yield running


@pytest.fixture
def doomed() -> Iterator[RpcServer]:
    """A server for one test to end."""
    with RpcServer() as running:
        yield running


def on(server: RpcServer, path: Path, **options: Any) -> lc.Llama:
    return lc.Llama(path, rpc=[server.endpoint], **{"n_ctx": 512, "n_threads": 1, **options})


class Last(bytes):
    """What is said before hanging up."""


@contextmanager
def impostor(answer: Callable[[int, bytes], bytes | None]) -> Iterator[str]:
    """Listens like a server; `answer` gets command and request, and gives what is sent back, or None to hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    try:
                        while True:
                            command, size = struct.unpack("<BQ", exactly(client, 9))
                            said = answer(command, exactly(client, size))
                            client.sendall(said or b"")
                            if said is None or isinstance(said, Last):
                                break
                    except OSError:
                        pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise OSError
        data += piece
    return data


def sized(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


# use


def test_its_devices_are_devices_here(server: RpcServer) -> None:
    """A device is listed under a name of this process, with the address of its server and its memory."""
    (device,) = rpc.add_rpc_server(server.endpoint)
    assert device in backend.devices()
    assert (device.name[:3], device.description, device.type.name) == ("RPC", server.endpoint, "GPU")
    assert device.memory_total >= device.memory_free > 2**20
    assert backend.supports()["rpc"]


def test_adding_it_again_gives_the_same_devices(server: RpcServer, exact_path: Path) -> None:
    """Before and while it is used."""
    first = rpc.add_rpc_server(server.endpoint)
    with on(server, exact_path):
        assert [d.name for d in rpc.add_rpc_server(server.endpoint)] == [d.name for d in first]


def test_a_model_on_it_writes_the_same(server: RpcServer, exact_path: Path, reference: lc.Completion) -> None:
    """Weights and memory lie on the device, under its server's name; the text is that of the CPU."""
    with on(server, exact_path) as llama:
        assert llama.generate(PROMPT, max_tokens=32, temperature=0).tokens == reference.tokens
        use = {row.buffer_type: row for row in llama.context.memory_use()}[f"RPC0[{server.endpoint}]"]
        assert use.model > 0.8 * llama.model.size
        assert use.context > 0
        assert [device.description for device in llama.model.devices] == [server.endpoint]


def test_models_that_do_not_name_it_do_not_use_it(server: RpcServer, exact_path: Path) -> None:
    """Adding a server changes nothing for others."""
    rpc.add_rpc_server(server.endpoint)
    with lc.Model.load(exact_path) as model:
        assert not any(device.backend == "RPC" for device in model.devices)


def test_two_threads_share_a_device(server: RpcServer, exact_path: Path) -> None:
    """Contexts of two threads on one device each get the results of their own graphs."""
    prompts = ["Once upon a time", "The quick brown fox", "In the deep forest", "A dragon and a mouse"]
    with lc.Llama(exact_path, n_ctx=256, n_threads=1, n_parallel=1) as llama:
        wanted = [llama.generate(p, max_tokens=24, temperature=0, ignore_eos=True).tokens for p in prompts]
    found: dict[str, Any] = {}

    def run(llama: lc.Llama, prompt: str) -> None:
        found[prompt] = llama.generate(prompt, max_tokens=24, temperature=0, ignore_eos=True).tokens

    names = [device.name for device in rpc.add_rpc_server(server.endpoint)]
    with lc.Model.load(exact_path, devices=names) as model:
        llamas = [lc.Llama(model, n_ctx=256, n_threads=1, n_parallel=1) for _ in prompts]
        threads = [threading.Thread(target=run, args=pair) for pair in zip(llamas, prompts, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for llama in llamas:
            llama.close()
    assert [found[prompt] for prompt in prompts] == wanted


def test_a_state_goes_through_the_device(server: RpcServer, exact_path: Path, tmp_path: Path) -> None:
    """What was computed there is saved here, and restored there."""
    with on(server, exact_path) as llama, llama.model.context(n_ctx=64, n_threads=1) as ctx:
        batch = lc.Batch(8)
        for position in range(5):
            batch.add(position + 10, position)
        ctx.decode(batch)
        ctx.state.save(tmp_path / "state")
        saved = ctx.state.to_bytes()
        ctx.memory.clear()
        ctx.state.from_bytes(saved)
        assert ctx.state.to_bytes() == saved


def test_the_process_ends_with_a_model_on_a_server(
    server: RpcServer, exact_path: Path, run_child: Callable[..., str]
) -> None:
    """Nothing has to be closed before the interpreter ends."""
    code = f"""
        import llamacore as lc
        llama = lc.Llama({str(exact_path)!r}, rpc=[{server.endpoint!r}], n_ctx=256, n_threads=1)
        print(llama.generate("Once upon a time", max_tokens=4, temperature=0).usage.completion_tokens)
        """
    assert run_child(code).split() == ["4"]


# refusals


@pytest.mark.parametrize(
    "endpoint",
    ["", "host", "host:", ":1", "host:0", "host:65536", "host:-1", "host:1x", "a b:1", "::1:50052", "ho\0st:1", None],
)
def test_an_endpoint_is_host_and_port(endpoint: Any) -> None:
    """Anything else is refused before a connection is tried."""
    with pytest.raises(InvalidArgumentError, match="host:port"):
        rpc.add_rpc_server(endpoint)
    with pytest.raises(InvalidArgumentError, match="host:port"):
        rpc.disconnect_rpc_server(endpoint)


def test_endpoints_of_ipv6_are_in_brackets() -> None:
    """The address has colons itself."""
    assert rpc.split_endpoint("[::1]:50052") == ("::1", 50052)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_time(timeout: float) -> None:
    """No other number is taken."""
    with pytest.raises(InvalidArgumentError, match="timeout"):
        rpc.add_rpc_server("127.0.0.1:1", timeout=timeout)


def test_llama_wants_a_list_of_servers() -> None:
    """A string would be read as its letters."""
    with pytest.raises(InvalidArgumentError, match="list"):
        lc.Llama(rpc="127.0.0.1:50052")  # type: ignore[arg-type]


def test_nobody_there() -> None:
    """A port that nobody listens on, and a name that nobody has."""
    with pytest.raises(RpcError, match="refused"):
        rpc.add_rpc_server(f"127.0.0.1:{free_port()}")
    with pytest.raises(RpcError, match="no host of that name"):
        rpc.add_rpc_server("no-such-host.invalid:50052")


def test_a_server_that_says_nothing() -> None:
    """The timeout ends the wait."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(RpcError, match="does not answer"):
            rpc.add_rpc_server(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)
        assert time.monotonic() - start < 5


def test_a_server_in_use_by_another_program(server: RpcServer, exact_path: Path) -> None:
    """It serves one at a time; the error says so."""
    with socket.create_connection(("127.0.0.1", server.port)) as other:
        other.sendall(struct.pack("<BQ", HELLO, 24) + bytes(24))
        exactly(other, 8 + 28)
        rpc_error = pytest.raises(RpcError, match="one program at a time")
        with rpc_error:
            rpc.add_rpc_server(server.endpoint.replace("127.0.0.1", "localhost"), timeout=0.3)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({HELLO: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"}, "no RPC server"),
        ({HELLO: sized(bytes([6, 0, 0, 0]) + bytes(24))}, "speaks version 6.0"),
        ({HELLO: sized(bytes([7, 1, 0, 0]) + bytes(24))}, "speaks version 7.1"),
        ({HELLO: sized(bytes(3))}, "no RPC server"),
        ({HELLO: None}, "does not answer"),
        ({DEVICE_COUNT: sized(struct.pack("<I", 0))}, "0 devices"),
        ({DEVICE_COUNT: sized(struct.pack("<I", 2**32 - 1))}, "4294967295 devices"),
        ({GET_ALIGNMENT: sized(struct.pack("<Q", 0))}, "alignment of 0"),
        ({GET_ALIGNMENT: sized(struct.pack("<Q", 3))}, "alignment of 3"),
        ({GET_ALIGNMENT: sized(struct.pack("<Q", 2**63))}, "cannot be"),
        ({GET_MAX_SIZE: sized(struct.pack("<Q", 0))}, "buffers of 0"),
        ({GET_MAX_SIZE: None}, "does not answer"),
        ({GET_MAX_SIZE: struct.pack("<Q", 2**60)}, "no RPC server"),
    ],
)
def test_what_is_no_server_is_refused(said: dict[int, bytes | None], reason: str) -> None:
    """Another protocol, another version, and devices that cannot be."""
    replies: dict[int, bytes | None] = {command: sized(data) for command, data in SOUND.items()} | said
    with impostor(lambda command, _: replies.get(command)) as endpoint, pytest.raises(RpcError, match=reason):
        rpc.add_rpc_server(endpoint, timeout=1)


def test_without_the_back_end(run_child: Callable[..., str]) -> None:
    """Libraries without it say so, and the rest works."""
    code = """
        import llamacore as lc
        from llamacore.core import backend, rpc
        from llamacore.core._native import lib
        backend.init()
        lib.ggml_backend_unload(lib.ggml_backend_reg_by_name(b"RPC"))
        assert not rpc.available()
        for call in (lambda: rpc.add_rpc_server("127.0.0.1:50052"), rpc.serve, lambda: lc.Llama(rpc=["127.0.0.1:1"])):
            try:
                call()
            except lc.UnsupportedError as error:
                print("no RPC back end" in str(error))
        print(len(lc.Llama(n_threads=1).generate("Hello", max_tokens=3).tokens) <= 3)
        """
    assert run_child(code).split() == ["True"] * 4


# lost


def test_killed_while_it_generates(doomed: RpcServer, exact_path: Path, reference: lc.Completion) -> None:
    """The request fails, all further use fails alike, close() frees all, and a new server is used under a new name."""
    before = rpc.add_rpc_server(doomed.endpoint)[0].name
    with on(doomed, exact_path) as llama:
        with pytest.raises(RpcError, match=f"{doomed.endpoint} is lost"):
            for number, _ in enumerate(llama.stream(PROMPT, max_tokens=400, ignore_eos=True)):
                if number == 5:
                    doomed.kill()
        with pytest.raises(RpcError, match="is lost"):
            llama.generate(PROMPT, max_tokens=4)
        with pytest.raises(RpcError, match="is lost"):
            llama.model.context(n_ctx=64)
        assert llama.tokenize(PROMPT)
        assert llama.model.devices[0].memory_total == 0
    assert before not in [device.name for device in backend.devices()]
    with pytest.raises(InvalidArgumentError, match="there is no device"):
        lc.Model.load(exact_path, devices=[before])
    with pytest.raises(RpcError, match="refused"):
        rpc.add_rpc_server(doomed.endpoint)
    with RpcServer(port=doomed.port) as again, on(again, exact_path) as llama:
        assert llama.model.devices[0].name != before
        assert llama.generate(PROMPT, max_tokens=32, temperature=0).tokens == reference.tokens


def test_killed_while_it_loads(doomed: RpcServer, exact_path: Path) -> None:
    """No model comes out of it."""
    names = [device.name for device in rpc.add_rpc_server(doomed.endpoint)]

    def progress(done: float) -> None:
        if done > 0.3:
            doomed.kill()

    with pytest.raises(RpcError, match=r"loading .* is lost"):
        lc.Model.load(exact_path, devices=names, progress=progress)


def test_killed_while_nothing_runs(doomed: RpcServer, exact_path: Path, tmp_path: Path) -> None:
    """It is noticed at the next use; a state that cannot be read is not written."""
    with on(doomed, exact_path) as llama, llama.model.context(n_ctx=64, n_threads=1) as ctx:
        batch = lc.Batch(4)
        batch.add(10, 0)
        ctx.decode(batch)
        doomed.kill()
        with pytest.raises((RpcError, StateError)):
            ctx.state.save(tmp_path / "state")
        assert not list(tmp_path.iterdir())
        with pytest.raises(RpcError):
            ctx.state.to_bytes()
        ctx.memory.clear()
        with pytest.raises(RpcError):
            ctx.decode(batch)


def test_killed_before_its_first_use(doomed: RpcServer, exact_path: Path) -> None:
    """Between adding the server and loading the model."""
    names = [device.name for device in rpc.add_rpc_server(doomed.endpoint)]
    doomed.kill()
    with pytest.raises(RpcError, match="is lost"):
        lc.Model.load(exact_path, devices=names)
    assert backend.devices()


def test_a_draft_model_is_lost(doomed: RpcServer, exact_path: Path, tmp_path: Path, reference: lc.Completion) -> None:
    """Drafting ends; the text goes on as without it."""
    names = [device.name for device in rpc.add_rpc_server(doomed.endpoint)]
    with lc.Model.load(demo_draft_path(), devices=names) as draft:
        way = DraftModel(model=draft, adaptive=False)
        with lc.Llama(exact_path, n_ctx=512, n_threads=1, n_parallel=1, speculative=way) as llama:
            tokens: list[int] = []
            for chunk in llama.stream(PROMPT, max_tokens=32, temperature=0):
                tokens += chunk.tokens
                if len(tokens) > 6 and doomed.process.poll() is None:
                    stats = llama.engine.stats().speculation
                    assert stats is not None
                    assert stats.drafted > 0
                    doomed.kill()
            assert tokens == list(reference.tokens)
            ended = llama.engine.stats().speculation
            assert ended is not None
            assert "is lost" in (ended.failure or "")


def test_a_server_that_hangs_can_be_disconnected(doomed: RpcServer, exact_path: Path) -> None:
    """From another thread; the call that waits ends with an error."""
    with on(doomed, exact_path) as llama:
        doomed.signal(signal.SIGSTOP)
        timer = threading.Timer(0.3, rpc.disconnect_rpc_server, [doomed.endpoint])
        timer.start()
        with pytest.raises(RpcError, match="this program has disconnected it"):
            llama.generate(PROMPT, max_tokens=4)
        timer.join()
    rpc.disconnect_rpc_server(f"127.0.0.1:{free_port()}")  # never added: nothing happens


@pytest.mark.parametrize(
    ("command", "change", "reason"),
    [
        (GET_TENSOR, lambda reply: sized(reply[8:-4]), "another size"),
        (GET_TENSOR, lambda reply: Last(reply[: len(reply) // 2]), "closed the connection"),
        (GET_TENSOR, lambda reply: Last(reply[:5]), "closed the connection"),
        (ALLOC_BUFFER, lambda reply: Last(reply[:12]), "closed the connection"),
        (GET_TENSOR, lambda reply: Last(), "closed the connection"),
        (BUFFER_GET_BASE, lambda reply: sized(bytes(8)), "address 0"),
        (ALLOC_BUFFER, lambda reply: reply[:16] + struct.pack("<Q", 1), "smaller buffer"),
        (ALLOC_BUFFER, lambda reply: struct.pack("<Q", 2**62), "another size"),
        (SET_TENSOR, lambda reply: Last(), "closed the connection"),
    ],
)
def test_garbage_in_the_middle(
    server: RpcServer, exact_path: Path, command: int, change: Callable[[bytes], bytes], reason: str
) -> None:
    """An answer that is not what the protocol has is an error, wherever it comes."""
    target = socket.create_connection(("127.0.0.1", server.port))
    lengths = {HELLO: 28, DEVICE_COUNT: 4, 0: 16, 1: 8, 2: 8, 3: 8, 7: 1, 9: 1, 11: 16, 13: 8}

    def relay(asked: int, request: bytes) -> bytes | None:
        nonlocal target
        if asked == HELLO:
            target.close()
            target = socket.create_connection(("127.0.0.1", server.port))
        target.sendall(struct.pack("<BQ", asked, len(request)) + request)
        size = struct.unpack("<Q", request[-8:])[0] if asked == GET_TENSOR else lengths.get(asked)
        if size is None:
            return change(b"") if asked == command else b""
        reply = exactly(target, 8 + size)
        return change(reply) if asked == command else reply

    with impostor(relay) as endpoint, pytest.raises(RpcError, match=reason):
        try:
            with lc.Llama(exact_path, rpc=[endpoint], n_ctx=256, n_threads=1, fit=False) as llama:
                llama.generate(PROMPT, max_tokens=4)
        finally:
            target.close()


# serving


def test_a_client_that_sends_garbage_ends_nothing(server: RpcServer, exact_path: Path) -> None:
    """The next client is served."""
    hello = struct.pack("<BQ", HELLO, 24) + bytes(24)
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<BQ", HELLO, 2**40),
        hello + bytes([255]) * 64,
        hello + struct.pack("<BQ", SET_TENSOR, 2**62),
        hello + struct.pack("<BQ", SET_TENSOR, 3) + b"abc",
        hello + struct.pack("<BQ", 10, 400) + bytes([255]) * 400,
        hello + struct.pack("<BQ", 3, 8) + struct.pack("<Q", 0xDEAD),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(garbage)
    assert rpc.add_rpc_server(server.endpoint)
    with on(server, exact_path) as llama:
        assert llama.generate(PROMPT, max_tokens=4, ignore_eos=True).usage.completion_tokens == 4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"port": 0}, "port=0"),
        ({"port": 70000}, "port=70000"),
        ({"n_threads": 0}, "n_threads=0"),
        ({"devices": ["CUDA7"]}, "no device 'CUDA7' to serve"),
        ({"devices": []}, "at least one device"),
        ({"devices": ["CPU", "CPU"]}, "each once"),
        ({"devices": "CPU"}, "list of names"),
    ],
)
def test_what_cannot_be_served(options: dict[str, Any], reason: str) -> None:
    """Refused before anything listens."""
    with pytest.raises(InvalidArgumentError) as caught:
        rpc.serve(**{"port": free_port(), **options})
    assert reason in str(caught.value)


def test_an_address_that_cannot_be_listened_on(server: RpcServer) -> None:
    """A port that is taken, and an address of another machine."""
    with pytest.raises(RpcError, match="in use"):
        rpc.serve(port=server.port)
    with pytest.raises(RpcError):
        rpc.serve("192.0.2.1", free_port())


def test_a_remote_device_is_not_served_on(server: RpcServer) -> None:
    """Its own server does that."""
    name = rpc.add_rpc_server(server.endpoint)[0].name
    with pytest.raises(InvalidArgumentError, match="to serve"):
        rpc.serve(port=free_port(), devices=[name])
