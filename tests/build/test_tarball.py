"""Archives depend on what is packed and on nothing else."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from build_support.errors import BuildError
from build_support.source import sha256_of
from build_support.tarball import source_date, write_sidecar, write_tarball

DATE = 1_600_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "one" / "set-1.0"
    (top / "lib").mkdir(parents=True)
    (top / "lib" / "b.so").write_bytes(os.urandom(5000))
    (top / "lib" / "a.so").write_bytes(b"a")
    (top / "lib.txt").write_text("text")
    (top / "lib" / "b.so").chmod(0o777)
    (top / "lib.txt").chmod(0o600)
    return top


def test_the_same_files_give_the_same_bytes(folder: Path, tmp_path: Path):
    write_tarball(folder, tmp_path / "first.tar.gz", DATE)
    copy = shutil.copytree(folder, tmp_path / "a" / "much longer path" / folder.name, copy_function=shutil.copyfile)
    (copy / "lib" / "b.so").chmod(0o700)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    write_tarball(copy, tmp_path / "second.tar.gz", DATE)
    assert (tmp_path / "first.tar.gz").read_bytes() == (tmp_path / "second.tar.gz").read_bytes()
    write_tarball(folder, tmp_path / "later.tar.gz", DATE + 1)
    assert sha256_of(tmp_path / "later.tar.gz") != sha256_of(tmp_path / "first.tar.gz")


def test_members_are_sorted_plain_and_nobodys(folder: Path, tmp_path: Path):
    archive = tmp_path / "set.tar.gz"
    write_tarball(folder, archive, DATE)
    header = archive.read_bytes()[:10]
    assert header[3] == 0, "a name or a comment"
    assert header[4:8] == bytes(4), "a time"
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == ["set-1.0", "set-1.0/lib", "set-1.0/lib/a.so", "set-1.0/lib/b.so", "set-1.0/lib.txt"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", DATE)}
    assert [oct(member.mode) for member in members] == ["0o755", "0o755", "0o644", "0o755", "0o644"]


def test_a_link_is_refused(folder: Path, tmp_path: Path):
    (folder / "link").symlink_to("lib.txt")
    with pytest.raises(BuildError, match="neither a plain file nor a folder"):
        write_tarball(folder, tmp_path / "set.tar.gz", DATE)


def test_an_archive_is_never_written_over(folder: Path, tmp_path: Path):
    (tmp_path / "set.tar.gz").write_text("mine")
    with pytest.raises(FileExistsError):
        write_tarball(folder, tmp_path / "set.tar.gz", DATE)
    assert (tmp_path / "set.tar.gz").read_text() == "mine"


def test_the_sidecar_is_the_bare_hash(folder: Path):
    digest = write_sidecar(folder / "lib.txt")
    assert (folder / "lib.txt.sha256").read_bytes() == digest.encode()
    assert digest == sha256_of(folder / "lib.txt")


def test_the_date_is_given_or_that_of_the_commit(checkout, tmp_path: Path):
    made = checkout("repository")
    assert source_date(made.root, {}) == int(made.git("log", "-1", "--format=%ct"))
    assert source_date(made.root, {"SOURCE_DATE_EPOCH": "12"}) == 12
    with pytest.raises(BuildError, match="no number"):
        source_date(made.root, {"SOURCE_DATE_EPOCH": "yesterday"})
    with pytest.raises(BuildError, match="SOURCE_DATE_EPOCH"):
        source_date(tmp_path, {})
