"""The gate: the extension works only with the libraries it was compiled for.

Structs of llama.cpp travel by value, so a library of another version would read and write memory at wrong places.
Version, commit and struct sizes are compiled into the extension; the libraries are asked for theirs.
"""

from __future__ import annotations

import os
from typing import Any

CURE = (
    "reinstall llamacore (`pip install --force-reinstall llamacore`; in a checkout `python build_lib.py build`), "
    "or unset LLAMACORE_LIB_DIR"
)


def check(ffi: Any, lib: Any, folder: str, origin: str) -> None:
    """Compares the loaded libraries with what the extension was compiled for.

    Args:
        ffi: The extension's `ffi`.
        lib: The extension's `lib`.
        folder: Where the libraries should have come from.
        origin: What chose that folder, for the message.

    Raises:
        ImportError: They differ; it names both values and the cure.
    """
    differences = []
    for what, compiled, loaded in (
        ("version", lib.llc_compiled_version, lib.llc_build_version()),
        ("commit", lib.llc_compiled_commit, lib.llc_build_commit()),
    ):
        if ffi.string(compiled) != ffi.string(loaded):
            differences.append(f"{what} {ffi.string(loaded).decode()}, compiled for {ffi.string(compiled).decode()}")
    # Which structs travel by value is the shim's to say; a name that it does not know has size 0.
    sizes = {name: lib.llc_struct_size(name.encode()) for name in ffi.list_types()[1]}
    for name, loaded in sizes.items():
        if loaded and loaded != ffi.sizeof(f"struct {name}"):
            differences.append(f"struct {name} of {loaded} bytes, compiled for {ffi.sizeof(f'struct {name}')}")
    if not any(sizes.values()):
        differences.append("no struct sizes known to the shim")
    if differences:
        raise ImportError(
            f"the llama.cpp libraries ({origin}: {folder}) do not fit this llamacore: {'; '.join(differences)}. "
            f"To cure: {CURE}."
        )
    for name in ("shim", "llama", "ggml", "ggml-base"):
        path = ffi.string(lib.llc_symbol_path(name.encode())).decode(errors="surrogateescape")
        if path and not os.path.samefile(os.path.dirname(os.path.abspath(path)), folder):
            raise ImportError(
                f"{name} was loaded from {path}, not from {folder} ({origin}): another package has its own llama.cpp "
                "in this process. To cure: do not import both in one process, or import llamacore first."
            )
