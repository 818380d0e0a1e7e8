"""The libraries that are packed: each once, under the name the loader asks for, and nothing missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_support.config import BASE_BACKENDS
from build_support.elf import Elf, read_elf
from build_support.errors import BuildError
from build_support.source import sha256_of

_LINKED = re.compile(r"lib(?:llamacore[-_])?(.+?)\.so(?:\.\d+)?")
# What ggml's loader looks for. The linked back ends of a native build have other names.
_MODULE = re.compile(r"libggml-([a-z0-9]+)(?:-[a-z0-9_]+)*\.so")
_SYSTEM = re.compile(r"lib(c|m|dl|pthread|rt|stdc\+\+|gcc_s)\.so\.\d+|ld-linux-[\w-]+\.so\.\d+")
# Libraries that a user has or gets from elsewhere: pattern, what it is, how to get it ({} is the version in its name).
# Those of Python packages are found: by the run path beside a wheel, else by llamacore.core.neighbours.
_FOREIGN = (
    (
        r"libcuda\.so\.1",
        "the NVIDIA driver",
        "install NVIDIA's driver for this GPU; in a container, pass the GPU through",
    ),
    (
        r"libcudart\.so\.(\d+)",
        "the CUDA {} runtime",
        "install the CUDA {} toolkit; or pip install nvidia-cuda-runtime, and add its lib folder to LD_LIBRARY_PATH",
    ),
    (
        r"libcublas(?:Lt)?\.so\.(\d+)",
        "cuBLAS of CUDA {}",
        "pip install nvidia-cublas, or install the CUDA {} toolkit",
    ),
    (
        r"libvulkan\.so\.1",
        "the Vulkan loader",
        "install it with a driver for the GPU (Debian, Ubuntu: apt install libvulkan1 mesa-vulkan-drivers)",
    ),
    (
        r"libscipy_openblas\.so",
        "OpenBLAS",
        "pip install scipy-openblas32",
    ),
)


@dataclass(frozen=True)
class Library:
    """A library file and what it says of itself."""

    path: Path
    elf: Elf


@dataclass(frozen=True)
class Requirement:
    """A library that a set needs of the machine it is used on."""

    library: str
    what: str
    hint: str


@dataclass(frozen=True)
class Libraries:
    """The libraries of one set.

    Attributes:
        files: By the name that they are stored under.
        linked: Names of those that programs link, each after those that it needs.
        modules: Names of those that are opened at run time by their path, sorted.
        requires: What they need of the machine beyond the system's own libraries.
    """

    files: dict[str, Library]
    linked: tuple[str, ...]
    modules: tuple[str, ...]
    requires: tuple[Requirement, ...]

    @property
    def backends(self) -> tuple[str, ...]:
        """The back ends among them."""
        found = {match[1] for match in map(_MODULE.fullmatch, self.modules) if match}
        found |= {name.removeprefix("ggml-") for name in map(role, self.linked) if name.startswith("ggml-")} - {"base"}
        return tuple(sorted(found))

    @property
    def portable(self) -> bool:
        """Whether the CPU's variant is chosen at run time."""
        return any(name.startswith("libggml-cpu-") for name in self.modules)

    @property
    def glibc(self) -> str:
        """The lowest glibc that has everything they need."""
        return ".".join(map(str, max(library.elf.glibc for library in self.files.values())))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(library.path.stat().st_size for library in self.files.values())


def role(name: str) -> str:
    """What a linked library is: `libllamacore-llama.so.0` is `llama`."""
    found = _LINKED.fullmatch(name)
    return found[1] if found else name


def collect(folders: Iterable[Path], platform: str) -> dict[str, Library]:
    """Every library in some folders, by the name that it is stored under. Links lead to their files.

    Args:
        folders: Each with libraries in it, or in its subfolder `lib`.
        platform: The platform key that they have to be of.

    Raises:
        BuildError: A folder has none, a library is of another processor, is not stored under its SONAME, or two
            different ones have one name.
    """
    found: dict[str, Library] = {}
    for folder in folders:
        place = folder / "lib" if (folder / "lib").is_dir() else folder
        paths = sorted({path.resolve() for path in place.glob("lib*.so*") if path.is_file()})
        if not paths:
            raise BuildError(f"no libraries in {place}", "build them with build_lib.py, or name their folder")
        for path in paths:
            library = Library(path, read_elf(path))
            name = library.elf.soname or path.name
            if library.elf.machine != platform.split("-")[0]:
                raise BuildError(f"{path} is for {library.elf.machine}, not for {platform}", "give the right folder")
            if name in found and sha256_of(found[name].path) != sha256_of(path):
                raise BuildError(f"{found[name].path} and {path} are both {name} and differ", "give one of the folders")
            found.setdefault(name, library)
    return found


def split(found: dict[str, Library], backends: Sequence[str]) -> tuple[Libraries, dict[str, Libraries]]:
    """The base set, and the add-on set of each back end asked for.

    Args:
        found: What `collect` returned.
        backends: Add-ons that are wanted.

    Raises:
        BuildError: An add-on is not there, or a library needs one that is neither packed nor known.
    """
    modules = {name: match[1] for name in found if (match := _MODULE.fullmatch(name))}
    base = {name: library for name, library in found.items() if modules.get(name, "cpu") in BASE_BACKENDS}
    sets = {}
    for backend in backends:
        chosen = {name: found[name] for name, kind in modules.items() if kind == backend}
        if not chosen:
            raise BuildError(
                f"the back end {backend} is not among the libraries",
                f"build it: build_lib.py build --backend {backend}",
            )
        sets[backend] = _set(chosen, base)
    return _set(base, {}), sets


def _set(files: dict[str, Library], beside: dict[str, Library]) -> Libraries:
    requires: dict[str, Requirement] = {}
    for name, library in sorted(files.items()):
        for needed in library.elf.needed:
            if needed in files or needed in beside or _SYSTEM.fullmatch(needed):
                continue
            requires[needed] = _requirement(needed, name)
    linked = {name for name in files if not _MODULE.fullmatch(name)}
    return Libraries(
        files=dict(sorted(files.items())),
        linked=tuple(_load_order({name: files[name].elf.needed for name in sorted(linked)})),
        modules=tuple(sorted(set(files) - linked)),
        requires=tuple(requires[name] for name in sorted(requires)),
    )


def _requirement(needed: str, by: str) -> Requirement:
    for pattern, what, hint in _FOREIGN:
        found = re.fullmatch(pattern, needed)
        if found:
            version = found[1] if found.groups() else ""
            return Requirement(needed, what.format(version), hint.format(version))
    raise BuildError(
        f"{by} needs {needed}, which is neither in the set nor a library that every machine has",
        "build without what brings it in, or add it to the known ones in build_support/libraries.py",
    )


def _load_order(needs: dict[str, tuple[str, ...]]) -> list[str]:
    """Names in the order in which they can be opened one by one."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in needs and name not in order:
            for other in needs[name]:
                visit(other)
            order.append(name)

    for name in needs:
        visit(name)
    return order
