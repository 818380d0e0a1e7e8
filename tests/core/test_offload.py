"""Layers on devices: none, some and all, one device and two, every way to split; shown with servers on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import PROMPT
from rpc_server import RpcServer

import llamacore as lc
from llamacore.core import backend, rpc
from llamacore.errors import AbortedError, InvalidArgumentError, RpcError, UnsupportedError


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RpcServer, RpcServer]]:
    """Two servers, which stand for two GPUs."""
    with RpcServer() as first, RpcServer() as second:
        yield first, second


@pytest.fixture(scope="module")
def pair(servers: tuple[RpcServer, RpcServer]) -> tuple[str, str]:
    """The names of their devices."""
    first, second = (rpc.add_rpc_server(server.endpoint)[0].name for server in servers)
    return first, second


def named(params: dict[str, Any], pair: tuple[str, str]) -> dict[str, Any]:
    """Devices are written as "A" and "B" in tables."""
    devices = [{"A": pair[0], "B": pair[1]}.get(name, name) for name in params["devices"]]
    return {**params, "devices": devices}


def weights(llama: lc.Llama) -> dict[str, int]:
    """Bytes of weights by the address of the server, and under "CPU" in host memory."""
    found: dict[str, int] = {}
    for row in llama.context.memory_use():
        place = row.buffer_type.partition("[")[2].rstrip("]") or "CPU"
        found[place] = found.get(place, 0) + row.model
    return found


@pytest.mark.parametrize(
    ("model_params", "context_params", "on_first", "on_second"),
    [
        ({"devices": ["A"], "n_gpu_layers": "none"}, {}, False, False),
        ({"devices": ["A"], "n_gpu_layers": 0}, {}, False, False),
        ({"devices": ["A"], "n_gpu_layers": 3}, {}, True, False),
        ({"devices": ["A"], "n_gpu_layers": "all"}, {}, True, False),
        ({"devices": ["A"], "n_gpu_layers": 999}, {}, True, False),
        ({"devices": []}, {}, False, False),
        ({"devices": ["B", "CPU"]}, {}, False, True),
        ({"devices": ["A", "B"]}, {}, True, True),
        ({"devices": ["A", "B"], "split_mode": "layer", "tensor_split": [3, 1]}, {}, True, True),
        ({"devices": ["A", "B"], "tensor_split": [1, 0]}, {}, True, False),
        ({"devices": ["A", "B"], "tensor_split": [0, 1]}, {}, False, True),
        ({"devices": ["A", "B"], "split_mode": "none"}, {}, True, False),
        ({"devices": ["A", "B"], "split_mode": "none", "main_gpu": 1}, {}, False, True),
        ({"devices": ["A", "B"], "split_mode": "none", "main_gpu": -1}, {}, False, False),
        ({"devices": ["A"]}, {"flash_attn": "auto"}, True, False),
        ({"devices": ["A"]}, {"flash_attn": "enabled"}, True, False),
        ({"devices": ["A"]}, {"flash_attn": "disabled"}, True, False),
        ({"devices": ["A", "B"]}, {"flash_attn": "enabled", "type_k": "q8_0", "type_v": "q8_0"}, True, True),
        ({"devices": ["A"]}, {"offload_kqv": False}, True, False),
        ({"devices": ["A"], "n_gpu_layers": 2}, {"op_offload": True}, True, False),
        ({"devices": ["A"], "n_gpu_layers": 2}, {"op_offload": False}, True, False),
    ],
)
def test_the_text_is_the_same_wherever_layers_are(
    model_params: dict[str, Any],
    context_params: dict[str, Any],
    on_first: bool,
    on_second: bool,
    exact_path: Path,
    servers: tuple[RpcServer, RpcServer],
    pair: tuple[str, str],
    reference: lc.Completion,
) -> None:
    """Weights lie where they were asked to be, and greedy text is that of the CPU, token by token."""
    with lc.Llama(
        exact_path,
        fit=False,
        model_params=lc.ModelParams(**named(model_params, pair)),
        context_params=lc.ContextParams(n_ctx=512, n_threads=1, **context_params),
    ) as llama:
        assert llama.generate(PROMPT, max_tokens=32, temperature=0).tokens == reference.tokens
        found = weights(llama)
        assert [found.get(server.endpoint, 0) > 0 for server in servers] == [on_first, on_second]
        on_devices = sum(found.get(server.endpoint, 0) for server in servers)
        if model_params.get("n_gpu_layers") in (None, "all", 999) and "CPU" not in model_params["devices"]:
            assert not (on_first or on_second) or on_devices > 0.8 * llama.model.size
        else:
            assert on_devices < 0.6 * llama.model.size


def test_where_the_memory_of_a_context_is(exact_path: Path, servers: Any, pair: tuple[str, str]) -> None:
    """On the device with the layers; with offload_kqv=False in host memory."""
    with lc.Model.load(exact_path, devices=[pair[0]]) as model:
        for offload_kqv in (True, False):
            with model.context(n_ctx=256, n_threads=1, offload_kqv=offload_kqv) as ctx:
                rows = {row.buffer_type.partition("[")[0]: row for row in ctx.memory_use()}
                assert (rows["RPC0"].context > 0, rows["CPU"].context > 0) == (offload_kqv, not offload_kqv)


def test_tensors_are_split_over_devices(tiny_path: Callable[..., Path], pair: tuple[str, str]) -> None:
    """split_mode="tensor": each device has a part of every matrix. Sums in another order: logits within 1e-3."""
    path = tiny_path("llama", n_embd=256, n_ff=512, n_head=8)
    found = {}
    for name, params in {
        "cpu": {"devices": []},
        "one": {"devices": [pair[0]], "split_mode": "tensor"},
        "two": {"devices": list(pair), "split_mode": "tensor"},
        "unequal": {"devices": list(pair), "split_mode": "tensor", "tensor_split": [3, 1]},
    }.items():
        with lc.Model.load(path, **params) as model, model.context(n_ctx=64, n_threads=1) as ctx:
            batch = lc.Batch(8)
            for position in range(6):
                batch.add(position + 5, position, output=position == 5)
            ctx.decode(batch)
            found[name] = ctx.logits(5)
            if name != "cpu":
                (device,) = model.devices
                assert device.type is backend.DeviceType.META
    for name in ("one", "two", "unequal"):
        np.testing.assert_allclose(found[name], found["cpu"], atol=1e-3)


def test_a_lost_half_of_every_tensor(tiny_path: Callable[..., Path]) -> None:
    """A device that dies is noticed where it holds a part of each tensor, too."""
    path = tiny_path("llama", n_embd=256, n_ff=512, n_head=8)
    with RpcServer() as first, RpcServer() as second:
        names = [rpc.add_rpc_server(server.endpoint)[0].name for server in (first, second)]
        with lc.Model.load(path, devices=names, split_mode="tensor") as model:
            ctx = model.context(n_ctx=64, n_threads=1)
            batch = lc.Batch(1)
            batch.add(5, 0, output=True)
            ctx.decode(batch)
            second.kill()
            batch.clear()
            batch.add(6, 1, output=True)
            with pytest.raises(RpcError, match="is lost"):
                ctx.decode(batch)


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"devices": ["A", "A"]}, InvalidArgumentError, "twice"),
        ({"devices": ["A", "Z"]}, InvalidArgumentError, "there is no device 'Z'"),
        ({"devices": "A"}, InvalidArgumentError, "list of names"),
        ({"devices": ["A", "B"], "split_mode": "none", "main_gpu": 2}, InvalidArgumentError, "main_gpu=2"),
        ({"devices": ["A"], "split_mode": "none", "main_gpu": 2**31 - 1}, InvalidArgumentError, "main_gpu"),
        ({"devices": ["A", "B"], "split_mode": "row"}, UnsupportedError, "cannot hold rows"),
        ({"devices": ["A", "B"], "split_mode": "diagonal"}, InvalidArgumentError, "split_mode"),
        ({"devices": ["A", "B"], "tensor_split": [0, 0]}, InvalidArgumentError, "no device a share"),
        ({"devices": ["A", "B"], "tensor_split": [1, 1, 1]}, InvalidArgumentError, "3 shares for 2 devices"),
        ({"devices": ["A", "B"], "tensor_split": [1] * 999}, InvalidArgumentError, "999 shares"),
        ({"devices": ["A", "B"], "tensor_split": [1, -1]}, InvalidArgumentError, "not negative"),
        ({"devices": ["A", "B"], "tensor_split": [1, float("nan")]}, InvalidArgumentError, "finite"),
        ({"devices": [], "split_mode": "tensor"}, UnsupportedError, "without a device"),
        ({"devices": ["A"], "n_gpu_layers": -2}, InvalidArgumentError, "n_gpu_layers"),
        ({"devices": ["A"], "n_gpu_layers": "most"}, InvalidArgumentError, "n_gpu_layers"),
    ],
)
def test_what_cannot_be_is_refused(
    params: dict[str, Any], error: type[Exception], says: str, demo_path: Path, pair: tuple[str, str]
) -> None:
    """With a clear error and before the file is loaded."""
    given = params if isinstance(params["devices"], str) else named(params, pair)
    with pytest.raises(error) as caught:
        lc.Model.load(demo_path, **given)
    assert says in str(caught.value)


def test_on_a_machine_without_devices(demo_path: Path) -> None:
    """What speaks of GPUs changes nothing where there are none, except a split that needs them."""
    if backend.default_devices():
        pytest.skip("this machine has a device of its own")
    for params in ({"n_gpu_layers": "all"}, {"main_gpu": 3, "split_mode": "none"}, {"tensor_split": [1.0]}):
        with lc.Model.load(demo_path, **params) as model:
            assert model.devices == []
    with pytest.raises(UnsupportedError, match="without a device"):
        lc.Model.load(demo_path, split_mode="tensor")


def test_the_server_gets_its_memory_back(tiny_path: Callable[..., Path], servers: Any, pair: tuple[str, str]) -> None:
    """After close() the server holds what it held before: less than a tenth of the weights more."""
    path = tiny_path("llama", n_embd=512, n_ff=2048, n_layer=4)  # one buffer that no allocator keeps for later
    server = servers[0]
    before = server.rss()
    for _ in range(3):
        with lc.Model.load(path, devices=[pair[0]]) as model, model.context(n_ctx=64, n_threads=1) as ctx:
            batch = lc.Batch(1)
            batch.add(5, 0, output=True)
            ctx.decode(batch)
            size = model.size
            assert size > 48 * 2**20
            assert server.rss() > before + 0.8 * size
    deadline = time.monotonic() + 10
    while server.rss() > before + 0.1 * size and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.rss() < before + 0.1 * size


def test_cancelling_a_long_prompt_on_a_device(exact_path: Path, pair: tuple[str, str]) -> None:
    """cancel() ends a decode after the micro-batches that were sent there already."""
    with (
        lc.Model.load(exact_path, devices=[pair[0]]) as model,
        model.context(n_ctx=2048, n_batch=2048, n_ubatch=32, n_threads=1) as ctx,
    ):
        batch = lc.Batch(2048)
        for position in range(2000):
            batch.add(10 + position % 100, position, output=position == 1999)
        outcome: list[BaseException | None] = []
        ended: list[float] = []

        def decode() -> None:
            try:
                ctx.decode(batch)
                outcome.append(None)
            except AbortedError as error:
                outcome.append(error)
            ended.append(time.monotonic())

        thread = threading.Thread(target=decode)
        thread.start()
        time.sleep(0.05)
        asked = time.monotonic()
        ctx.cancel()
        thread.join(30)
        assert isinstance(outcome[0], AbortedError)
        assert ended[0] - asked < 1.0
        assert ctx.memory.seq_pos_max(0) < 1999
        ctx.resume()
        ctx.memory.clear()
        batch.clear()
        batch.add(10, 0, output=True)
        ctx.decode(batch)
