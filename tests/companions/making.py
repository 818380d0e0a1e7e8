"""Companion sets for tests: real ones of the libraries that are installed, small ones of a few bytes, hostile ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import llamacore_sys
from llamacore import __version__
from llamacore_sys import _build
from llamacore_sys._gate import struct_sizes
from llamacore_sys._platform import platform_key

COMMIT = _build.COMMIT
PLATFORM = platform_key()
BASE = f"llamacore-{__version__}-{PLATFORM}"
LIBRARIES = Path(llamacore_sys.__path__[0], "lib")
SMALL_FILES = {"lib/libggml-cuda.so": b"no library at all", "licenses/LICENSE": b"MIT"}

Entry = tuple[tarfile.TarInfo, bytes]


def facts_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """What `companion.json` says of the files of a folder; keys in `changes` are replaced."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "companion.json")
    backend = folder.name.removeprefix(BASE).lstrip("-")
    facts: dict[str, Any] = {
        "schema": 1,
        "kind": "addon" if backend else "base",
        "name": "llamacore",
        "version": __version__,
        "platform": PLATFORM,
        "backends": [backend] if backend else list(_build.BACKENDS),
        "llama_cpp": {"version": _build.VERSION, "commit": COMMIT},
        "glibc": "2.17",
        "libraries": [] if backend else list(_build.LIBRARIES),
        "modules": [path.name for path in files if path.name.startswith("libggml-")],
        "requires": [],
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
            }
            for path in files
        },
    }
    if not backend:
        facts["gate"] = {"structs": struct_sizes()}
    return {**facts, **changes}


def write_facts(folder: Path, **changes: Any) -> Path:
    """Write `companion.json` of a folder, and return the folder."""
    (folder / "companion.json").write_text(json.dumps(facts_of(folder, **changes)))
    return folder


def base_set(into: Path, **changes: Any) -> Path:
    """The libraries that are installed as the folder of a base set."""
    folder = into / BASE
    shutil.copytree(LIBRARIES, folder / "lib")
    return write_facts(folder, **changes)


def small_set(into: Path, files: Mapping[str, bytes] = SMALL_FILES, backend: str = "cuda", **changes: Any) -> Path:
    """The folder of an add-on of a few bytes."""
    folder = into / f"{BASE}-{backend}"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return write_facts(folder, **changes)


def entries_of(folder: Path) -> list[Entry]:
    """The members of the archive of a set, in the order of its paths."""
    paths = [folder, *sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts)]
    return [entry(path.relative_to(folder.parent).as_posix(), None if path.is_dir() else path) for path in paths]


def entry(name: str, content: Path | bytes | None = b"", **fields: Any) -> Entry:
    """A member: a folder for None, else a file. `fields` are set on its header."""
    raw = b"" if content is None else content if isinstance(content, bytes) else content.read_bytes()
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    member.mode = 0o755 if content is None or not isinstance(content, bytes) else 0o644
    member.size = len(raw)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, raw


def pack(archive: Path, entries: Iterable[Entry], format: int = tarfile.USTAR_FORMAT) -> str:  # noqa: A002
    """Write a .tar.gz and return its SHA-256."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as tar:
        for member, content in entries:
            tar.addfile(member, io.BytesIO(content))
    archive.write_bytes(gzip.compress(raw.getvalue(), compresslevel=1, mtime=0))
    return sha256_of(archive)


def archive_of(folder: Path, into: Path, change: Callable[[list[Entry]], list[Entry]] = list) -> Path:
    """Pack a set, its members changed by a function, with its sidecar."""
    into.mkdir(parents=True, exist_ok=True)
    archive = into / f"{folder.name}.tar.gz"
    archive.with_name(f"{archive.name}.sha256").write_text(pack(archive, change(entries_of(folder))))
    return archive


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def manifest(base: Path, *addons: Path, **changes: Any) -> Path:
    """Write the release manifest of archives that lie in one folder."""
    entry = {
        "file": "llamacore.whl",
        "sha256": "0" * 64,
        "companions": base.name,
        "companions_sha256": sha256_of(base).upper(),
        "addons": {
            addon.name.removesuffix(".tar.gz").rpartition("-")[2]: {
                "file": addon.name,
                "sha256": sha256_of(addon),
                "size": addon.stat().st_size,
            }
            for addon in addons
        },
        "llama_cpp": {"version": _build.VERSION, "commit": COMMIT},
        "size": base.stat().st_size,
        "something_new": {"is": "ignored"},
        **changes,
    }
    content = {"schema": 1, "name": "llamacore", "version": f"v{__version__}", "platforms": {PLATFORM: entry}}
    path = base.with_name("release-manifest.json")
    path.write_text(json.dumps(content, indent=2))
    return path


def left_in(data: Path) -> list[str]:
    """Every file of a data folder by its path, but for the lock, which stays."""
    return sorted(
        path.relative_to(data).as_posix()
        for path in data.rglob("*")
        if (path.is_file() or path.is_symlink()) and path.name != "lock"
    )
