"""Models that nodes share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import SMALL, run, running, turn

from llamacore.errors import ModelNotFoundError, UnsupportedError
from llamacore.nodes import Text, shared
from llamacore.nodes.embedding import EmbeddingNode
from llamacore.nodes.generation import GenerationNode
from llamacore.nodes.params import BackendParams, MtpParams

ONE = BackendParams(threads=1)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Every lease of a test is given back by it."""
    assert shared._entries == []
    yield
    assert shared._entries == []


def llama(path: Any = "demo", backend: BackendParams = ONE, **more: Any) -> shared.Lease[Any]:
    return shared.lease_llama(str(path), backend, **{"n_ctx": 256, "n_batch": 64, "n_parallel": 2, **more})


def test_one_model_and_one_engine_for_the_same_file(demo_path: Path, tmp_path: Path):
    link = tmp_path / "link.gguf"
    link.symlink_to(demo_path)
    first, second, model = llama(), llama(link), shared.lease_model(str(demo_path), ONE)
    assert first.value is second.value
    assert model.value is first.value.model
    for lease in (first, model):
        lease.close()
        lease.close()
    assert not second.value.closed
    engine, loaded = second.value, model.value
    second.close()
    assert engine.closed
    assert loaded.closed


def test_an_engine_with_room_enough_is_shared():
    large = llama(n_ctx=512, n_parallel=4)
    small = llama()
    larger = llama(n_ctx=1024)
    others = [llama(backend=BackendParams(threads=1, flash_attention=True)), llama(backend=BackendParams(threads=2))]
    assert small.value is large.value
    assert len({id(lease.value) for lease in (large, larger, *others)}) == 4
    assert len({id(lease.value.model) for lease in (large, larger, *others)}) == 1
    for lease in (large, small, larger, *others):
        lease.close()


def test_a_model_loaded_with_its_drafting_layers_serves_all():
    drafting = llama(mtp=MtpParams(enabled=True))
    plain = llama()
    assert plain.value is not drafting.value
    assert plain.value.model is drafting.value.model
    plain.close()
    drafting.close()


def test_a_failure_leaves_nothing_behind(tiny_path: Any):
    with pytest.raises(ModelNotFoundError):
        llama("/no/such.gguf")
    with pytest.raises(UnsupportedError):
        llama(tiny_path("llama"), mtp=MtpParams(enabled=True))


def test_threads_that_ask_at_once_get_the_same():
    leases: list[Any] = []
    threads = [threading.Thread(target=lambda: leases.append(llama())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(lease.value) for lease in leases}) == 1
    for lease in leases:
        lease.close()


def test_nodes_share_and_outlive_one_another():
    async def main() -> None:
        a, b = GenerationNode(SMALL), GenerationNode({**SMALL, "max_tokens": 4})
        c = EmbeddingNode({"model_path": "demo", "backend": {"threads": 1}})
        async with running(b), running(c):
            async with running(a):
                assert a.llama is b.llama
                assert c._lease is not None
                assert c._lease.value is a.llama.model
            assert len(await turn(b)) == 2
            await c.process(Text("a"))

    run(main)


def test_a_node_that_is_cancelled_while_it_loads_keeps_nothing():
    async def main() -> None:
        for made in (GenerationNode(SMALL), EmbeddingNode({"model_path": "demo"})):
            task = asyncio.ensure_future(made.initialize())
            while not shared._entries:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while shared._entries:
                await asyncio.sleep(0.01)
            await made.cleanup()

    run(main)
