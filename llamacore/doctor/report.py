"""What was found, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "warning", "failed"]
SCHEMA = 1


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is about; the same in every version.
        status: "ok"; "warning": something that is there cannot be used, the rest works; "failed".
        summary: What was found, one line.
        hint: What to do, or an empty string.
    """

    name: str
    status: Status
    summary: str
    hint: str = ""


@dataclass(frozen=True)
class MachineFacts:
    """The machine and this Python.

    Attributes:
        platform: Platform key, as in "x86_64-linux"; empty for one that llamacore has no name for.
        system: Operating system with its version.
        glibc: Version of the GNU C library; None where there is none.
        python: Version of Python.
        executable: The interpreter.
        processor: What the processor calls itself.
        cores: Physical cores that this process may use.
        threads: Hardware threads that this process may use.
        features: What the processor can do, of what llama.cpp's CPU back end has code for; empty when unknown.
    """

    platform: str
    system: str
    glibc: str | None
    python: str
    executable: str
    processor: str
    cores: int
    threads: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class LibraryFile:
    """A file of the libraries.

    Attributes:
        name: File name.
        size: Bytes; 0 when it is missing.
        problem: What is wrong with it; empty for nothing.
    """

    name: str
    size: int
    problem: str


@dataclass(frozen=True)
class LibraryFacts:
    """The libraries, as their files tell.

    Attributes:
        folder: Absolute path.
        origin: What chose that folder, in words.
        chosen_by: "environment", "companion set" or "package".
        llama_cpp: Version of llama.cpp that llamacore was compiled for.
        commit: Its commit.
        profile: Profile that the package was built with: "native" or "portable".
        files: The libraries.
    """

    folder: str
    origin: str
    chosen_by: str
    llama_cpp: str
    commit: str
    profile: str
    files: tuple[LibraryFile, ...]


@dataclass(frozen=True)
class BackendFacts:
    """A back end, as `llamacore.core.backend.Backend`, with a cure.

    Attributes:
        name: As in "cpu", "cuda".
        path: The file that it is in.
        origin: What it comes from, in words.
        loaded: Whether it can be used.
        reason: Why it is not loaded, or drives no device; empty for nothing.
        hint: What to do about that; empty for nothing.
        devices: Names of its devices.
    """

    name: str
    path: str
    origin: str
    loaded: bool
    reason: str
    hint: str
    devices: tuple[str, ...]


@dataclass(frozen=True)
class DeviceFacts:
    """A compute device, as `llamacore.core.backend.Device`.

    Attributes:
        name: Short name, as `ModelParams.devices` takes it.
        description: What the back end calls it.
        type: "cpu", "gpu", "igpu", "accel" or "meta".
        backend: Name of its back end.
        memory_free: Bytes.
        memory_total: Bytes.
    """

    name: str
    description: str
    type: str
    backend: str
    memory_free: int
    memory_total: int


@dataclass(frozen=True)
class NativeFacts:
    """What the libraries say of themselves once they are open.

    Attributes:
        llama_cpp: Version of llama.cpp.
        commit: Its commit.
        ggml: Version of ggml.
        structs: Bytes of each struct that travels by value; as compiled and as loaded, which is the same.
        backends: Back ends, loaded or not.
        devices: Compute devices.
        cpu_features: Features of the processor that the CPU back end in use was compiled for.
        cpu_variants: Score of each variant of the CPU back end by its path, the highest is in use; empty where it is
            linked in.
        broken_variants: Why a variant could not be opened, by its path.
        silent_devices: Why a device did not say what it is, by its name.
    """

    llama_cpp: str
    commit: str
    ggml: str
    structs: Mapping[str, int]
    backends: tuple[BackendFacts, ...]
    devices: tuple[DeviceFacts, ...]
    cpu_features: tuple[str, ...]
    cpu_variants: Mapping[str, int]
    broken_variants: Mapping[str, str]
    silent_devices: Mapping[str, str]


@dataclass(frozen=True)
class SetFacts:
    """An installed companion set, as `llamacore.companions.InstalledSet`.

    Attributes:
        id: Its name.
        kind: "base", "addon" or "damaged".
        backends: Back ends that it brings.
        active: Whether it is used.
        problem: Why it cannot be used; empty for nothing.
    """

    id: str
    kind: str
    backends: tuple[str, ...]
    active: bool
    problem: str


@dataclass(frozen=True)
class SelfTest:
    """A model that was loaded and computed with on one device, in a process of its own.

    Attributes:
        device: Name of the device.
        model: Path of the model.
        problem: What went wrong; empty for nothing.
        hint: What to do about that.
        perplexity: Of a known sentence; None when it came to none.
        predicted_per_second: Tokens generated per second, one short measurement.
        text: What was generated.
    """

    device: str
    model: str
    problem: str
    hint: str
    perplexity: float | None
    predicted_per_second: float | None
    text: str


@dataclass(frozen=True)
class Report:
    """Everything.

    Attributes:
        version: Version of llamacore.
        machine: The machine and this Python.
        libraries: The files of the libraries; None when the package is not built or their folder is gone.
        native: What the libraries say; None when they cannot be opened.
        sets: The installed companion sets.
        selftests: One for the CPU and one for each GPU.
        checks: What all of that means, in order.
    """

    version: str
    machine: MachineFacts
    libraries: LibraryFacts | None
    native: NativeFacts | None
    sets: tuple[SetFacts, ...]
    selftests: tuple[SelfTest, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed; warnings do not count."""
        return all(check.status != "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it. Fields are only ever added as long as `schema` is the same."""
        return {"schema": SCHEMA, "ok": self.ok, **dataclasses.asdict(self)}
