"""Platform keys for the build, from the one place that knows them: `llamacore_sys/_platform.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from build_support.errors import BuildError

_FILE = Path(__file__).resolve().parent.parent / "llamacore_sys" / "_platform.py"


def _load() -> ModuleType:
    """The module by its path: importing its package would load the libraries, which may not be built yet."""
    spec = importlib.util.spec_from_file_location("_llamacore_platform", _FILE)
    assert spec is not None and spec.loader is not None  # a path that ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_platform = _load()


def this_platform() -> str:
    """The key of this machine.

    Raises:
        BuildError: There are no libraries for such a machine.
    """
    return _key(None, None)


def parse_platform(text: str) -> str:
    """A platform as somebody spelled it (`x86_64-linux`, `arm64-macosx`), as a key.

    Raises:
        BuildError: It is not `{arch}-{os}`, or unknown.
    """
    machine, dash, system = text.partition("-")
    if not dash:
        raise BuildError(f"{text!r} is no platform", f"use one of {', '.join(_platform.PLATFORM_KEYS)}")
    return _key(system, machine)


def _key(system: str | None, machine: str | None) -> str:
    try:
        return str(_platform.platform_key(system, machine))
    except ValueError as error:
        raise BuildError(str(error), f"use one of {', '.join(_platform.PLATFORM_KEYS)}") from None
