"""What the loader of Linux reads of a library: its name, what it needs, where it looks, which glibc."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from build_support.errors import BuildError

_MACHINES = {62: "x86_64", 183: "aarch64"}
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF


@dataclass(frozen=True)
class Elf:
    """A shared library.

    Attributes:
        machine: Processor, as in a platform key.
        soname: Its own name, empty when it has none.
        needed: The libraries that it is linked with.
        runpath: Where they are looked for first.
        versions: Names of the symbol versions that it needs, such as `GLIBC_2.34`.
    """

    machine: str
    soname: str
    needed: tuple[str, ...]
    runpath: str
    versions: tuple[str, ...]

    @property
    def glibc(self) -> tuple[int, ...]:
        """The lowest glibc that has everything it needs; empty when it needs none."""
        found = (re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", name) for name in self.versions)
        return max((tuple(map(int, match[1].split("."))) for match in found if match), default=())


def read_elf(path: Path) -> Elf:
    """Reads a library.

    Raises:
        BuildError: It is no 64-bit little-endian ELF file with a dynamic section, or it is damaged.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise BuildError(f"{path} is no 64-bit ELF library", "give a folder with libraries of Linux only")
    try:
        return _Reader(data).elf()
    except (struct.error, ValueError, LookupError, OverflowError) as error:
        raise BuildError(f"{path} is damaged: {error}", "build it again") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        offset, size, count = struct.unpack_from("<Q14xHH", data, 32)
        self._segments = [struct.unpack_from("<IIQQQQ", data, offset + size * i) for i in range(count)]

    def elf(self) -> Elf:
        entries = list(self._dynamic())
        first = dict(reversed(entries))
        strings = self._offset(first[_DT_STRTAB]) if _DT_STRTAB in first else 0
        path = first.get(_DT_RUNPATH, first.get(_DT_RPATH))
        machine = struct.unpack_from("<H", self._data, 18)[0]
        return Elf(
            machine=_MACHINES.get(machine, f"machine {machine}"),
            soname=self._text(strings + first[_DT_SONAME]) if _DT_SONAME in first else "",
            needed=tuple(self._text(strings + value) for tag, value in entries if tag == _DT_NEEDED),
            runpath="" if path is None else self._text(strings + path),
            versions=tuple(self._versions(first, strings)),
        )

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        """Tag and value of each entry of the dynamic section."""
        for kind, _, offset, _, _, size in self._segments:
            if kind != _PT_DYNAMIC:
                continue
            for tag, value in struct.iter_unpack("<qQ", self._data[offset : offset + size // 16 * 16]):
                if tag == 0:
                    return
                yield tag, value
        raise ValueError("no whole dynamic section")

    def _versions(self, first: dict[int, int], strings: int) -> Iterator[str]:
        if _DT_VERNEED not in first:
            return
        file = self._offset(first[_DT_VERNEED])
        for _ in range(first[_DT_VERNEEDNUM]):
            _, count, _, aux, following = struct.unpack_from("<HHIII", self._data, file)
            entry = file + aux
            for _ in range(count):
                _, _, _, name, step = struct.unpack_from("<IHHII", self._data, entry)
                yield self._text(strings + name)
                if not step:
                    break
                entry += step
            if not following:
                break
            file += following

    def _offset(self, address: int) -> int:
        """The place in the file of what is loaded at an address."""
        for kind, _, offset, start, _, size in self._segments:
            if kind == _PT_LOAD and start <= address < start + size:
                return int(offset + address - start)
        raise ValueError(f"address {address:#x} is in no segment")

    def _text(self, offset: int) -> str:
        return self._data[offset : self._data.index(b"\0", offset)].decode("ascii")
