"""The machine, and what its processor can do."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from ..core.installation import platform_key
from .report import MachineFacts

# Features as llama.cpp's CPU back end names them, by the flags of /proc/cpuinfo.
_FLAGS = {
    "pni": "SSE3", "ssse3": "SSSE3", "avx": "AVX", "avx_vnni": "AVX_VNNI", "avx2": "AVX2", "f16c": "F16C", "fma": "FMA",
    "bmi2": "BMI2", "avx512f": "AVX512", "avx512vbmi": "AVX512_VBMI", "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16", "amx_int8": "AMX_INT8", "asimd": "NEON", "asimdhp": "FP16_VA", "i8mm": "MATMUL_INT8",
    "sve": "SVE", "asimddp": "DOTPROD", "sme": "SME",
}  # fmt: skip


def look_at_machine() -> MachineFacts:
    """Describe the machine and this Python."""
    try:
        key = platform_key()
    except ValueError:
        key = ""
    info = _processor_info()
    flags = (info.get("flags") or info.get("Features") or "").split()
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return MachineFacts(
        platform=key,
        system=f"{platform.system()} {platform.release()}",
        glibc=_glibc(),
        python=platform.python_version(),
        executable=sys.executable,
        processor=info.get("model name") or platform.processor() or platform.machine(),
        cores=len({_siblings(number) for number in usable}),
        threads=len(usable),
        features=tuple(name for flag, name in _FLAGS.items() if flag in flags),
    )


def features_in_use(system_info: str) -> tuple[str, ...]:
    """The features of the CPU back end, of upstream's line about the system."""
    for part in system_info.split("CPU : ")[1:]:
        pairs = (entry.partition("=") for entry in part.split(" : ")[0].split("|"))
        return tuple(name.strip() for name, _, value in pairs if value.strip() == "1")
    return ()


def unused_features(machine: MachineFacts, in_use: tuple[str, ...]) -> tuple[str, ...]:
    """What the processor can do and the CPU back end in use has no code for."""
    return tuple(name for name in machine.features if name not in in_use)


def missing_features(machine: MachineFacts, in_use: tuple[str, ...]) -> tuple[str, ...]:
    """What the CPU back end in use was compiled for and the processor cannot do; empty when that is unknown."""
    known = set(_FLAGS.values())
    return tuple(name for name in in_use if name in known and name not in machine.features) if machine.features else ()


def _processor_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _siblings(number: int) -> str:
    """The threads of the core that a hardware thread belongs to."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _glibc() -> str | None:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (AttributeError, ValueError, OSError):
        return None
    return version if name == "glibc" else None
