"""Files of a set into a new folder, each checked against `companion.json` while it is written.

Archives are not trusted: what is not a plain file or folder of a safe name, or is not listed, ends it all.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import CompanionError, DamagedSetError
from .facts import FILE_NAME, FileFacts, SetFacts, is_safe, parse_facts

MAX_FACTS_BYTES = 8 << 20
_CHUNK = 1 << 20
_CURE = "fetch it again from where it was published"

Check = Callable[[SetFacts], None]
"""Called with what a set is, before a file of it is written; raises when the set is not wanted."""


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256 of the rest of an open file, lower case hex."""
    digest = hashlib.sha256()
    while block := file.read(_CHUNK):
        digest.update(block)
    return digest.hexdigest()


def unpack_archive(archive: IO[bytes], where: str, target: Path, check: Check) -> SetFacts:
    """Unpack a .tar.gz of a companion set.

    Args:
        archive: The open file, at its start.
        where: Its name, for messages.
        target: Folder to make; whoever calls removes it after an error.
        check: See `Check`.

    Raises:
        DamagedSetError: It is no sound archive, is hostile, or its files are not those that `companion.json` lists.
        OSError: A file could not be written.
    """
    with gzip.GzipFile(fileobj=archive) as unzipped:
        stream = _Bounded(unzipped, where)
        with _reading(where):
            tar = tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        facts: SetFacts | None = None
        top = ""
        unseen: dict[str, FileFacts] = {}
        for member, inner in _members(tar, where):
            if facts is None:
                top = top or inner.split("/")[0]
                if inner == top and member.isdir():
                    continue
                if inner != f"{top}/{FILE_NAME}" or not member.isreg():
                    raise DamagedSetError(
                        f"{where} is no companion set: it starts with {inner!r}, not with {FILE_NAME} in a folder"
                    )
                raw = _facts_bytes(tar, member, where)
                facts = parse_facts(raw, where)
                if top != facts.folder_name:
                    raise DamagedSetError(f"{where}: its folder is {top!r}, it says that it is {facts.folder_name}")
                check(facts)
                stream.limit = stream.tell() + facts.size + (len(facts.files) + 64) * 4096
                unseen = dict(facts.files)
                begin(target, facts, raw)
                continue
            name = inner.removeprefix(f"{top}/")
            if name == inner and inner != top:
                raise DamagedSetError(f"{where} has a second top folder: {inner!r}")
            if member.isdir():
                if inner != top and not any(file.startswith(f"{name}/") for file in facts.files):
                    raise DamagedSetError(f"{where} has the folder {name!r}, which {FILE_NAME} does not list")
                continue
            wanted = unseen.pop(name, None)
            if wanted is None:
                raise DamagedSetError(f"{where} has the file {name!r}, which {FILE_NAME} does not list", hint=_CURE)
            if member.size != wanted.size:
                raise DamagedSetError(
                    f"{where}: {name} has {member.size} bytes, {FILE_NAME} says {wanted.size}", hint=_CURE
                )
            with _reading(where):
                content: Any = tar.extractfile(member)
            with content:
                _write(content, target, name, wanted, where, executable=bool(member.mode & 0o100))
        if facts is None:
            raise DamagedSetError(f"{where} is an empty archive", hint=_CURE)
        _check_end(stream, where)
    check_complete(unseen, where)
    return facts


def copy_folder(source: Path, where: str, target: Path, check: Check) -> SetFacts:
    """Copy a companion set that lies unpacked in a folder; arguments and errors as of `unpack_archive`."""
    raw = read_facts_file(source, where)
    facts = parse_facts(raw, where)
    check(facts)
    found = dict(files_of(source))
    for name, plain in found.items():
        if not plain:
            raise DamagedSetError(f"{where}: {name} is a link or no plain file")
        if name not in facts.files and name != FILE_NAME:
            raise DamagedSetError(f"{where} has the file {name!r}, which {FILE_NAME} does not list")
    check_complete([name for name in facts.files if name not in found], where)
    begin(target, facts, raw)
    for name, wanted in facts.files.items():
        with open(source / name, "rb") as content:
            _write(content, target, name, wanted, where, executable=os.access(source / name, os.X_OK))
    return facts


def read_facts_file(folder: Path, where: str) -> bytes:
    """Read `companion.json` of a folder.

    Raises:
        DamagedSetError: There is none, or it is too large.
    """
    try:
        with open(folder / FILE_NAME, "rb") as file:
            raw = file.read(MAX_FACTS_BYTES + 1)
    except OSError as exc:
        raise DamagedSetError(
            f"{where} is no companion set: {exc.strerror} ({FILE_NAME})", hint=f"give a folder with {FILE_NAME} in it"
        ) from None
    if len(raw) > MAX_FACTS_BYTES:
        raise DamagedSetError(f"{FILE_NAME} of {where} is larger than {MAX_FACTS_BYTES} bytes")
    return raw


def files_of(folder: Path) -> Iterator[tuple[str, bool]]:
    """Everything in a folder but folders, by its path with "/", each with whether it is a plain file."""
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*files, *links):
            path = Path(root, name)
            yield path.relative_to(folder).as_posix(), path.is_file() and not path.is_symlink()


def check_complete(missing: Any, where: str) -> None:
    """Refuse a set that lacks files."""
    if missing:
        raise DamagedSetError(f"{where} lacks files that {FILE_NAME} lists: {', '.join(sorted(missing))}", hint=_CURE)


def begin(target: Path, facts: SetFacts, raw: bytes) -> None:
    """Make the folder of a set with its `companion.json`, where there is room for all of it."""
    target.mkdir(parents=True)
    free = shutil.disk_usage(target).free
    if free < facts.size:
        raise CompanionError(
            f"{facts.folder_name} needs {facts.size} bytes, {target.parent} has {free} left", hint="free some space"
        )
    (target / FILE_NAME).write_bytes(raw)


class _Bounded:
    """A stream that ends a bomb: neither all of it nor one header may be larger than anything sound."""

    def __init__(self, stream: gzip.GzipFile, where: str) -> None:
        self.limit = MAX_FACTS_BYTES + 65536
        self._stream = stream
        self._where = where

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise DamagedSetError(f"{self._where} has a header of {size} bytes", hint=_CURE)
        block = self._stream.read(size)
        if self._stream.tell() > self.limit:
            raise DamagedSetError(f"{self._where} unpacks to more than it says", hint=_CURE)
        return block

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what a damaged archive raises into our error."""
    try:
        yield
    except DamagedSetError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError, RecursionError) as exc:
        raise DamagedSetError(f"{where} is no sound .tar.gz archive: {type(exc).__name__} {exc}", hint=_CURE) from None


def _members(tar: tarfile.TarFile, where: str) -> Iterator[tuple[tarfile.TarInfo, str]]:
    seen: set[str] = set()  # so there are no more of them than files and their folders
    while True:
        with _reading(where):
            member = tar.next()
        if member is None:
            return
        name = member.name
        unsafe = None
        if name in seen:
            unsafe = "is there twice"
        elif not is_safe(name):
            unsafe = "has an unsafe name"
        elif member.issym() or member.islnk():
            unsafe = "is a link"
        elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse():
            unsafe = "is neither a plain file nor a folder"
        elif member.mode & 0o7000:
            unsafe = "is setuid, setgid or sticky"
        if unsafe:
            raise DamagedSetError(
                f"{where}: the member {name[:200]!r} {unsafe}; nothing of the archive is used",
                hint="find out where it comes from",
            )
        seen.add(name)
        yield member, name


def _facts_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    if member.size > MAX_FACTS_BYTES:
        raise DamagedSetError(f"{FILE_NAME} of {where} is larger than {MAX_FACTS_BYTES} bytes")
    with _reading(where):
        content: Any = tar.extractfile(member)
        with content:
            raw: bytes = b"".join(iter(lambda: content.read(65536), b""))
    return raw


def _write(content: Any, target: Path, name: str, wanted: FileFacts, where: str, *, executable: bool) -> None:
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    with open(path, "xb") as file:
        while True:
            with _reading(where):
                block = content.read(65536)
            if not block:
                break
            digest.update(block)
            size += len(block)
            file.write(block)
    if size != wanted.size or digest.hexdigest() != wanted.sha256:
        raise DamagedSetError(f"{where}: {name} is not what {FILE_NAME} says: its SHA-256 differs", hint=_CURE)
    if executable:
        path.chmod(path.stat().st_mode | 0o111)


def _check_end(stream: _Bounded, where: str) -> None:
    """Read what follows the last member: it is to be padding, and the checksum of the whole is behind it."""
    while True:
        with _reading(where):
            block = stream.read(65536)
        if not block:
            return
        if block.strip(b"\0"):
            raise DamagedSetError(f"{where} has something behind its end, or a damaged header", hint=_CURE)
