"""One model's life: COLD, WARM, ACTIVE and back, from several threads, with hooks, failures and idle times."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest

import llamacore as lc
from llamacore.managed import ManagedModel, ModelState

COLD, WARM, ACTIVE = ModelState.COLD, ModelState.WARM, ModelState.ACTIVE
OPTIONS = {"n_ctx": 64, "n_threads": 1, "n_parallel": 2}


@pytest.fixture
def managed(tiny_path):
    with ManagedModel(tiny_path(), llama_options=OPTIONS, use_mlock=False) as managed:
        yield managed


def generate(llama):
    return llama.generate("a", max_tokens=2, ignore_eos=True).usage.completion_tokens


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_the_whole_circle(managed):
    """Each call does one step, and nothing where the step is done."""
    assert managed.state is COLD
    assert managed.load() and managed.load()
    assert managed.state is WARM
    assert managed.activate() and managed.activate() and managed.load()
    assert managed.state is ACTIVE
    with managed.use() as llama:
        assert generate(llama) == 2
        assert managed.uses == 1
    assert managed.deactivate() and managed.deactivate()
    assert managed.state is WARM
    assert llama.closed
    assert managed.unload() and managed.unload()
    assert managed.state is COLD
    assert managed.load_and_activate()
    assert managed.state is ACTIVE
    assert managed.unload()
    assert managed.last_error is None


def test_a_cold_model_is_not_activated(managed):
    assert managed.activate() is False
    assert managed.state is COLD
    assert "load_and_activate()" in str(managed.last_error)
    assert managed.deactivate() is True
    assert managed.load()
    assert managed.last_error is None


def test_use_brings_it_up(managed):
    with managed.use() as first, managed.use() as second:
        assert first is second
        assert managed.uses == 2
    assert (managed.state, managed.uses) == (ACTIVE, 0)


def test_a_failed_load_leaves_it_cold(tmp_path, tiny_path):
    managed = ManagedModel(tmp_path / "m.gguf", llama_options=OPTIONS)
    with pytest.raises(lc.ModelNotFoundError):
        managed.load()
    with pytest.raises(lc.ModelNotFoundError), managed.use():
        pass
    with pytest.raises(lc.ModelNotFoundError):
        _ = managed.file_bytes
    assert managed.state is COLD
    assert "m.gguf" in str(managed.last_error)
    (tmp_path / "m.gguf").write_bytes(tiny_path().read_bytes())
    assert managed.load()
    assert managed.last_error is None
    managed.close()


def test_a_failed_activation_leaves_it_warm(tiny_path):
    with ManagedModel(tiny_path(), llama_options={"n_ctx": 64, "type_k": "no such type"}) as managed:
        managed.load()
        with pytest.raises(lc.InvalidArgumentError):
            managed.activate()
        assert managed.state is WARM
        assert "no such type" in str(managed.last_error)
        assert managed.uses == 0


def test_a_hook_cancels_loading(tiny_path):
    asked = []

    def allow(path):
        asked.append(path)
        return len(asked) > 1

    with ManagedModel(tiny_path(), llama_options=OPTIONS, before_load=allow) as managed:
        with pytest.raises(lc.LoadCancelledError, match="before_load"):
            managed.load()
        assert managed.state is COLD
        assert isinstance(managed.last_error, lc.LoadCancelledError)
        assert managed.load()
        assert asked == [tiny_path()] * 2


def test_progress_cancels_loading(managed):
    with pytest.raises(lc.LoadCancelledError):
        managed.load(lambda share: False)
    assert managed.state is COLD
    seen = []
    assert managed.load(lambda share: seen.append(share))
    assert seen[-1] == 1.0


def test_unloading_is_told(tiny_path, caplog):
    states = []

    def tell(state):
        states.append(state)
        raise RuntimeError("the hook fails")

    managed = ManagedModel(tiny_path(), llama_options=OPTIONS, on_unload=tell)
    managed.load()
    managed.unload()
    managed.load_and_activate()
    managed.close()
    assert states == [WARM, ACTIVE]
    assert "the hook fails" in caplog.text


def test_a_hook_may_not_move_it(tiny_path):
    errors = []

    def meddle(_):
        with pytest.raises(lc.BusyError) as caught:
            managed.unload()
        errors.append(caught.value)

    with ManagedModel(tiny_path(), llama_options=OPTIONS, before_load=meddle) as managed:
        managed.load()
        assert len(errors) == 1


def test_many_threads_load_it_once(tiny_path):
    loads = []
    managed = ManagedModel(tiny_path(), llama_options=OPTIONS, before_load=lambda path: loads.append(path))
    counts = []

    def work():
        with managed.use() as llama:
            counts.append(generate(llama))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2] * 8
    assert len(loads) == 1
    managed.close()


def test_the_state_is_read_without_waiting(tiny_path):
    """While another thread is in a transition, for as long as that takes."""
    inside, go_on = threading.Event(), threading.Event()

    def wait(_):
        inside.set()
        go_on.wait(10)

    with ManagedModel(tiny_path(), llama_options=OPTIONS, before_load=wait) as managed:
        thread = threading.Thread(target=managed.load)
        thread.start()
        assert inside.wait(10)
        assert (managed.state, managed.uses, managed.last_error) == (COLD, 0, None)
        with pytest.raises(lc.BusyError), managed.use(timeout=0.05):
            pass
        go_on.set()
        thread.join()
        assert managed.state is WARM


def test_unloading_waits_for_work(managed):
    order = []
    begun = threading.Event()

    def work():
        with managed.use() as llama:
            begun.set()
            time.sleep(0.2)
            order.append(generate(llama))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    with pytest.raises(lc.BusyError, match="1 still use it after 0"):
        managed.unload(0)
    assert managed.state is ACTIVE
    managed.unload()
    order.append("unloaded")
    thread.join()
    assert order == [2, "unloaded"]


def test_new_users_wait_for_who_waits(managed):
    """A stream of users cannot keep a model from being unloaded: each time, what they use is freed."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            with managed.use() as llama:
                generate(llama)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with managed.use() as llama:
                wait_until(lambda: managed.uses > 1)
            assert managed.deactivate(10)
            assert llama.closed
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_user_cannot_unload_under_itself(managed):
    with managed.use():
        with pytest.raises(lc.BusyError, match="the caller uses it"):
            managed.unload()
        with pytest.raises(lc.BusyError, match="the caller uses it"):
            managed.close()
        assert managed.state is ACTIVE


def test_who_uses_it_may_use_it_again(managed):
    """Also while somebody waits for the end of its use: else the two would wait for each other."""

    def unload(entered):
        entered.set()
        managed.unload()

    with managed.use():
        entered = threading.Event()
        thread = threading.Thread(target=unload, args=(entered,))
        thread.start()
        assert entered.wait(10)
        time.sleep(0.05)
        with managed.use(timeout=5) as llama:
            assert generate(llama) == 2
        assert managed.state is ACTIVE
    thread.join(10)
    assert managed.state is COLD

    async def main():
        async with managed.ause():
            waiting = asyncio.create_task(asyncio.to_thread(managed.unload))
            await asyncio.sleep(0.1)
            async with managed.ause(timeout=5) as again:
                assert generate(again) == 2
        await waiting

    asyncio.run(main())
    assert managed.state is COLD


def test_where_the_weights_move(managed, monkeypatch, tiny_path):
    """As on a machine with a device: the weights are loaded anew for each state, the old ones only freed then."""
    monkeypatch.setattr(ManagedModel, "_reloads", lambda self: True)
    managed.load()
    warm = managed._model
    managed.activate()
    assert warm.closed
    with managed.use() as llama:
        assert generate(llama) == 2
        active = llama.model
    managed.deactivate()
    assert active.closed
    assert managed.state is WARM
    managed.activate()
    assert managed.unload()
    with ManagedModel(tiny_path(), llama_options={"type_k": "no such type"}) as broken:
        broken.load()
        warm = broken._model
        with pytest.raises(lc.InvalidArgumentError):
            broken.activate()
        assert not warm.closed
        assert broken.state is WARM


def test_weights_that_cannot_be_moved_stay(tmp_path, monkeypatch, tiny_path):
    """The file is gone when it is deactivated: it stays ACTIVE and goes on working."""
    monkeypatch.setattr(ManagedModel, "_reloads", lambda self: True)
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_path().read_bytes())
    with ManagedModel(path, llama_options=OPTIONS) as managed:
        managed.load_and_activate()
        path.unlink()
        with pytest.raises(lc.ModelNotFoundError):
            managed.deactivate()
        assert managed.state is ACTIVE
        assert isinstance(managed.last_error, lc.ModelNotFoundError)
        with managed.use() as llama:
            assert generate(llama) == 2
        managed.unload()
        assert managed.state is COLD


def test_idle_models_are_unloaded(tiny_path):
    with ManagedModel(tiny_path(), llama_options=OPTIONS, idle_seconds=0.1) as managed:
        with managed.use() as llama:
            time.sleep(0.4)
            assert generate(llama) == 2
            assert managed.state is ACTIVE
        wait_until(lambda: managed.state is COLD)
        with managed.use() as llama:
            assert generate(llama) == 2
        wait_until(lambda: managed.state is COLD)


def test_idle_models_can_stay_warm(tiny_path):
    with ManagedModel(tiny_path(), llama_options=OPTIONS, idle_seconds=0.05, idle_state="warm") as managed:
        managed.load()
        time.sleep(0.1)
        assert managed.state is WARM
        managed.activate()
        wait_until(lambda: managed.state is WARM)


def test_a_dropped_model_is_collected(tiny_path):
    """The idle thread does not keep it alive, and ends."""
    managed = ManagedModel(tiny_path(), llama_options=OPTIONS, idle_seconds=60)
    managed.load_and_activate()
    watching = [thread for thread in threading.enumerate() if thread.name == "llamacore-idle"]
    assert len(watching) == 1
    gone = weakref.ref(managed)
    del managed
    gc.collect()
    assert gone() is None
    watching[0].join(5)
    assert not watching[0].is_alive()


def test_what_a_user_closed_is_made_anew(managed):
    with managed.use() as llama:
        llama.close()
    with managed.use() as llama:
        assert generate(llama) == 2
        llama.model.close()
    assert managed.load_and_activate()
    with managed.use() as llama:
        assert generate(llama) == 2


def test_async_use(managed):
    async def work():
        async with managed.ause() as llama:
            return (await llama.agenerate("a", max_tokens=2, ignore_eos=True)).usage.completion_tokens

    async def main():
        counts = await asyncio.gather(*(work() for _ in range(5)))
        async with managed.ause():
            with pytest.raises(lc.BusyError, match="block the event loop"):
                managed.unload()
        return counts

    assert asyncio.run(main()) == [2] * 5
    assert managed.uses == 0


def test_a_cancelled_async_use_is_given_back(tiny_path):
    inside, go_on = threading.Event(), threading.Event()

    def wait(_):
        inside.set()
        go_on.wait(10)

    async def main(managed):
        async def work():
            async with managed.ause():
                raise AssertionError("it was cancelled before")

        task = asyncio.create_task(work())
        await asyncio.to_thread(inside.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.to_thread(wait_until, lambda: managed.state is ACTIVE and managed.uses == 0)

    with ManagedModel(tiny_path(), llama_options=OPTIONS, before_load=wait) as managed:
        asyncio.run(main(managed))


def test_closed(tiny_path):
    managed = ManagedModel(tiny_path(), llama_options=OPTIONS, name="mine")
    managed.load_and_activate()
    managed.close()
    managed.close()
    assert (managed.state, managed.closed, repr(managed)) == (COLD, True, "<ManagedModel mine closed>")
    for call in (managed.load, managed.activate, managed.deactivate, managed.unload, managed.load_and_activate):
        with pytest.raises(lc.ClosedError):
            call()
    with pytest.raises(lc.ClosedError), managed.use():
        pass


def test_facts(managed, tiny_path):
    assert managed.file_bytes == tiny_path().stat().st_size
    assert managed.name == tiny_path().stem
    assert ModelState("warm") is WARM


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"idle_seconds": 0}, "idle_seconds=0"),
        ({"idle_seconds": -1}, "idle_seconds=-1"),
        ({"idle_seconds": float("nan")}, "idle_seconds"),
        ({"idle_state": "hot"}, "idle_state='hot'"),
        ({"llama_options": {"model": "x"}}, "'model'"),
        ({"llama_options": {"n_gpu_layers": 3}}, "'n_gpu_layers'"),
        ({"n_gpu_layers": "some"}, "n_gpu_layers='some'"),
        ({"path": []}, "no file"),
    ],
)
def test_wrong_arguments(tiny_path, options, words):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        ManagedModel(**{"path": tiny_path(), **options})
    assert words in str(caught.value)
