"""The llama.cpp source: the pinned one, downloaded once and verified, or a checkout of the user's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from build_support.archive import extract_subtree
from build_support.cache import cache_dir
from build_support.errors import BuildError
from build_support.lock import exclusive
from build_support.package import sweep
from build_support.pin import Pin
from build_support.pip import run_pip
from build_support.process import Console

_STAMP = ".llamacore-complete"


@dataclass(frozen=True)
class Source:
    """A llama.cpp tree, and what it says or is known to be."""

    path: Path
    version: str
    commit: str


def needs_download(pin: Pin, cache: Path | None = None) -> bool:
    """Whether the pinned source is neither unpacked nor downloaded yet."""
    cache = cache or cache_dir()
    return not _tree(pin, cache).exists() and not _archive(pin, cache).exists()


def pinned_source(pin: Pin, console: Console, cache: Path | None = None) -> Source:
    """The pinned source, downloaded and unpacked into the cache unless it is there, whole, already.

    Raises:
        BuildError: It could not be had, or is not what the pin says.
    """
    cache = cache or cache_dir()
    tree = _tree(pin, cache)
    source = Source(tree, pin.version, pin.commit)
    if _is_complete(tree, pin):
        return source
    with exclusive(cache / "lock", console.say):
        if _is_complete(tree, pin):  # another process may have made it while this one waited
            return source
        sweep(cache, "download-*")
        sweep(cache, "unpack-*")
        archive = _archive(pin, cache)
        if archive.exists() and sha256_of(archive) != pin.sdist_sha256:
            console.say(f"{archive} is damaged; downloading it again")
            archive.unlink()
        if not archive.exists():
            download(pin, archive, console)
        if tree.exists():
            console.say(f"{tree} is incomplete; unpacking it again")
        else:
            console.say(f"unpacking llama.cpp {pin.version} ({pin.commit})")
        _unpack(pin, archive, tree)
    return source


def local_source(path: Path, pin: Pin, *, allow_unpinned: bool) -> Source:
    """A llama.cpp checkout of the user's.

    Raises:
        BuildError: `path` is no llama.cpp tree, or it is not the pinned version and that was not allowed.
    """
    version = tree_version(path)
    commit = _git_commit(path)
    differs = version != pin.version or (commit is not None and not _same_commit(commit, pin.commit))
    if differs and not allow_unpinned:
        raise BuildError(
            f"{path} is llama.cpp {version} ({commit or 'commit unknown'}); the pin is {pin.version} ({pin.commit})",
            "check out the pinned version there, or add --allow-unpinned and expect declarations that no longer fit",
        )
    return Source(path, version, pin.commit if commit and not differs else commit or "unknown")


def tree_version(path: Path) -> str:
    """The version that a llama.cpp tree states in its CMakeLists.txt."""
    try:
        text = (path / "CMakeLists.txt").read_text(encoding="utf-8")
    except OSError:
        text = ""
    parts = [re.search(rf"set\(LLAMA_VERSION_{part}\s+(\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    numbers = [part[1] for part in parts if part]
    if len(numbers) != 3:
        raise BuildError(
            f"{path} is no llama.cpp source tree of version 0.1.0 or later", "give the folder of a checkout"
        )
    return ".".join(numbers)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(pin: Pin, archive: Path, console: Console) -> None:
    """Downloads the sdist with pip.

    Raises:
        BuildError: No pip, no network, no space, or an archive with another hash.
    """
    console.say(f"downloading {pin.sdist_name} {pin.sdist_version}, which carries llama.cpp {pin.version} (73 MiB)")
    by_hand = (
        f"or download {archive.name} (sha256 {pin.sdist_sha256}) on another machine and put it at {archive}, "
        "or build with --source DIR"
    )
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=archive.parent) as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(pin.requirement + "\n", encoding="ascii")
        log = archive.parent / "download.log"
        command = ["download", "--no-deps", "--no-binary", pin.sdist_name, "--require-hashes"]
        output = run_pip([*command, "--requirement", str(requirements), "--dest", folder], log)
        if output is not None:
            raise _download_error(output, log, by_hand)
        found = Path(folder, archive.name)
        if not found.exists():
            raise BuildError(f"pip downloaded no {archive.name}; its output is in {log}", by_hand)
        actual = sha256_of(found)
        if actual != pin.sdist_sha256:
            raise _hash_error(archive.name, actual, pin)
        os.replace(found, archive)


def _tree(pin: Pin, cache: Path) -> Path:
    return cache / f"llama.cpp-{pin.version}-{pin.commit}"


def _archive(pin: Pin, cache: Path) -> Path:
    return cache / f"{pin.archive_stem}.tar.gz"


def _download_error(output: str, log: Path, by_hand: str) -> BuildError:
    if "No module named pip" in output:
        return BuildError("this Python has no pip to download with", f"python -m ensurepip, {by_hand}")
    if "DO NOT MATCH THE HASHES" in output:
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return BuildError(
            f"the downloaded source has another hash than the pin ({got[1] if got else log}); nothing of it is used",
            f"find out what your package index serves, {by_hand}",
        )
    if re.search(r"No space left on device", output):
        return BuildError(
            f"the disk is full while downloading (log: {log})", "free some space and run the command again"
        )
    last = (
        [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:] or ["no output"]
    )
    return BuildError(
        "the llama.cpp source could not be downloaded (no network, or the package index lacks it): "
        f"{last[-1]}\n    log: {log}",
        f"check the network and pip's settings (`python -m pip config list`) and run the command again, {by_hand}",
    )


def _hash_error(name: str, actual: str, pin: Pin) -> BuildError:
    return BuildError(
        f"{name} has sha256 {actual}, the pin says {pin.sdist_sha256}; nothing of it is used",
        "find out where the file came from; delete it and run the command again",
    )


def _unpack(pin: Pin, archive: Path, tree: Path) -> None:
    """Unpacks beside `tree` and renames, so that `tree` is whole or absent."""
    aside = Path(tempfile.mkdtemp(prefix="unpack-", dir=tree.parent))
    try:
        fresh = aside / "tree"
        extract_subtree(archive, f"{pin.archive_stem}/{pin.sdist_subdir}", fresh)
        version = tree_version(fresh)
        if version != pin.version:
            raise BuildError(f"{archive} carries llama.cpp {version}, the pin says {pin.version}", "correct the pin")
        (fresh / _STAMP).write_text(f"{pin.sdist_sha256}\n{_listing_digest(fresh)}\n", encoding="ascii")
        if tree.exists():
            os.replace(tree, aside / "old")
        os.replace(fresh, tree)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_complete(tree: Path, pin: Pin) -> bool:
    try:
        stamp = (tree / _STAMP).read_text(encoding="ascii").split()
    except OSError:
        return False
    return stamp == [pin.sdist_sha256, _listing_digest(tree)]


def _listing_digest(tree: Path) -> str:
    """A hash over names and sizes: cheap to check at every build, and any lost or cut file changes it."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(tree):
        folders.sort()
        for name in sorted(names):
            if name != _STAMP:
                path = os.path.join(folder, name)
                digest.update(f"{os.path.relpath(path, tree)}\0{os.path.getsize(path)}\0".encode())
    return digest.hexdigest()


def _git_commit(path: Path) -> str | None:
    """The commit of a git checkout, None when `path` is not the top of one."""
    if not (path / ".git").exists():
        return None
    command = ["git", "-C", str(path), "rev-parse", "--short=9", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _same_commit(one: str, other: str) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]
