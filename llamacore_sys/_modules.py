"""Which modules (back ends that are opened at run time) there are, and what they come from.

In this order:

1. Beside the libraries: `libggml-<backend>.so`.
2. Unless `LLAMACORE_LIB_DIR` chose the libraries, for each back end that add-ons are made of and that is not there yet:
   the add-on set that `llamacore libs install` has made active, whose folder is the one line of
   `<user data>/llamacore/libs/<commit>/addons/<backend>`, or else the installed Python package `llamacore_<backend>`.
3. `GGML_BACKEND_PATH`, the path of a module, as upstream's own loader has it.

An add-on must be made for this llama.cpp commit and this platform. Nothing is opened here, and nothing here fails: what
cannot be used is listed with its problem. Which variant of the CPU is the best is known when each was asked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import NamedTuple

from llamacore_sys._complete import why_incomplete
from llamacore_sys._platform import platform_key
from llamacore_sys._search import COMPANION_FILE, LibraryFolder, addon_marker

ENV_MODULE = "GGML_BACKEND_PATH"
BESIDE = "beside the libraries"
ADDONS = ("blas", "cuda", "vulkan")
# The back ends that upstream's loader knows, in its order, which is that of the devices.
_KNOWN = (
    "blas", "zendnn", "cann", "cuda", "hip", "metal", "rpc", "sycl", "vulkan", "virtgpu", "opencl", "hexagon", "musa",
    "openvino",
)  # fmt: skip


class Module(NamedTuple):
    """A module that could be opened.

    Attributes:
        backend: Its back end, as the file is called: `cuda`, `rpc`, ...
        path: Absolute path of the file.
        origin: What it comes from, in words.
        problem: Why it must not be opened; empty for nothing.
    """

    backend: str
    path: str
    origin: str
    problem: str = ""


def find_cpu_variants(folder: LibraryFolder) -> list[Module]:
    """The variants of the CPU back end beside the libraries, `libggml-cpu-<variant>.so`, sorted by name.

    Where there are none, one for all processors, `libggml-cpu.so`, if that is there; nothing where it is linked in.
    """
    prefix, suffix = os.path.splitext(module_file("cpu-"))
    try:
        names = sorted(os.listdir(folder.path))
    except OSError:
        names = []
    variants = [name for name in names if name.startswith(prefix) and name.endswith(suffix)]
    paths = [os.path.join(folder.path, name) for name in variants or {module_file("cpu")}.intersection(names)]
    return [Module("cpu", path, BESIDE, why_incomplete(path)) for path in paths if os.path.isfile(path)]


def module_file(backend: str) -> str:
    """The file name of a module."""
    return f"ggml-{backend}.dll" if sys.platform == "win32" else f"libggml-{backend}.so"


def find_modules(folder: LibraryFolder, commit: str) -> list[Module]:
    """The modules that there are, in the order in which they are to be opened.

    Args:
        folder: Where the libraries come from.
        commit: The llama.cpp commit that the package was compiled for.
    """
    found: list[Module] = []
    for backend in _KNOWN:
        path = os.path.join(folder.path, module_file(backend))
        if os.path.isfile(path):
            found.append(Module(backend, path, BESIDE, why_incomplete(path)))
        elif backend in ADDONS and folder.chosen_by != "environment":
            found += _addons(backend, commit)
    given = os.environ.get(ENV_MODULE)
    if given:
        path = os.path.abspath(os.path.expanduser(given))
        name = os.path.splitext(os.path.basename(path))[0].removeprefix("lib").removeprefix("ggml-")
        found.append(Module(name, path, f"{ENV_MODULE}={given}", why_incomplete(path)))
    return found


def _addons(backend: str, commit: str) -> list[Module]:
    """What there is of an add-on: the candidates that cannot be used, then the first that can."""
    candidates = []
    marker = addon_marker(commit, backend)
    try:
        with open(marker, encoding="utf-8") as file:
            candidates.append((file.read().strip(), f"the add-on set named in {marker}"))
    except FileNotFoundError:
        pass
    except (OSError, UnicodeError) as error:
        return [Module(backend, marker, "the installed add-on set", f"{marker} cannot be read: {error}")]
    package = f"llamacore_{backend}"
    home = _package_folder(package)
    if home:
        candidates.append((home, f"the Python package {package}"))
    found = []
    for folder, origin in candidates:
        module = Module(backend, os.path.join(folder, "lib", module_file(backend)), origin)
        module = module._replace(problem=_problem(folder, module.path, commit))
        found.append(module)
        if not module.problem:
            break
    return found


def _package_folder(package: str) -> str:
    """The folder of an installed package, which is not imported; empty when there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except Exception:  # finders of other packages may raise anything
        return ""
    places = list(spec.submodule_search_locations or ()) if spec else []
    return os.path.abspath(places[0]) if places else ""


def _problem(folder: str, path: str, commit: str) -> str:
    """Why the module of an add-on's folder is not for this package; empty when it is."""
    record = os.path.join(folder, COMPANION_FILE)
    if not os.path.isabs(folder) or not os.path.isdir(folder):
        return f"its folder is gone ({folder!r})"
    try:
        with open(record, encoding="utf-8") as file:
            facts = json.load(file)
        made_for, platform = facts["llama_cpp"]["commit"], facts["platform"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{record} cannot be read: {error!r}"
    if made_for != commit:
        return f"it is made for llama.cpp {made_for}, this package for {commit}"
    try:
        here = platform_key()
    except ValueError as error:
        return str(error)
    if platform != here:
        return f"it is made for {platform}, this is {here}"
    return why_incomplete(path)
