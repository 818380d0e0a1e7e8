"""Names of platforms, `{arch}-{os}`: what archives, companion sets and manifests are called by.

It imports nothing of the package, so the build can use it before anything is built.
"""

from __future__ import annotations

import platform

_SYSTEMS = {
    "linux": "linux",
    "darwin": "darwin",
    "macos": "darwin",
    "macosx": "darwin",
    "windows": "windows",
    "win32": "windows",
}
_MACHINES = {
    "x86_64": "x86_64",
    "x86-64": "x86_64",
    "amd64": "x86_64",
    "x64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
PLATFORM_KEYS = tuple(
    f"{machine}-{system}" for system in ("linux", "darwin", "windows") for machine in ("x86_64", "aarch64")
)


def platform_key(system: str | None = None, machine: str | None = None) -> str:
    """The key of a platform.

    Args:
        system: Operating system as Python (`Linux`, `Darwin`, `macosx`), Rust (`macos`) or anybody else spells it,
            in any case; `None` means this machine's.
        machine: Processor (`x86_64`, `AMD64`, `arm64`, ...); `None` means this process's.

    Returns:
        One of `PLATFORM_KEYS`.

    Raises:
        ValueError: There are no libraries for such a platform; it names what was seen.
    """
    seen_system = platform.system() if system is None else system
    seen_machine = platform.machine() if machine is None else machine
    known_system = _SYSTEMS.get(seen_system.strip().lower())
    known_machine = _MACHINES.get(seen_machine.strip().lower())
    if known_system is None or known_machine is None:
        unknown = [
            f"{what} {seen!r}"
            for what, seen, known in (
                ("operating system", seen_system, known_system),
                ("processor", seen_machine, known_machine),
            )
            if known is None
        ]
        raise ValueError(f"unknown {' and '.join(unknown)}: llamacore knows {', '.join(PLATFORM_KEYS)}")
    return f"{known_machine}-{known_system}"
