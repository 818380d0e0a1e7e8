"""Unpacking part of a tar file that is not trusted."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from build_support.errors import BuildError


def extract_subtree(archive: Path, subtree: str, target: Path) -> None:
    """Unpacks the regular files and folders under `subtree` of a tar file into the new folder `target`.

    Nothing but plain files is ever written, with plain permissions, and never outside `target`.

    Args:
        archive: A tar file, compressed or not.
        subtree: Folder inside the archive, with `/`; it becomes `target`.
        target: A folder that does not exist yet.

    Raises:
        BuildError: The archive is damaged, holds nothing under `subtree`, or holds there a link, a device, or a path
            that leaves the folder.
    """
    root = PurePosixPath(subtree).parts
    count = 0
    target.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if parts[: len(root)] != root:
                    continue
                _check_member(archive, member, parts)
                destination = target.joinpath(*parts[len(root) :])
                if member.isdir():
                    destination.mkdir(parents=True, exist_ok=True)
                    continue
                content = tar.extractfile(member)
                assert content is not None  # a regular file, checked above
                destination.parent.mkdir(parents=True, exist_ok=True)
                with content, open(destination, "xb") as file:
                    shutil.copyfileobj(content, file)
                if member.mode & 0o100:
                    destination.chmod(0o755)
                count += 1
    except (tarfile.TarError, EOFError) as error:
        raise BuildError(f"{archive} is damaged: {error}", "delete it and run the command again") from error
    if not count:
        raise BuildError(f"{archive} holds nothing under {subtree}", "delete it and run the command again")


def _check_member(archive: Path, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
    unsafe = None
    if not (member.isfile() or member.isdir()):
        unsafe = "is no plain file"
    elif member.name.startswith("/") or ".." in parts or any("\\" in part or ":" in part for part in parts):
        unsafe = "leaves the folder"
    if unsafe:
        raise BuildError(
            f"{archive}: the member {member.name!r} {unsafe}; nothing of the archive is used",
            "delete the archive and find out where it came from",
        )
