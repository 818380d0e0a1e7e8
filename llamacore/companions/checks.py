"""Whether a companion set fits this llamacore and this machine: first by what it says, then by loading it."""

from __future__ import annotations

import json
import os
import platform
import signal
from pathlib import Path
from subprocess import TimeoutExpired

from .. import __version__
from ..errors import IncompatibleSetError
from . import _package
from .facts import SetFacts

_LOAD = "from llamacore.core import backend; backend.init()"
_LOAD_ADDONS = """
import json
import os
from llamacore.core import backend
print(json.dumps([[found.path, found.loaded, found.reason] for found in backend.backends()]))
"""


def check_commit(commit: str | None, where: str) -> None:
    """Refuse libraries of another llama.cpp.

    Raises:
        IncompatibleSetError: They are.
    """
    pin = _package.pin()
    if commit is not None and commit != pin.commit:
        raise IncompatibleSetError(
            f"{where} has llama.cpp {commit}, this llamacore is compiled for {pin.commit} ({pin.version})",
            hint=f"take the set of llamacore {__version__}",
        )


def check_says(facts: SetFacts, where: str) -> None:
    """Refuse a set that cannot work here, by what it says.

    Raises:
        IncompatibleSetError: It is for another platform, llamacore or llama.cpp, or needs a newer C library.
    """
    here = _package.platform_key()
    if facts.platform != here:
        raise IncompatibleSetError(f"{where} is for {facts.platform}, this machine is {here}")
    check_commit(facts.commit, where)
    version = _package.pin().version
    if facts.llama_cpp != version:
        raise IncompatibleSetError(f"{where} has llama.cpp {facts.llama_cpp}, this llamacore needs {version}")
    if facts.kind == "base" and facts.version != __version__:
        # the shim in it is of that version, too
        raise IncompatibleSetError(
            f"{where} is of llamacore {facts.version}, this is {__version__}", hint="take the set of this version"
        )
    if facts.kind == "addon" and facts.backends[0] not in _package.ADDONS:
        raise IncompatibleSetError(
            f"{where} is an add-on for {facts.backends[0]}, this llamacore knows {', '.join(_package.ADDONS)}"
        )
    _check_glibc(facts.glibc, where)


def check_structs(facts: SetFacts, where: str) -> None:
    """Refuse a base set whose structs are not those that the extension was compiled with.

    Raises:
        IncompatibleSetError: They are not; it names both sizes.
    """
    ours = _package.struct_sizes() if facts.kind == "base" else None
    if ours is None:  # not even the bundled libraries load; loading the set will show whether it fits
        return
    wrong = [
        f"{name} of {facts.structs.get(name, 'unknown')} bytes, compiled for {ours.get(name, 'none')}"
        for name in sorted({*ours, *facts.structs})
        if facts.structs.get(name) != ours.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise IncompatibleSetError(f"{where} does not fit this llamacore: struct {', '.join(wrong[:3])}{more}")


def check_loads(folder: Path, where: str) -> None:
    """Load a base set in a process of its own and start its back ends.

    Args:
        folder: The folder of the set.
        where: Its name, for messages.

    Raises:
        IncompatibleSetError: That fails; the message says why.
    """
    try:
        tried = _package.run_python(_LOAD, folder / "lib")
    except TimeoutExpired:
        raise IncompatibleSetError(f"{where} was tried and does not come to an end") from None
    if tried.returncode < 0:
        raise IncompatibleSetError(f"{where} was tried and died of {signal_name(-tried.returncode)}")
    if tried.returncode > 0:
        last = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
        raise IncompatibleSetError(f"{where} was tried and cannot be loaded: {last}")


def signal_name(number: int) -> str:
    """Name of a signal, as in "SIGSEGV"; "signal 99" for one that has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def why_idle(facts: SetFacts, folder: Path) -> str:
    """Why the back end of an active add-on does nothing here; empty when it works.

    Whatever it is, it stops nothing: the other back ends work as before.
    """
    file = next((folder / "lib" / name for name in facts.modules), folder)
    try:
        tried = _package.run_python(_LOAD_ADDONS, None)
        found = json.loads(tried.stdout.splitlines()[-1])
    except (TimeoutExpired, IndexError, ValueError):
        return "it could not be tried: run `llamacore doctor`"
    here = os.path.realpath(file)
    loaded, reason = next((rest for path, *rest in found if os.path.realpath(path) == here), (False, ""))
    if not reason and not loaded:
        return "another one is taken before it: run `llamacore doctor`"
    if loaded:
        return str(reason)
    needs = [need for need in facts.requires if need.library in reason]
    return str(reason) + "".join(f". It needs {need.what} ({need.library}): {need.hint}" for need in needs)


def _check_glibc(floor: str | None, where: str) -> None:
    if floor is None:
        return
    library, version = platform.libc_ver()
    if library != "glibc":
        raise IncompatibleSetError(f"{where} needs the GNU C library {floor}, this system has another C library")
    if _numbers(version) < _numbers(floor):
        raise IncompatibleSetError(
            f"{where} needs glibc {floor}, this system has {version}",
            hint="use a newer system, or build llamacore on this one",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
