"""The process-wide native runtime: initialisation, devices, system information."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from ..errors import InvalidArgumentError, NativeError
from . import log
from ._native import ffi, lib, lib_dir, text
from ._status import raise_status

_lock = threading.Lock()
_ready = False


class DeviceType(Enum):
    """Kinds of compute device (`enum ggml_backend_dev_type`)."""

    CPU = lib.GGML_BACKEND_DEVICE_TYPE_CPU
    GPU = lib.GGML_BACKEND_DEVICE_TYPE_GPU
    IGPU = lib.GGML_BACKEND_DEVICE_TYPE_IGPU
    ACCEL = lib.GGML_BACKEND_DEVICE_TYPE_ACCEL
    META = lib.GGML_BACKEND_DEVICE_TYPE_META


class Numa(Enum):
    """NUMA strategies (`enum ggml_numa_strategy`)."""

    DISABLED = lib.GGML_NUMA_STRATEGY_DISABLED
    DISTRIBUTE = lib.GGML_NUMA_STRATEGY_DISTRIBUTE
    ISOLATE = lib.GGML_NUMA_STRATEGY_ISOLATE
    NUMACTL = lib.GGML_NUMA_STRATEGY_NUMACTL
    MIRROR = lib.GGML_NUMA_STRATEGY_MIRROR


@dataclass(frozen=True)
class Device:
    """A compute device.

    Attributes:
        name: Short name, as `ModelParams.devices` takes it.
        description: What the back end calls it.
        type: Its kind.
        memory_free: Free memory in bytes when it was asked.
        memory_total: Total memory in bytes.
        backend: Name of the back end that drives it.
        device_id: Identifier on its bus, or an empty string.
    """

    name: str
    description: str
    type: DeviceType
    memory_free: int
    memory_total: int
    backend: str
    device_id: str


def init() -> None:
    """Initialise the native runtime once per process. Safe to call again and from any thread.

    Every constructor of this package calls it; there is no need to.

    Raises:
        NativeError: No usable back end was found beside the libraries.
    """
    global _ready
    with _lock:
        if _ready:
            return
        log.install()
        mark = log.mark()
        status = lib.llc_backend_init(lib_dir.encode())
        if status != lib.LLC_OK:
            raise_status(
                status,
                "initialising llama.cpp",
                NativeError,
                mark=mark,
                hint="reinstall llamacore, or check LLAMACORE_LIB_DIR",
            )
        _ready = True


def device_handles() -> dict[str, Any]:
    """Map device names to native device pointers, which live as long as the process."""
    init()
    handles = (lib.ggml_backend_dev_get(i) for i in range(lib.ggml_backend_dev_count()))
    return {text(lib.ggml_backend_dev_name(handle)): handle for handle in handles}


def describe_device(handle: Any) -> Device:
    """Describe a native device pointer."""
    props = ffi.new("struct ggml_backend_dev_props *")
    lib.ggml_backend_dev_get_props(handle, props)
    return Device(
        name=text(props.name),
        description=text(props.description),
        type=DeviceType(int(props.type)),
        memory_free=int(props.memory_free),
        memory_total=int(props.memory_total),
        backend=text(lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(handle))),
        device_id=text(props.device_id),
    )


def devices() -> list[Device]:
    """List the compute devices of this machine that the loaded back ends drive."""
    return [describe_device(handle) for handle in device_handles().values()]


def buffer_types() -> dict[str, Any]:
    """Map buffer type names (for `ModelParams.tensor_overrides`) to native pointers, good for the whole process."""
    types = {}
    for handle in device_handles().values():
        for pointer in (lib.ggml_backend_dev_buffer_type(handle), lib.ggml_backend_dev_host_buffer_type(handle)):
            if pointer != ffi.NULL:
                types[text(lib.ggml_backend_buft_name(pointer))] = pointer
    return types


def numa_init(strategy: Numa | str) -> None:
    """Choose how threads are placed on a NUMA machine; call it before loading a model, once per process.

    Raises:
        InvalidArgumentError: The strategy is not one of `Numa`.
    """
    if isinstance(strategy, str):
        try:
            strategy = Numa[strategy.upper()]
        except KeyError:
            names = ", ".join(item.name.lower() for item in Numa)
            raise InvalidArgumentError(f"{strategy!r} is no NUMA strategy", hint=f"use one of: {names}") from None
    init()
    lib.llama_numa_init(strategy.value)


def system_info() -> str:
    """Return upstream's one-line description of the CPU features and back ends in use."""
    init()
    with _lock:  # upstream writes it into one static string
        return text(lib.llama_print_system_info()).strip()


def versions() -> Mapping[str, str]:
    """Return the versions of the loaded native libraries: `llama.cpp`, `commit` and `ggml`."""
    return MappingProxyType(
        {
            "llama.cpp": text(lib.llc_build_version()),
            "commit": text(lib.llc_build_commit()),
            "ggml": text(lib.ggml_version()),
        }
    )


def supports() -> Mapping[str, bool]:
    """Tell what the loaded libraries can do: `mmap`, `mlock`, `gpu_offload`, `rpc`."""
    init()
    return MappingProxyType(
        {
            "mmap": bool(lib.llama_supports_mmap()),
            "mlock": bool(lib.llama_supports_mlock()),
            "gpu_offload": bool(lib.llama_supports_gpu_offload()),
            "rpc": bool(lib.llama_supports_rpc()),
        }
    )


def limits() -> Mapping[str, int]:
    """Return upstream's compiled-in limits: `devices`, `parallel_sequences`, `tensor_buft_overrides`."""
    return MappingProxyType(
        {
            "devices": int(lib.llama_max_devices()),
            "parallel_sequences": int(lib.llama_max_parallel_sequences()),
            "tensor_buft_overrides": int(lib.llama_max_tensor_buft_overrides()),
        }
    )


def time_us() -> int:
    """Return upstream's monotonic clock in microseconds."""
    init()
    return int(lib.llama_time_us())
