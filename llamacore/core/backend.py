"""The process-wide native runtime: initialisation, devices, system information."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

from ..errors import InvalidArgumentError, NativeError
from . import log
from ._native import ffi, lib, lib_dir, path_bytes, text
from ._status import raise_status
from .installation import Module, cpu_variants, modules
from .neighbours import open_missing

logger = logging.getLogger("llamacore.backend")
_lock = threading.Lock()
_ready = False
_backends: list[Backend] = []
_variants: list[CpuVariant] = []
_LINKED = "linked in"
_CURE = "reinstall llamacore, or check LLAMACORE_LIB_DIR"


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
        backend: Name of the back end that drives it; empty for several devices that hold parts of each tensor (META).
        device_id: Identifier on its bus, or an empty string.
    """

    name: str
    description: str
    type: DeviceType
    memory_free: int
    memory_total: int
    backend: str
    device_id: str


@dataclass(frozen=True)
class Backend:
    """A back end that is loaded, or that is there and could not be.

    Attributes:
        name: As its file is called and as it is asked for when building: `cpu`, `rpc`, `cuda`, ...
        path: The file that it is in.
        origin: What it comes from, in words: linked in, beside the libraries, an add-on set, a Python package.
        loaded: Whether it can be used.
        reason: Why it is not loaded, or drives no device; empty for nothing.
        devices: Names of the devices that it drove when it was loaded, as in `devices()`.
    """

    name: str
    path: str
    origin: str
    loaded: bool
    reason: str
    devices: tuple[str, ...]


@dataclass(frozen=True)
class CpuVariant:
    """A CPU back end that was compiled for some processors.

    Attributes:
        path: The file that it is in.
        score: How well it fits this processor; the highest one is used. 0: it cannot run here, or not be opened.
        reason: Why it cannot be opened; empty when it can.
    """

    path: str
    score: int
    reason: str


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
        with log.kept(logging.WARNING):
            if not _backends:  # an earlier call may have failed at the CPU
                _load_modules()
            cpu = _load_cpu()
            mark = log.mark()
            status = lib.llc_backend_init()
            if status != lib.LLC_OK:
                raise_status(status, "initialising llama.cpp", NativeError, mark=mark, hint=_CURE)
            _backends.append(cpu)
        _ready = True


def _load_modules() -> None:
    linked = [lib.ggml_backend_reg_get(i) for i in range(lib.ggml_backend_reg_count())]
    _backends.extend(_loaded(reg, _LINKED) for reg in linked if text(lib.ggml_backend_reg_name(reg)) != "CPU")
    _backends.extend(_load(module) for module in modules())


def _load(module: Module) -> Backend:
    """Open a module; whatever is wrong with it is told and stops nothing."""
    reason = module.problem
    if not reason:
        logger.debug("opening the back end %s (%s)", module.backend, module.path)
        mark = log.mark()
        reg, path = ffi.new("struct ggml_backend_reg **"), path_bytes(module.path)
        status = lib.llc_backend_load(path, reg)
        if status != lib.LLC_OK and open_missing(text(lib.llc_last_error())):
            status = lib.llc_backend_load(path, reg)
        if status == lib.LLC_OK:
            found = _loaded(reg[0], module.origin)
            said = "" if found.devices else "; ".join(log.problems_since(mark))
            # servers of RPC are devices that are added later
            return replace(found, reason=said or ("" if found.devices or found.name == "rpc" else "it found no device"))
        reason = text(lib.llc_last_error())
    return Backend(module.backend, module.path, module.origin, loaded=False, reason=reason, devices=())


def _loaded(reg: Any, origin: str) -> Backend:
    devices = (lib.ggml_backend_reg_dev_get(reg, i) for i in range(lib.ggml_backend_reg_dev_count(reg)))
    return Backend(
        name=text(lib.ggml_backend_reg_name(reg)).lower(),
        path=text(lib.llc_backend_path(reg)),
        origin=origin,
        loaded=True,
        reason="",
        devices=tuple(text(lib.ggml_backend_dev_name(device)) for device in devices),
    )


def _load_cpu() -> Backend:
    """Load the variant that fits this processor best, as upstream's loader chooses, unless the CPU is linked in."""
    cpu = lib.ggml_backend_reg_by_name(b"CPU")
    if cpu != ffi.NULL:
        return _loaded(cpu, _LINKED)
    _variants[:] = [_scored(module) for module in cpu_variants()]
    best = max(_variants, key=lambda variant: variant.score, default=None)
    if best is None or best.score == 0:
        broken = [f"{variant.path}: {variant.reason}" for variant in _variants if variant.reason]
        raise NativeError(f"no CPU back end for this processor is in {lib_dir}", hint=_CURE, native_log=broken)
    found = _load(Module("cpu", best.path, "beside the libraries", ""))
    if not found.loaded:
        raise NativeError(f"the CPU back end {best.path} cannot be loaded: {found.reason}", hint=_CURE)
    return found


def _scored(module: Module) -> CpuVariant:
    score = ffi.new("int32_t *")
    reason = module.problem
    if not reason and lib.llc_backend_score(path_bytes(module.path), score) != lib.LLC_OK:
        reason = text(lib.llc_last_error())
    return CpuVariant(module.path, int(score[0]), reason)


def backends() -> list[Backend]:
    """List the back ends that are loaded, and those that are there but could not be, each with the reason.

    Add-ons that are not installed are not listed. The CPU comes last.

    Raises:
        NativeError: No usable CPU back end was found; for any other back end the reason is in the list.
    """
    init()
    return list(_backends)


def variants() -> list[CpuVariant]:
    """List the variants of the CPU back end that the best was chosen of; none where the CPU is linked in.

    Raises:
        NativeError: As for `backends`.
    """
    init()
    return list(_variants)


def device_handles() -> dict[str, Any]:
    """Map device names to native device pointers, which live as long as the process.

    Devices of an RPC server (`rpc.add_rpc_server`) are among them until it is lost.
    """
    init()
    handles = [lib.ggml_backend_dev_get(i) for i in range(lib.ggml_backend_dev_count())]
    remote = ffi.new("ggml_backend_dev_t[]", lib.llc_rpc_devices(ffi.NULL, 0))
    lib.llc_rpc_devices(remote, len(remote))
    handles += [handle for handle in remote if lib.llc_rpc_lost(handle) == ffi.NULL]
    return {text(lib.ggml_backend_dev_name(handle)): handle for handle in handles}


def default_devices() -> dict[str, Any]:
    """Map names to pointers for the devices that a model uses when none are named.

    Those are the GPUs, each once though several back ends may drive it, else the integrated ones. Devices of RPC
    servers are used when they are named.
    """
    init()
    gpus: dict[str, Any] = {}
    integrated: dict[str, Any] = {}
    seen = set()
    for i in range(lib.ggml_backend_dev_count()):
        handle = lib.ggml_backend_dev_get(i)
        kind, name = int(lib.ggml_backend_dev_type(handle)), text(lib.ggml_backend_dev_name(handle))
        if kind == DeviceType.IGPU.value:
            integrated[name] = handle
        elif kind == DeviceType.GPU.value:
            device_id = describe_device(handle).device_id
            if not device_id or device_id not in seen:
                gpus[name] = handle
            seen.add(device_id)
    return gpus or integrated


def describe_device(handle: Any) -> Device:
    """Describe a native device pointer.

    Raises:
        NativeError: Its driver refuses to say how much memory it has.
    """
    props = ffi.new("struct ggml_backend_dev_props *")
    mark = log.mark()
    status = lib.llc_device_props(handle, props)
    if status != lib.LLC_OK:
        name = text(lib.ggml_backend_dev_name(handle))
        raise_status(status, f"asking the device {name}", NativeError, mark=mark, hint="see whether others use it")
    reg = lib.ggml_backend_dev_backend_reg(handle)  # none: several devices that hold parts of each tensor
    return Device(
        name=text(props.name),
        description=text(lib.llc_rpc_endpoint(handle)) or text(props.description),
        type=DeviceType(int(props.type)),
        memory_free=int(props.memory_free),
        memory_total=int(props.memory_total),
        backend="" if reg == ffi.NULL else text(lib.ggml_backend_reg_name(reg)),
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
                types[buffer_type_name(pointer)] = pointer
    return types


def buffer_type_name(pointer: Any) -> str:
    """Return the name of a native buffer type; that of a remote device has the address of its server."""
    name = text(lib.ggml_backend_buft_name(pointer))
    device = lib.ggml_backend_buft_get_device(pointer)
    endpoint = "" if device == ffi.NULL else text(lib.llc_rpc_endpoint(device))
    return f"{name.split('[')[0]}[{endpoint}]" if endpoint else name


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
