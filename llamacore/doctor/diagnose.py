"""Finding out what is installed, what works and what does not."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from .. import __version__, companions
from ..errors import LlamaCoreError
from ..hub import demo_model_path
from ..params import StrPath
from .children import Outcome, run_child
from .cures import cure_of, cure_of_crash
from .libraries import check_files, look_at_libraries
from .machine import features_in_use, look_at_machine, missing_features, unused_features
from .probe import probe
from .report import (
    BackendFacts,
    Check,
    DeviceFacts,
    LibraryFacts,
    MachineFacts,
    NativeFacts,
    Report,
    SelfTest,
    SetFacts,
)
from .selftest import TOLERANCE, selftest

_GPU_TYPES = ("gpu", "igpu")
_REINSTALL = "reinstall llamacore"


def diagnose(model: StrPath | None = None, *, n_threads: int | None = None) -> Report:
    """Look at everything, and compute with a model on the CPU and on every GPU.

    Whatever could crash runs in processes of its own, this one opens no library. It takes a few seconds, and the GPUs'
    memory that the model needs.

    Args:
        model: GGUF file to compute with; None for the bundled demo model, whose results are known.
        n_threads: Threads to compute with; None for one per core.

    Returns:
        What was found. It raises nothing that is due to the installation.
    """
    machine = look_at_machine()
    checks = [_check_machine(machine)]
    libraries, usable = None, False
    try:
        libraries = look_at_libraries()
    except ImportError as exc:
        checks.append(Check("libraries", "failed", *_split(str(exc))))
    else:
        of_files = check_files(libraries)
        checks += of_files
        usable = of_files[0].status == "ok"
    sets, of_sets = _sets()
    checks += of_sets
    native, selftests = None, []
    if usable and libraries is not None:
        outcome = run_child(probe)
        native = _native_facts(outcome.found) if outcome.found else None
        checks += _check_native(outcome, native, machine, libraries)
    if native is not None:
        gpus = [device.name for device in native.devices if device.type in _GPU_TYPES]
        selftests = [_selftest(model, device, n_threads) for device in ("", *gpus)]
        selftests = [_compared(test, selftests[0]) for test in selftests]
        checks += [_check_selftest(test) for test in selftests]
    return Report(__version__, machine, libraries, native, sets, tuple(selftests), tuple(checks))


def _check_machine(machine: MachineFacts) -> Check:
    libc = f", glibc {machine.glibc}" if machine.glibc else ""
    what = f"llamacore {__version__}, Python {machine.python}, {machine.platform or 'unknown platform'}{libc}"
    if machine.platform:
        return Check("package", "ok", what)
    return Check("package", "warning", f"{what}: {machine.system} {machine.processor}", "there are no releases for it")


def _sets() -> tuple[tuple[SetFacts, ...], list[Check]]:
    """The installed companion sets, and what is to be said of those that are active."""
    try:
        found = companions.installed()
    except (LlamaCoreError, OSError) as exc:
        return (), [Check("companion set", "warning", f"none can be listed: {exc}", "see `llamacore libs list`")]
    sets = tuple(SetFacts(one.id, one.kind, one.backends, one.active, one.problem) for one in found)
    checks = [
        Check("companion set", "warning", f"{one.id}: {one.problem}", "see `llamacore libs list`")
        if one.problem
        else Check("companion set", "ok", one.id)
        for one in sets
        if one.active
    ]
    return sets, checks


def _native_facts(found: dict[str, Any]) -> NativeFacts:
    backends = (
        BackendFacts(
            name=one["name"], path=one["path"], origin=one["origin"], loaded=one["loaded"], reason=one["reason"],
            hint=cure_of(one["reason"], one["path"]), devices=tuple(one["devices"]),
        )
        for one in found["backends"]
    )  # fmt: skip
    devices = (
        DeviceFacts(
            name=one["name"], description=one["description"], type=one["type"], backend=one["backend"],
            memory_free=one["memory_free"], memory_total=one["memory_total"],
        )
        for one in found["devices"]
    )  # fmt: skip
    return NativeFacts(
        llama_cpp=found["versions"]["llama.cpp"],
        commit=found["versions"]["commit"],
        ggml=found["versions"]["ggml"],
        structs=found["structs"],
        backends=tuple(backends),
        devices=tuple(devices),
        cpu_features=features_in_use(found["system_info"]),
        cpu_variants={one["path"]: one["score"] for one in found["variants"]},
        broken_variants={one["path"]: one["reason"] for one in found["variants"] if one["reason"]},
        silent_devices=found["silent"],
    )


def _check_native(
    outcome: Outcome, native: NativeFacts | None, machine: MachineFacts, libraries: LibraryFacts
) -> list[Check]:
    if native is None:
        if outcome.signal:
            return [Check("gate", "failed", outcome.problem, cure_of_crash(outcome.signal, outcome.problem))]
        return [Check("gate", "failed", *_split(outcome.problem))]
    what = (
        f"llama.cpp {native.llama_cpp} ({native.commit}), ggml {native.ggml}, {len(native.structs)} structs as compiled"
    )
    checks = [Check("gate", "ok", what)]
    checks += [_check_backend(backend) for backend in native.backends]
    checks += [
        Check("variant", "warning", _of_file(path, reason), cure_of(reason, path))
        for path, reason in native.broken_variants.items()
    ]
    checks += [_check_device(device) for device in native.devices]
    checks += [
        Check("device", "warning", f"{name}: {reason}", "see whether another process uses it")
        for name, reason in native.silent_devices.items()
    ]
    return [*checks, _check_processor(native, machine, libraries)]


def _check_backend(backend: BackendFacts) -> Check:
    where = f"{os.path.basename(backend.path)} ({backend.origin})"
    if not backend.loaded:
        summary = f"{backend.name}: not loaded ({backend.origin}): {_of_file(backend.path, backend.reason)}"
    elif backend.reason:
        summary = f"{backend.name}: without a device, {where}: {backend.reason}"
    else:
        drives = ", ".join(backend.devices) if backend.devices else "no device of this machine"
        return Check("back end", "ok", f"{backend.name}: {drives}, {where}")
    return Check("back end", "warning", summary, backend.hint)


def _of_file(path: str, reason: str) -> str:
    """The reason with its file, which it may name already."""
    return reason if path in reason else f"{path}: {reason}"


def _check_device(device: DeviceFacts) -> Check:
    free, total = device.memory_free / 2**30, device.memory_total / 2**30
    memory = f", {free:.1f} of {total:.1f} GiB free" if total else ""  # an accelerator computes in the host's memory
    return Check("device", "ok", f"{device.name}: {device.description}{memory}")


def _check_processor(native: NativeFacts, machine: MachineFacts, libraries: LibraryFacts) -> Check:
    what = (
        f"{machine.processor}, {machine.cores} cores, {machine.threads} threads; uses {' '.join(native.cpu_features)}"
    )
    missing = missing_features(machine, native.cpu_features)
    if missing:
        hint = "it is made for another processor: build it on this machine, or with the profile portable"
        return Check("processor", "warning", f"{what}; this processor has no {' '.join(missing)}", hint)
    unused = unused_features(machine, native.cpu_features)
    if not unused:
        return Check("processor", "ok", what)
    what += f"; not {' '.join(unused)}"
    if native.cpu_variants or libraries.profile != "native":
        return Check("processor", "ok", what)  # the best of the variants that there are
    return Check("processor", "warning", what, "it is made for an older processor: build it on this machine")


def _selftest(model: StrPath | None, device: str, n_threads: int | None) -> SelfTest:
    name = device or "CPU"
    try:
        path = os.path.abspath(model) if model is not None else str(demo_model_path())
    except LlamaCoreError as exc:
        return SelfTest(name, "", exc.message, exc.hint, None, None, "")
    outcome = run_child(selftest, path, device, "" if n_threads is None else str(n_threads))
    if outcome.found is None:
        hint = cure_of_crash(outcome.signal, outcome.problem) if outcome.signal else ""
        return SelfTest(name, path, outcome.problem, hint, None, None, "")
    hint = f"{_REINSTALL}; if it goes on, report it with the output of `llamacore doctor --json`"
    return SelfTest(device=name, model=path, hint=hint if outcome.found["problem"] else "", **outcome.found)


def _compared(test: SelfTest, cpu: SelfTest) -> SelfTest:
    """The test of a GPU, failed when it finds a sentence more or less likely than the CPU does."""
    if test.problem or test.perplexity is None or cpu.perplexity is None:
        return test
    if abs(test.perplexity / cpu.perplexity - 1) <= TOLERANCE:
        return test
    problem = f"the perplexity of a sentence is {test.perplexity:.2f}, on the CPU {cpu.perplexity:.2f}"
    return replace(test, problem=problem, hint="update the driver; if it goes on, report it")


def _check_selftest(test: SelfTest) -> Check:
    name = f"{test.device}, {os.path.basename(test.model) or 'no model'}"
    if test.problem:
        return Check("self-test", "failed", f"{name}: {test.problem}", test.hint)
    rate = f"{test.predicted_per_second:.0f} tokens per second"
    return Check("self-test", "ok", f"{name}: perplexity {test.perplexity:.2f}, {rate}")


def _split(message: str) -> tuple[str, str]:
    """The message of an ImportError of ours into what is wrong and the cure."""
    what, _, cure = message.partition(" To cure: ")
    return what.rstrip(". "), cure.rstrip(". ")
