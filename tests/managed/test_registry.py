"""Several models by name: loaded on demand, the least recently used ones out when there is no room."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import llamacore as lc
from llamacore.errors import OutOfMemoryError
from llamacore.managed import ManagedModel, ModelRegistry, ModelState

OPTIONS = {"n_ctx": 64, "n_threads": 1, "n_parallel": 2}


@pytest.fixture
def model(tiny_path):
    def make(name, **options):
        return ManagedModel(tiny_path(), name=name, llama_options=OPTIONS, use_mlock=False, **options)

    return make


def filled(model, names, **limits):
    registry = ModelRegistry(**limits)
    for name in names:
        registry.add(model(name))
    return registry


def test_models_are_loaded_when_they_are_used(model):
    with filled(model, "abc") as registry:
        assert registry.loaded == []
        with registry.use("b") as llama:
            assert llama.generate("a", max_tokens=2, ignore_eos=True).usage.completion_tokens == 2
        assert registry.loaded == ["b"]
        assert registry.names[0] == "b"
        assert ("a" in registry, "x" in registry, len(registry)) == (True, False, 3)
        assert repr(registry) == "<ModelRegistry of 3 models, 1 loaded>"


def test_the_least_recently_used_one_makes_room(model):
    with filled(model, "abc", max_loaded=2) as registry:
        for name in "abab":
            with registry.use(name):
                pass
        with registry.use("c"):
            pass
        assert registry.loaded == ["c", "b"]
        with registry.use("b"), registry.use("a"):
            assert registry.loaded == ["a", "b"]


def test_bytes_are_a_limit_too(model, tiny_path):
    size = tiny_path().stat().st_size
    with filled(model, "abc", max_bytes=2 * size) as registry:
        for name in "abc":
            with registry.use(name):
                pass
        assert registry.loaded == ["c", "b"]
    with filled(model, "a", max_bytes=size - 1) as registry:
        with pytest.raises(OutOfMemoryError, match="max_bytes"), registry.use("a"):
            pass
        assert registry.loaded == []


def test_what_is_in_use_stays(model):
    with filled(model, "ab", max_loaded=1) as registry:
        with registry.use("a"):
            start = time.monotonic()
            with pytest.raises(lc.BusyError, match="no room for 'b': a in use"), registry.use("b", timeout=0.1):
                pass
            assert time.monotonic() - start < 5
            assert registry.loaded == ["a"]
        with registry.use("b", timeout=0.1):
            assert registry.loaded == ["b"]


def test_waiting_for_room(model):
    with filled(model, "ab", max_loaded=1) as registry:
        used = threading.Event()

        def work():
            with registry.use("a"):
                used.set()
                time.sleep(0.2)

        thread = threading.Thread(target=work)
        thread.start()
        assert used.wait(10)
        with registry.use("b", timeout=10):
            assert registry.loaded == ["b"]
        thread.join()


def test_more_threads_than_room(model):
    """The limit holds at every moment, and everybody gets a turn."""
    with filled(model, "abcd", max_loaded=2) as registry:
        most, done = [], []

        def work(name):
            for _ in range(3):
                with registry.use(name) as llama:
                    most.append(len(registry.loaded))
                    done.append(llama.generate("a", max_tokens=1).usage.prompt_tokens)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(done) == 12
        assert max(most) <= 2


def test_a_model_that_fails_leaves_room(model, tmp_path):
    with filled(model, "a", max_loaded=1) as registry:
        registry.add(ManagedModel(tmp_path / "missing.gguf", name="gone"))
        for _ in range(2):
            with pytest.raises(lc.ModelNotFoundError), registry.use("gone"):
                pass
        with registry.use("a", timeout=1):
            pass


def test_async(model):
    async def main(registry):
        async def work(name):
            async with registry.ause(name) as llama:
                return (await llama.agenerate("a", max_tokens=2, ignore_eos=True)).usage.completion_tokens

        return await asyncio.gather(*(work(name) for name in "abab"))

    with filled(model, "ab", max_loaded=1) as registry:
        assert asyncio.run(main(registry)) == [2] * 4


def test_removing(model):
    with filled(model, "ab") as registry:
        with registry.use("a"), pytest.raises(lc.BusyError):
            registry.remove("a")
        kept = registry["a"]
        registry.remove("a")
        assert kept.closed and "a" not in registry
        assert kept.state is ModelState.COLD


def test_closed(model):
    registry = filled(model, "ab")
    with registry.use("a"):
        pass
    models = [registry["a"], registry["b"]]
    registry.close()
    registry.close()
    assert all(item.closed for item in models)
    with pytest.raises(lc.ClosedError), registry.use("a"):
        pass
    with pytest.raises(lc.ClosedError):
        registry.add(model("c"))


def test_misuse(model):
    with filled(model, "ab") as registry:
        with pytest.raises(lc.InvalidArgumentError, match="already"):
            registry.add(model("a"))
        with pytest.raises(lc.InvalidArgumentError, match="no ManagedModel"):
            registry.add("a.gguf")
        for name in ("x", None, 3):
            with pytest.raises(lc.InvalidArgumentError, match="the registry has"), registry.use(name):
                pass
        with pytest.raises(lc.InvalidArgumentError):
            registry.remove("x")
    for limits in ({"max_loaded": 0}, {"max_bytes": -1}, {"max_loaded": 1.5}, {"max_loaded": True}):
        with pytest.raises(lc.InvalidArgumentError, match="above 0"):
            ModelRegistry(**limits)
