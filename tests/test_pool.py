"""Requests over several members: in turns, in order, and none disturbs another."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import llamacore as lc
from llamacore.core import backend
from llamacore.errors import ContextFullError
from llamacore.pool import LlamaPool
from llamacore.pool.slots import Slots

OPTIONS = {"n_ctx": 256, "n_threads": 1, "n_parallel": 2}
GREEDY = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
ENDLESS = {"max_tokens": None, "ignore_eos": True, "time_limit": 20}
PROMPTS = [f"text number {number}" for number in range(12)]
TALKS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def pool(tiny_path):
    with LlamaPool(tiny_path(), pool_size=2, **OPTIONS) as pool:
        yield pool


@pytest.fixture(scope="module")
def single(tiny_path):
    with lc.Llama(tiny_path(), **OPTIONS) as llama:
        yield llama


def test_members_share_weights(pool):
    assert len(pool) == len(pool.members) == 2
    assert pool.members[0].model is pool.members[1].model
    assert pool.members[0].context is not pool.members[1].context
    assert (pool.capacity, pool.taken) == (8, 0)


def test_requests_go_round(pool):
    with pool.use() as first, pool.use() as second, pool.use() as third:
        assert first is not second
        assert third is first
        assert pool.taken == 3
    assert pool.taken == 0


def test_one_request(pool, single):
    text = single.generate(PROMPTS[0], **GREEDY).text
    assert pool.generate(PROMPTS[0], **GREEDY).text == text
    assert asyncio.run(pool.agenerate(PROMPTS[0], **GREEDY)).text == text
    reply = single.chat(TALKS[0], **GREEDY).content
    assert pool.chat(TALKS[0], **GREEDY).content == reply
    assert asyncio.run(pool.achat(TALKS[0], **GREEDY)).content == reply


def test_batches_are_in_order(pool, single):
    texts = [single.generate(prompt, **GREEDY).text for prompt in PROMPTS]
    assert [item.text for item in pool.generate_batch(PROMPTS, **GREEDY)] == texts
    assert [item.text for item in asyncio.run(pool.agenerate_batch(PROMPTS, **GREEDY))] == texts
    replies = [single.chat(talk, **GREEDY).content for talk in TALKS]
    assert [item.content for item in pool.chat_batch(TALKS, **GREEDY)] == replies
    assert [item.content for item in asyncio.run(pool.achat_batch(TALKS, **GREEDY))] == replies
    assert pool.generate_batch([]) == [] == asyncio.run(pool.achat_batch([]))
    assert pool.taken == 0


def test_errors_stay_where_they_are(pool):
    prompts = [PROMPTS[0], "", PROMPTS[1], [10**9], "x" * 5000, PROMPTS[2]]
    wanted = [None, lc.InvalidArgumentError, None, lc.OutOfRangeError, ContextFullError, None]
    for results in (
        pool.generate_batch(prompts, errors="return", **GREEDY),
        asyncio.run(pool.agenerate_batch(prompts, errors="return", **GREEDY)),
    ):
        for result, error in zip(results, wanted, strict=True):
            assert isinstance(result, error) if error else result.usage.completion_tokens == 4
    with pytest.raises(lc.InvalidArgumentError):
        pool.generate_batch(prompts, **GREEDY)
    with pytest.raises(lc.InvalidArgumentError):
        asyncio.run(pool.agenerate_batch(prompts, **GREEDY))
    results = pool.chat_batch([TALKS[0], [3]], errors="return", **GREEDY)
    assert results[0].message.role == "assistant"
    assert isinstance(results[1], lc.InvalidArgumentError)
    assert pool.taken == 0


def test_waiting_has_a_bound(tiny_path):
    with LlamaPool(tiny_path(), max_wait=0.1, **{**OPTIONS, "n_parallel": 1}) as pool:
        with pool.use(), pool.use():
            assert pool.taken == pool.capacity == 2
            with pytest.raises(lc.BusyError, match=r"all 2 places .* 0\.1 seconds"):
                pool.generate("a")
            with pytest.raises(lc.BusyError, match="max_wait"):
                asyncio.run(pool.agenerate("a"))
        assert pool.generate("a", **GREEDY).usage.completion_tokens == 4
        assert pool.taken == 0


def test_no_wait_at_all(tiny_path):
    """What is free is had at once; else there is an error at once."""
    with LlamaPool(tiny_path(), max_wait=0, **{**OPTIONS, "n_parallel": 1}) as pool:
        assert pool.generate("a", **GREEDY).usage.completion_tokens == 4
        assert asyncio.run(pool.agenerate("a", **GREEDY)).usage.completion_tokens == 4
        with pool.use(), pool.use(), pytest.raises(lc.BusyError):
            pool.generate("a")


def test_several_models(tiny_path):
    paths = [tiny_path(), tiny_path(seed=1)]
    with LlamaPool(paths, pool_size=3, **OPTIONS) as pool:
        assert [member.model.paths[0] for member in pool.members] == [str(paths[0]), str(paths[1]), str(paths[0])]
        assert pool.members[0].model is pool.members[2].model
        assert len({pool.generate("a", **GREEDY).text for _ in range(4)}) == 2


def test_a_model_of_the_callers_stays_open(tiny):
    model = tiny()
    with LlamaPool(model, **OPTIONS) as pool:
        assert pool.generate("a", **GREEDY).usage.completion_tokens == 4
    assert not model.closed


def test_devices(tiny_path):
    names = [device.name for device in backend.devices() if device.type is not backend.DeviceType.CPU]
    if not names:
        with pytest.raises(lc.InvalidArgumentError, match="no device 'GPU7'"):
            LlamaPool(tiny_path(), devices=["GPU7"], **OPTIONS)
        return
    with LlamaPool(tiny_path(), devices=names, **OPTIONS) as pool:
        assert len(pool) == len(names)
        assert pool.generate("a", **GREEDY).usage.completion_tokens == 4


def test_warming_up(tiny_path):
    with LlamaPool(tiny_path(), pool_size=2, warmup=True, **OPTIONS) as pool:
        assert all(member.engine.stats().completion_tokens == 1 for member in pool.members)


def test_closing_ends_what_waits_and_runs(tiny_path):
    pool = LlamaPool(tiny_path(), **{**OPTIONS, "n_parallel": 1})
    results = []
    thread = threading.Thread(
        target=lambda: results.extend(
            pool.generate_batch(["a"] * 6, errors="return", **{**ENDLESS, "overflow": "shift"})
        )
    )
    thread.start()
    deadline = time.monotonic() + 10
    while pool.taken < pool.capacity:
        assert thread.is_alive() and time.monotonic() < deadline, results
        time.sleep(0.01)
    pool.close()
    pool.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(results) == 6
    assert all(isinstance(item, lc.LlamaCoreError) for item in results)
    assert repr(pool) == "<LlamaPool of 1 members (closed)>"
    for call in (pool.generate, pool.chat):
        with pytest.raises(lc.ClosedError):
            call("a")
    with pytest.raises(lc.ClosedError):
        asyncio.run(pool.agenerate("a"))


def test_async_context_manager(tiny_path):
    async def main():
        async with LlamaPool(tiny_path(), **OPTIONS) as pool:
            task = asyncio.create_task(pool.agenerate_batch(["a"] * 9, **ENDLESS))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)
            assert pool.taken == 0
            async with pool.ause() as llama:
                assert (await llama.agenerate("a", **GREEDY)).usage.completion_tokens == 4
        assert pool.closed

    asyncio.run(main())


def test_slots_are_never_lost():
    """Threads and tasks that come, give up and are cancelled: in the end every place is free."""
    slots = Slots("ab", 2, 0.01)

    def in_threads():
        for _ in range(60):
            try:
                with slots.lend():
                    time.sleep(0.002)
            except lc.BusyError:
                pass

    async def in_a_loop():
        async def one(number):
            async with slots.alend():
                await asyncio.sleep(0.001 * (number % 5))

        tasks = [asyncio.create_task(one(number)) for number in range(100)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    threads = [threading.Thread(target=in_threads) for _ in range(6)]
    for thread in threads:
        thread.start()
    asyncio.run(in_a_loop())
    for thread in threads:
        thread.join()
    assert slots.taken == 0
    seen = []
    with slots.lend() as first, slots.lend() as second, slots.lend() as third, slots.lend() as fourth:
        seen = sorted([first, second, third, fourth])
    assert seen == ["a", "a", "b", "b"]


def test_an_interrupt_ends_a_batch(run_child, tiny_path):
    """Ctrl-C while a batch runs: everything is cancelled, and the pool goes on."""
    out = run_child(
        """
        import os, signal, threading, time
        from llamacore.pool import LlamaPool

        signal.signal(signal.SIGINT, signal.default_int_handler)
        with LlamaPool(sys.argv[1], n_ctx=256, n_threads=1, n_parallel=2) as pool:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            start = time.monotonic()
            try:
                pool.generate_batch(["a"] * 20, max_tokens=None, ignore_eos=True, overflow="shift", time_limit=100)
            except KeyboardInterrupt:
                print("interrupted", time.monotonic() - start < 20, pool.taken)
            print(len(pool.generate("a", max_tokens=2, ignore_eos=True).tokens))
        """,
        tiny_path(),
    )
    assert out.splitlines() == ["interrupted True 0", "2"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool_size": 0}, "pool_size=0"),
        ({"pool_size": -1}, "pool_size=-1"),
        ({"pool_size": 1.5}, "pool_size=1.5"),
        ({"pool_size": True}, "pool_size=True"),
        ({"max_wait": -1}, "max_wait=-1"),
        ({"max_wait": float("nan")}, "max_wait=nan"),
        ({"devices": "CUDA0"}, "devices='CUDA0'"),
        ({"devices": []}, "devices=[]"),
        ({"n_gpu_layers": 3}, "'n_gpu_layers'"),
    ],
)
def test_wrong_arguments(tiny_path, options, words):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        LlamaPool(tiny_path(), **options)
    assert words in str(caught.value)


def test_misuse(pool, tiny):
    with pytest.raises(lc.InvalidArgumentError):
        LlamaPool([])
    with pytest.raises(lc.InvalidArgumentError, match="loaded already"):
        LlamaPool(tiny(), devices=["CPU"])
    with pytest.raises(lc.ModelNotFoundError):
        LlamaPool("missing.gguf")
    for batch in (pool.generate_batch, pool.chat_batch):
        for wrong in ("a text", b"a", None, 3):
            with pytest.raises(lc.InvalidArgumentError, match="give a list"):
                batch(wrong)
        with pytest.raises(lc.InvalidArgumentError, match="errors='ignore'"):
            batch([], errors="ignore")
    with pytest.raises(lc.InvalidArgumentError, match="errors='ignore'"):
        asyncio.run(pool.agenerate_batch(["a"], errors="ignore"))
    with pytest.raises(lc.InvalidArgumentError, match="no_such"):
        pool.generate("a", no_such=1)
    assert pool.taken == 0
