"""Every spelling of a platform has one key."""

from __future__ import annotations

import platform

import pytest

from llamacore_sys._platform import PLATFORM_KEYS, platform_key


@pytest.mark.parametrize(
    ("system", "os"),
    [
        ("Linux", "linux"),
        ("linux", "linux"),
        ("Darwin", "darwin"),
        ("darwin", "darwin"),
        ("macos", "darwin"),
        ("macOS", "darwin"),
        ("macosx", "darwin"),
        ("Windows", "windows"),
        ("win32", "windows"),
    ],
)
@pytest.mark.parametrize(
    ("machine", "arch"),
    [
        ("x86_64", "x86_64"),
        ("amd64", "x86_64"),
        ("AMD64", "x86_64"),
        ("x64", "x86_64"),
        ("aarch64", "aarch64"),
        ("arm64", "aarch64"),
        ("ARM64", "aarch64"),
    ],
)
def test_every_spelling_has_one_key(system: str, os: str, machine: str, arch: str) -> None:
    assert platform_key(system, machine) == f"{arch}-{os}"
    assert platform_key(system, machine) in PLATFORM_KEYS


def test_the_default_is_this_machine() -> None:
    assert platform_key() == platform_key(platform.system(), platform.machine())


@pytest.mark.parametrize("system", ["", "FreeBSD", "cygwin_nt-10.0", "win"])
def test_an_unknown_system_is_named(system: str) -> None:
    with pytest.raises(ValueError, match="unknown operating system") as caught:
        platform_key(system, "x86_64")
    assert repr(system) in str(caught.value)
    assert "processor" not in str(caught.value)


@pytest.mark.parametrize("machine", ["", "i686", "riscv64", "armv7l", "ppc64le"])
def test_an_unknown_processor_is_named(machine: str) -> None:
    with pytest.raises(ValueError, match="unknown processor") as caught:
        platform_key("Linux", machine)
    assert repr(machine) in str(caught.value)


def test_both_unknown_are_named_together() -> None:
    with pytest.raises(ValueError, match="'Plan9' and processor 'sparc'"):
        platform_key("Plan9", "sparc")
