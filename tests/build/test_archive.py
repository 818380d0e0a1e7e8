"""Unpacking archives that are not trusted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from build_support.archive import extract_subtree
from build_support.errors import BuildError


def make_archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            content = b"x" * 100
            member.size = len(content) if member.isfile() else 0
            tar.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def test_only_the_subtree_is_unpacked(tmp_path: Path):
    archive = make_archive(
        tmp_path / "a.tar.gz",
        member("top/sub/tree/dir", tarfile.DIRTYPE),
        member("top/sub/tree/dir/file"),
        member("top/sub/tree/script.sh", mode=0o4755),
        member("top/sub/treeless"),
        member("top/other"),
    )
    extract_subtree(archive, "top/sub/tree", tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")) == [
        "dir",
        "dir/file",
        "script.sh",
    ]
    assert (tmp_path / "out" / "dir" / "file").stat().st_mode & 0o7111 == 0
    assert (tmp_path / "out" / "script.sh").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "bad",
    [
        member("top/../../escape"),
        member("top/a/../../../escape"),
        member("top/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("top/link", tarfile.SYMTYPE, "inside"),
        member("top/hard", tarfile.LNKTYPE, "top/file"),
        member("top/fifo", tarfile.FIFOTYPE),
        member("top/device", tarfile.CHRTYPE),
        member("top/C:\\escape"),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_unsafe_members_are_refused(tmp_path: Path, bad: tarfile.TarInfo):
    (tmp_path / "in").mkdir()
    archive = make_archive(tmp_path / "in" / "a.tar.gz", bad)
    with pytest.raises(BuildError, match="nothing of the archive is used"):
        extract_subtree(archive, "top", tmp_path / "in" / "out")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]
    assert written == []


def test_an_absolute_member_is_never_part_of_the_subtree(tmp_path: Path):
    archive = make_archive(
        tmp_path / "a.tar.gz", member(f"/{tmp_path.as_posix().strip('/')}/escape"), member("top/file")
    )
    extract_subtree(archive, "top", tmp_path / "out")
    assert not (tmp_path / "escape").exists()


def test_an_archive_without_the_subtree_is_refused(tmp_path: Path):
    archive = make_archive(tmp_path / "a.tar.gz", member("other/file"))
    with pytest.raises(BuildError, match="holds nothing under top"):
        extract_subtree(archive, "top", tmp_path / "out")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_cut_archive_is_refused(tmp_path: Path, keep: float):
    import random

    content = random.Random(1).randbytes(200_000)
    info = member("top/file")
    info.size = len(content)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        tar.addfile(info, io.BytesIO(content))
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(whole.getvalue()[: int(len(whole.getvalue()) * keep)])
    with pytest.raises(BuildError, match="is damaged"):
        extract_subtree(archive, "top", tmp_path / "out")


def test_a_damaged_archive_is_refused(tmp_path: Path):
    archive = make_archive(tmp_path / "a.tar.gz", member("top/file"))
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(BuildError, match="is damaged"):
        extract_subtree(archive, "top", tmp_path / "out")
