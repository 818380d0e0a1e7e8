"""The gate: the extension works only with the libraries it was compiled for.

Structs of llama.cpp travel by value, so a library of another version would read and write memory at wrong places.
Version, commit, struct sizes and a hash of the shim's declarations are compiled into the extension; the libraries are
asked for theirs.
"""

from __future__ import annotations

import os
from typing import Any

CURE = (
    "reinstall llamacore (`pip install --force-reinstall llamacore`; in a checkout `python build_lib.py build`), "
    "or unset LLAMACORE_LIB_DIR and run `llamacore libs use bundled`"
)
_SECOND = (
    "another package has its own llama.cpp in this process. "
    "To cure: do not import both in one process, or import llamacore first."
)


def check(ffi: Any, lib: Any, folder: str, origin: str) -> None:
    """Compares the loaded libraries with what the extension was compiled for.

    Args:
        ffi: The extension's `ffi`.
        lib: The extension's `lib`.
        folder: Where the libraries should have come from.
        origin: What chose that folder, for the message.

    Raises:
        ImportError: They differ, or another llama.cpp of this process would get calls of ours; it names both values
            or files, and the cure.
    """
    _check_alone(ffi, lib, folder, origin)  # first: from here on functions of upstream are called
    differences = []
    for what, compiled, loaded in (
        ("version", lib.llc_compiled_version, lib.llc_build_version()),
        ("commit", lib.llc_compiled_commit, lib.llc_build_commit()),
        ("interface of the shim", lib.llc_compiled_interface, lib.llc_build_interface()),
    ):
        if ffi.string(compiled) != ffi.string(loaded):
            differences.append(f"{what} {ffi.string(loaded).decode()}, compiled for {ffi.string(compiled).decode()}")
    compiled_sizes, loaded_sizes = _sizes(ffi, lib)
    for name, loaded in loaded_sizes.items():
        if loaded != compiled_sizes[name]:
            differences.append(f"struct {name} of {loaded} bytes, compiled for {compiled_sizes[name]}")
    if not loaded_sizes:
        differences.append("no struct sizes known to the shim")
    if differences:
        raise ImportError(
            f"the llama.cpp libraries ({origin}: {folder}) do not fit this llamacore: {'; '.join(differences)}. "
            f"To cure: {CURE}."
        )


def struct_sizes() -> dict[str, int]:
    """The sizes in bytes of the structs that the extension was compiled with, by name; opens the libraries.

    Raises:
        ImportError: They cannot be opened, or do not fit.
    """
    from llamacore_sys import ffi, lib

    return _sizes(ffi, lib)[0]


def _sizes(ffi: Any, lib: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes as compiled and as loaded. Which structs count is the shim's to say; others have size 0 there."""
    loaded = {name: lib.llc_struct_size(name.encode()) for name in ffi.list_types()[1]}
    loaded = {name: size for name, size in sorted(loaded.items()) if size}
    return {name: ffi.sizeof(f"struct {name}") for name in loaded}, loaded


def _check_alone(ffi: Any, lib: Any, folder: str, origin: str) -> None:
    """Refuses libraries that are bound to another llama.cpp of this process. It calls the shim and nothing else."""
    for name in ("shim", "common", "mtmd", "llama", "ggml", "ggml-base"):
        path = ffi.string(lib.llc_symbol_path(name.encode())).decode(errors="surrogateescape")
        if path and os.path.realpath(os.path.dirname(path)) != os.path.realpath(folder):
            raise ImportError(f"{name} was loaded from {path}, not from {folder} ({origin}): {_SECOND}")
    foreign = ffi.string(lib.llc_foreign_symbol()).decode(errors="surrogateescape")
    if foreign:
        raise ImportError(f"calls of {origin} ({folder}) would go to {foreign}, which is open to all: {_SECOND}")
