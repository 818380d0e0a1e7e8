"""The process-wide runtime."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llamacore as lc
from llamacore.core import backend


def test_the_cpu_is_there():
    """There is a CPU device with memory, and the names given are those that parameters take."""
    cpu = next(device for device in backend.devices() if device.type is backend.DeviceType.CPU)
    assert cpu.name in backend.device_handles()
    assert cpu.backend and cpu.description
    assert 0 < cpu.memory_free <= cpu.memory_total
    assert backend.buffer_types()


def test_what_is_said_about_the_libraries():
    """Versions, abilities and limits are those of the pin and of this platform."""
    import llamacore_sys

    assert backend.versions()["llama.cpp"] == llamacore_sys.UPSTREAM.version
    assert backend.versions()["commit"] == llamacore_sys.UPSTREAM.commit
    assert re.match(r"\d+\.\d+", backend.versions()["ggml"])
    assert set(backend.supports()) == {"mmap", "mlock", "gpu_offload", "rpc"}
    assert backend.supports()["mmap"]
    assert backend.limits()["parallel_sequences"] >= 64
    assert "CPU" in backend.system_info()
    with pytest.raises(TypeError):
        backend.limits()["devices"] = 1


def test_the_back_ends_are_listed():
    """Each with its file; the CPU is the last, and their devices are all there are."""
    import llamacore_sys

    found = backend.backends()
    assert {item.name for item in found} >= {"cpu", "rpc"}
    assert (found[-1].name, found[-1].loaded, found[-1].reason) == ("cpu", True, "")
    for item in found:
        if item.loaded:
            assert Path(item.path).parent == Path(llamacore_sys.lib_dir)
            assert item.origin in ("linked in", "beside the libraries")
    assert [name for item in found for name in item.devices] == list(backend.device_handles())
    assert bool(backend.variants()) == (found[-1].origin == "beside the libraries")


def test_loading_a_back_end_is_guarded(tmp_path):
    """NULL and files that are none are refused; a second back end of a name is, too."""
    from llamacore.core._native import ffi, lib, text

    reg = ffi.new("struct ggml_backend_reg **")
    score = ffi.new("int32_t *")
    backend.init()
    assert lib.llc_backend_load(ffi.NULL, reg) == lib.LLC_INVALID_ARGUMENT
    assert lib.llc_backend_score(ffi.NULL, score) == lib.LLC_INVALID_ARGUMENT
    for path in (tmp_path, tmp_path / "gone.so"):
        assert lib.llc_backend_load(bytes(path), reg) == lib.LLC_UNAVAILABLE
        assert str(path) in text(lib.llc_last_error())
        assert lib.llc_backend_score(bytes(path), score) == lib.LLC_UNAVAILABLE
        assert (reg[0], score[0]) == (ffi.NULL, 0)
    assert text(lib.llc_backend_path(ffi.NULL)) == ""
    count = lib.ggml_backend_reg_count()
    assert lib.llc_backend_init() == lib.LLC_OK
    assert lib.ggml_backend_reg_count() == count


def test_the_clock_runs():
    """Microseconds that only grow."""
    first = backend.time_us()
    assert backend.time_us() >= first > 0


def test_initialising_again_and_from_any_thread(run_child):
    """Eight threads at once do it once, and the next time it does nothing."""
    run_child(
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        from llamacore.core import backend
        from llamacore.core._native import lib
        together = threading.Barrier(8)

        def look():
            backend.init()
            return lib.ggml_backend_reg_count(), backend.backends(), list(backend.device_handles())

        def work(_):
            together.wait(30)
            return look()

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(work, range(8)))
        assert found == [look()] * 8, found
        count, backends, devices = found[0]
        assert count and len({item.name for item in backends}) == len(backends) and len(set(devices)) == len(devices)
        """
    )


def test_numa(run_child):
    """A strategy is named by its enum or its word; any other word is refused."""
    with pytest.raises(lc.InvalidArgumentError, match="distribute"):
        backend.numa_init("nonsense")
    run_child(
        """
        from llamacore.core import backend
        backend.numa_init("disabled")
        backend.numa_init(backend.Numa.DISABLED)
        """
    )


def test_the_environment_and_the_descriptors_are_left_alone(run_child, tiny_path):
    """Loading and decoding change no environment variable, no working directory and leave no descriptor open."""
    run_child(
        """
        import os
        from decoding import feed, open_pair, words
        before = dict(os.environ), os.getcwd(), os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        for _ in range(3):
            model, ctx = open_pair(sys.argv[1], disable_attn_rot=True)
            feed(ctx, words(5))
            model.close()
        after = dict(os.environ), os.getcwd(), os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        assert before == after, (before[2], after[2])
        """,
        tiny_path(),
    )
