"""What a companion set says of itself: `companion.json`, schema 1."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DamagedSetError, IncompatibleSetError

FILE_NAME = "companion.json"
SCHEMA = 1
MAX_FILES = 10_000
MAX_BYTES = 4 << 30
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_BACKEND = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_DEPTH = 8


@dataclass(frozen=True)
class FileFacts:
    """A file of a set.

    Attributes:
        sha256: Of its content, lower case hex.
        size: Bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class Requirement:
    """A library of the system that an add-on needs.

    Attributes:
        library: Its file name, as in "libcuda.so.1".
        what: What brings it.
        hint: How to get it.
    """

    library: str
    what: str
    hint: str


@dataclass(frozen=True)
class SetFacts:
    """What a companion set is.

    Attributes:
        kind: "base" (llama.cpp itself) or "addon" (one more back end).
        version: Of the llamacore that it was made for.
        platform: Its platform key.
        backends: Back ends that it brings.
        llama_cpp: Version of llama.cpp.
        commit: Commit of llama.cpp.
        structs: Bytes of each struct that travels by value; a base has them.
        glibc: The oldest GNU C library that it runs with, as in "2.34"; None where there is none.
        libraries: File names in `lib/`, each after those that it depends on.
        modules: File names in `lib/` of what is loaded at run time.
        requires: What an add-on needs of the system.
        files: Every file of the set but `companion.json`, by its path in the set.
    """

    kind: str
    version: str
    platform: str
    backends: tuple[str, ...]
    llama_cpp: str
    commit: str
    structs: Mapping[str, int]
    glibc: str | None
    libraries: tuple[str, ...]
    modules: tuple[str, ...]
    requires: tuple[Requirement, ...]
    files: Mapping[str, FileFacts]

    @property
    def folder_name(self) -> str:
        """Name of the one top folder that its archive has."""
        return "-".join(["llamacore", self.version, self.platform, *(self.backends if self.kind == "addon" else ())])

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())


def is_safe(path: str) -> bool:
    """Whether a relative path with "/" stays where it is put, on every system."""
    parts = path.split("/")
    return len(parts) <= _MAX_DEPTH and all(_PART.fullmatch(part) and not part.endswith(".") for part in parts)


def check_schema(content: Mapping[str, Any], where: str) -> None:
    """Refuse what a later llamacore has written.

    Raises:
        IncompatibleSetError: It is of another schema.
        DamagedSetError: It names no schema.
    """
    schema = content.get("schema")
    if type(schema) is not int:
        raise DamagedSetError(f"{where} names no schema", hint="it is not of llamacore, or damaged")
    if schema != SCHEMA:
        raise IncompatibleSetError(
            f"{where} has schema {schema}, this llamacore reads {SCHEMA}", hint="upgrade llamacore"
        )


def parse_facts(raw: bytes, where: str) -> SetFacts:
    """Read `companion.json`. Fields that it does not know are left alone.

    Args:
        raw: Its content.
        where: What it is of, for messages.

    Raises:
        DamagedSetError: It is no sound description of a set.
        IncompatibleSetError: It is of another schema.
    """
    where = f"{FILE_NAME} of {where}"
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise DamagedSetError(f"{where} is no JSON: {exc}") from None
    if not isinstance(content, dict):
        raise DamagedSetError(f"{where} is no JSON object")
    check_schema(content, where)
    try:
        facts = _facts_of(content)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DamagedSetError(f"{where} is not sound: {type(exc).__name__} {exc}") from None
    _check_names(facts, where)
    if FILE_NAME in facts.files or not facts.files:
        raise DamagedSetError(f"{where} lists {'itself' if facts.files else 'no files'}")
    if len(facts.files) > MAX_FILES or facts.size > MAX_BYTES:
        raise DamagedSetError(f"{where} lists {len(facts.files)} files of {facts.size} bytes: too many or too much")
    for name in (*facts.libraries, *facts.modules):
        if f"lib/{name}" not in facts.files:
            raise DamagedSetError(f"{where} names the library {name!r} but no file of it")
    return facts


def _check_names(facts: SetFacts, where: str) -> None:
    """Refuse names that leave the folder, or that are one and the same on a system that ignores case."""
    taken: dict[str, tuple[str, bool]] = {}
    for name in facts.files:
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth]), depth < len(parts)  # a folder, or the file itself
            other = taken.setdefault(path[0].lower(), path)
            if other != path:
                raise DamagedSetError(f"{where} has names that collide: {other[0]!r} and {name!r}")
    unsafe = [name for name in facts.files if not is_safe(name)]
    if not _PART.fullmatch(facts.folder_name):
        unsafe.append(facts.folder_name)
    if unsafe:
        raise DamagedSetError(f"{where} has the unsafe name {unsafe[0]!r}")


def _facts_of(content: dict[str, Any]) -> SetFacts:
    kind = content["kind"]
    if content["name"] != "llamacore" or kind not in ("base", "addon"):
        raise ValueError(f"name {content['name']!r}, kind {kind!r}")
    files = {
        name: FileFacts(_matching(_SHA256, entry["sha256"].lower()), _size(entry["size"]))
        for name, entry in content["files"].items()
    }
    structs = content["gate"]["structs"] if kind == "base" else {}
    backends = tuple(_matching(_BACKEND, name) for name in _texts(content["backends"]))
    if not backends or (kind == "addon" and len(backends) != 1):
        raise ValueError(f"backends {list(backends)} in a set of kind {kind}")
    return SetFacts(
        kind=kind,
        version=_text(content["version"]),
        platform=_text(content["platform"]),
        backends=backends,
        llama_cpp=_text(content["llama_cpp"]["version"]),
        commit=_text(content["llama_cpp"]["commit"]),
        structs={_text(name): _size(size) for name, size in structs.items()},
        glibc=None if content.get("glibc") is None else _matching(re.compile(r"\d+\.\d+"), content["glibc"]),
        libraries=_texts(content.get("libraries", [])),
        modules=_texts(content.get("modules", [])),
        requires=tuple(
            Requirement(_text(need["library"]), _text(need.get("what", "")), _text(need.get("hint", "")))
            for need in content.get("requires", [])
        ),
        files=files,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(_text(item) for item in value)


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _matching(pattern: re.Pattern[str], value: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r}")
    return value
