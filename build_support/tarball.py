"""A folder to a `.tar.gz` that is the same, byte for byte, whoever packs the same files wherever."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from build_support.errors import BuildError
from build_support.source import sha256_of

ENV_EPOCH = "SOURCE_DATE_EPOCH"
_LEVEL = 9


def source_date(root: Path, environ: Mapping[str, str] = os.environ) -> int:
    """The time that packed files get: `SOURCE_DATE_EPOCH`, else that of the commit of the checkout.

    Raises:
        BuildError: The variable is no number, or there is neither it nor a commit.
    """
    given = environ.get(ENV_EPOCH)
    if given:
        if not given.isdigit():
            raise BuildError(f"{ENV_EPOCH}={given!r} is no number", "give seconds since 1970, or unset it")
        return int(given)
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise BuildError(
            f"{root} is no git checkout, so there is no date for packed files",
            f"set {ENV_EPOCH} to the seconds since 1970 that they are to carry",
        ) from None


def write_tarball(folder: Path, target: Path, date: int) -> None:
    """Packs a folder; its name is the one top folder of the archive.

    Args:
        folder: Plain files and folders. Which files can be executed is kept, no other part of their modes.
        target: The archive, which must not exist.
        date: Time of every member, in seconds since 1970.
    """
    paths = sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts)
    with (
        open(target, "xb") as file,
        # no name and no time in the header
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_LEVEL, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in [folder, *paths]:
            _add(tar, path, path.relative_to(folder.parent).as_posix(), date)


def _add(tar: tarfile.TarFile, path: Path, name: str, date: int) -> None:
    member = tarfile.TarInfo(name)
    member.mtime = date
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        raise BuildError(f"{path} is neither a plain file nor a folder", "pack a folder of files")
    if path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
        return
    member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    member.size = path.stat().st_size
    with open(path, "rb") as content:
        tar.addfile(member, content)


def write_sidecar(archive: Path) -> str:
    """Writes `<archive>.sha256`, the bare hash without a newline, and returns the hash."""
    digest = sha256_of(archive)
    archive.with_name(f"{archive.name}.sha256").write_text(digest, encoding="ascii")
    return digest
