"""What to do about a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

_REINSTALL = "install it again, or remove it"
# The first that the reason contains.
_CURES = (
    (r"libcuda\.so", "install the NVIDIA driver; in a container, start it with access to the GPU"),
    (r"lib(cublas|cublasLt|cudart)\.so\.12", "pip install nvidia-cublas-cu12 nvidia-cuda-runtime-cu12"),
    (r"lib(cublas|cublasLt|cudart)\.so", "pip install nvidia-cublas"),
    (r"libvulkan\.so", "install the Vulkan loader (libvulkan1 or vulkan-loader) and a driver of the GPU"),
    (r"libscipy_openblas", "pip install scipy-openblas32"),
    (r"lib\w*blas\w*\.so", "install OpenBLAS (libopenblas0 or openblas)"),
    (r"driver version is insufficient", "install a newer NVIDIA driver"),
    (r"no CUDA-capable device", "see whether nvidia-smi lists a GPU; in a container, start it with access to the GPU"),
    (r"version `GLIBC\w*_[\d.]+' not found", "use a newer system, or build it on this one"),
    (r"made for llama\.cpp|interface for back ends", "install the one of this release of llamacore"),
    (r"it is made for \S+, this is", "install the one for this platform"),
    (r"libggml-base\.so|another ggml|another library of this process", "use the one that belongs to llamacore"),
    (r"found no device|no devices? found", "see whether the driver lists a device that this process may use"),
    (r"its folder is gone|companion\.json", _REINSTALL),
    (r"cut off|invalid ELF header|file too short|file data|is missing|ggml_backend_init", _REINSTALL),
)


def cure_of(reason: str, path: str = "") -> str:
    """What to do when a back end could not be used; empty when there is no reason.

    Args:
        reason: Why.
        path: Its file; the set that it belongs to may say more about what it needs.
    """
    if not reason:
        return ""
    for library, hint in _requirements(path):
        if library in reason:
            return hint
    return next((cure for pattern, cure in _CURES if re.search(pattern, reason)), _REINSTALL)


def cure_of_crash(signal: str, problem: str) -> str:
    """What to do when a process ended by a signal.

    Args:
        signal: Its name.
        problem: What the process was doing.
    """
    if "opening the back end" in problem:
        return "update the driver that it needs, or remove this back end: without it the rest works"
    if signal == "SIGILL":
        return "the libraries are made for another processor: install a wheel, or build on this machine"
    if signal == "SIGKILL":
        return "the memory may be too small; try it on an idle machine"
    return "reinstall llamacore; if it crashes again, report it with the output of `llamacore doctor --json`"


def _requirements(path: str) -> list[tuple[str, str]]:
    """What the add-on that a file belongs to says of the libraries that it needs."""
    try:
        facts = json.loads(Path(path).parents[1].joinpath("companion.json").read_text(encoding="utf-8"))
        return [(str(need["library"]), str(need["hint"])) for need in facts["requires"] if need["hint"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return []
