"""The process-wide runtime."""

from __future__ import annotations

import re
import threading

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


def test_the_clock_runs():
    """Microseconds that only grow."""
    first = backend.time_us()
    assert backend.time_us() >= first > 0


def test_initialising_again_and_from_any_thread():
    """It does nothing the second time."""
    threads = [threading.Thread(target=backend.init) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.init()


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
