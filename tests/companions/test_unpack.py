"""Archives that are not what they should be: each is refused with its reason, and nothing of it stays."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacore import companions
from llamacore.errors import CompanionError, DamagedSetError

from .making import BASE, Entry, archive_of, entries_of, entry, left_in, pack, sha256_of, small_set, write_facts

TOP = f"{BASE}-cuda"
Change = Callable[[list[Entry]], list[Entry]]


def replaced(name: str, made: Entry) -> Change:
    """A change that puts something else in the place of a member."""
    return lambda entries: [made if item[0].name == f"{TOP}/{name}" else item for item in entries]


def added(*made: Entry) -> Change:
    """A change that puts something behind all members."""
    return lambda entries: [*entries, *made]


def first(made: Entry) -> Change:
    """A change that puts something before all members."""
    return lambda entries: [made, *entries]


LIBRARY = "lib/libggml-cuda.so"
HOSTILE: dict[str, tuple[Change, str]] = {
    "absolute": (added(entry("/tmp/escaped", b"x")), "unsafe name"),
    "parent": (added(entry(f"{TOP}/../escaped", b"x")), "unsafe name"),
    "parent of all": (first(entry("../escaped", b"x")), "unsafe name"),
    "backslash": (added(entry(f"{TOP}\\..\\escaped", b"x")), "unsafe name"),
    "drive": (added(entry("c:escaped", b"x")), "unsafe name"),
    "dot": (added(entry(f"./{TOP}/escaped", b"x")), "unsafe name"),
    "symbolic link": (added(entry(f"{TOP}/lib/x", type=tarfile.SYMTYPE, linkname="/etc/passwd")), "is a link"),
    "link instead of a file": (
        replaced(LIBRARY, entry(f"{TOP}/{LIBRARY}", type=tarfile.SYMTYPE, linkname="../../../../escaped")),
        "is a link",
    ),
    "link instead of a folder": (
        replaced("lib", entry(f"{TOP}/lib", type=tarfile.SYMTYPE, linkname="/tmp")),
        "is a link",
    ),
    "hard link": (
        added(entry(f"{TOP}/lib/x", type=tarfile.LNKTYPE, linkname=f"{TOP}/companion.json")),
        "is a link",
    ),
    "character device": (added(entry(f"{TOP}/x", type=tarfile.CHRTYPE, devmajor=1, devminor=3)), "neither"),
    "block device": (added(entry(f"{TOP}/x", type=tarfile.BLKTYPE, devmajor=8)), "neither"),
    "fifo": (added(entry(f"{TOP}/x", type=tarfile.FIFOTYPE)), "neither"),
    "contiguous": (
        replaced(LIBRARY, entry(f"{TOP}/{LIBRARY}", b"no library at all", type=tarfile.CONTTYPE)),
        "neither",
    ),
    "unknown type": (added(entry(f"{TOP}/x", type=b"Z")), "neither"),
    "setuid": (replaced(LIBRARY, entry(f"{TOP}/{LIBRARY}", b"no library at all", mode=0o4755)), "setuid"),
    "sticky folder": (replaced("lib", entry(f"{TOP}/lib", None, mode=0o1777)), "setuid"),
    "twice": (added(entry(f"{TOP}/{LIBRARY}", b"no library at all")), "twice"),
    "described twice": (added(entry(f"{TOP}/companion.json", b"{}")), "twice"),
    "case": (added(entry(f"{TOP}/LIB/libggml-cuda.so", b"x")), "does not list"),
    "additional file": (added(entry(f"{TOP}/lib/more.so", b"x")), "does not list"),
    "additional folder": (added(entry(f"{TOP}/more", None)), "does not list"),
    "second top": (added(entry("other/x", b"x")), "second top folder"),
    "file beside the top": (added(entry("x", b"x")), "second top folder"),
    "another top": (
        lambda entries: [
            entry(made.name.replace(TOP, "other"), None if made.isdir() else raw) for made, raw in entries
        ],
        "its folder is 'other'",
    ),
    "no description": (lambda entries: [item for item in entries if "json" not in item[0].name], "starts with"),
    "description last": (lambda entries: [*entries[2:], entries[1]], "starts with"),
    "nothing": (lambda entries: [], "no sound|empty"),
    "only a folder": (lambda entries: entries[:1], "empty"),
    "file is missing": (lambda entries: [item for item in entries if item[0].name != f"{TOP}/{LIBRARY}"], "lacks"),
    "file is a folder": (replaced(LIBRARY, entry(f"{TOP}/{LIBRARY}", None)), "does not list"),
    "file of another size": (replaced(LIBRARY, entry(f"{TOP}/{LIBRARY}", b"no library")), "has 10 bytes"),
    "flipped byte": (replaced(LIBRARY, entry(f"{TOP}/{LIBRARY}", b"no library at alm")), "SHA-256 differs"),
    "description is no file": (replaced("companion.json", entry(f"{TOP}/companion.json", None)), "starts with"),
    "description is no JSON": (replaced("companion.json", entry(f"{TOP}/companion.json", b"{")), "no JSON"),
    "huge description": (
        replaced("companion.json", entry(f"{TOP}/companion.json", bytes(9 << 20))),
        "larger|more than",
    ),
    "folder twice": (added(entry(f"{TOP}/lib", None)), "twice"),
    "thousands of folders": (added(*[entry(f"{TOP}/lib/{n}", None) for n in range(20_000)]), "does not list"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path, data: Path):
    """Whatever the hash of the archive says: its sidecar is right."""
    change, reason = HOSTILE[name]
    archive = archive_of(small_set(tmp_path), tmp_path / "packed", change)
    before = outside(data)
    with pytest.raises(DamagedSetError, match=reason):
        companions.install(archive)
    assert [] == left_in(data)
    assert [] == [path for path in data.rglob("*") if path.name.startswith(".")]
    assert before == outside(data)
    assert not Path("/tmp/escaped").exists()


def outside(data: Path) -> dict[Path, int]:
    """Every file around the data folder with its time."""
    paths = [path for path in data.parent.rglob("*") if data not in (path, *path.parents)]
    return {path: path.lstat().st_mtime_ns for path in paths}


def test_a_bomb_ends_early(tmp_path: Path, data: Path):
    """A quarter of a gigabyte of zeros that nobody lists, in a header or in a file, is not unpacked."""
    folder = small_set(tmp_path)
    for make in (
        lambda tar: tar.addfile(entry(f"{TOP}/lib/zeros", size=256 << 20)[0], _Zeros()),
        lambda tar: tar.addfile(entry("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=256 << 20)[0], _Zeros()),
        lambda tar: tar.addfile(entry("header", type=tarfile.XHDTYPE, size=256 << 20)[0], _Zeros()),
    ):
        archive = tmp_path / "bomb.tar.gz"
        with gzip.open(archive, "wb", compresslevel=1) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
            for member, content in entries_of(folder):
                tar.addfile(member, io.BytesIO(content))
            make(tar)
        assert archive.stat().st_size < 16 << 20
        with pytest.raises(DamagedSetError, match=r"does not list|header of|more than it says"):
            companions.install(archive, sha256=sha256_of(archive))
        assert [] == left_in(data)


class _Zeros(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def test_a_bomb_behind_the_end_ends_early(tmp_path: Path, data: Path):
    """Nor are zeros behind the last member read without end."""
    archive = archive_of(small_set(tmp_path), tmp_path / "packed")
    with open(archive, "ab") as file:
        file.write(gzip.compress(bytes(64 << 20), compresslevel=1))
    with pytest.raises(DamagedSetError, match="more than it says"):
        companions.install(archive, sha256=sha256_of(archive))
    assert [] == left_in(data)


NO_ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "no gzip": lambda raw: b"this is a web page",
    "no tar": lambda raw: gzip.compress(b"this is a web page" * 100),
    "gzip of nothing": lambda raw: gzip.compress(b""),
    "plain tar": gzip.decompress,
    "cut": lambda raw: raw[: len(raw) // 2],
    "cut at the end": lambda raw: raw[:-5],
    "cut inside": lambda raw: gzip.compress(gzip.decompress(raw)[:1500]),
    "wrong checksum": lambda raw: raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:],
    "something behind": lambda raw: raw + gzip.compress(b"something else"),
    "garbage behind": lambda raw: raw + b"something else",
    "damaged header": lambda raw: gzip.compress(gzip.decompress(raw).replace(b"/lib/libggml", b"/lib/libgg-l", 1)),
}


@pytest.mark.parametrize("name", NO_ARCHIVES)
def test_what_is_no_sound_archive_is_refused(name: str, tmp_path: Path, data: Path):
    archive = archive_of(small_set(tmp_path), tmp_path / "packed")
    archive.write_bytes(NO_ARCHIVES[name](archive.read_bytes()))
    with pytest.raises(DamagedSetError):
        companions.install(archive, sha256=sha256_of(archive))
    assert [] == left_in(data)


def test_every_flipped_byte_is_refused(tmp_path: Path, data: Path):
    """Whatever byte of an archive is another one, what is installed is what its maker packed, or nothing."""
    folder = small_set(tmp_path)
    archive = archive_of(folder, tmp_path / "packed")
    sound = archive.read_bytes()
    refused = 0
    for position in range(0, len(sound), 7):
        archive.write_bytes(sound[:position] + bytes([sound[position] ^ 0x10]) + sound[position + 1 :])
        try:
            (found,) = companions.install(archive, sha256=sha256_of(archive), use=False)
        except CompanionError:
            refused += 1
        else:  # a byte that says nothing, as the time in a header
            assert companions.verify(found.id)[0].ok
            companions.remove(found.id)
        assert [] == left_in(data)
    assert refused > len(sound) / 7 / 2


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read(format: int, tmp_path: Path, data: Path):  # noqa: A002
    folder = small_set(tmp_path, {"lib/libggml-cuda.so": b"x", f"licenses/{'long-name-' * 9}txt": b"y"})
    archive = tmp_path / "a.tar.gz"
    entries = entries_of(folder)
    for number, (member, _) in enumerate(entries):
        member.mtime = 1_700_000_000.5 if format == tarfile.PAX_FORMAT else 1_700_000_000
        member.uname, member.gname, member.uid = "somebody", "some group", 1000 + number
    digest = pack(archive, entries, format)
    (found,) = companions.install(archive, sha256=digest, use=False)
    assert companions.verify(found.id)[0].ok
    assert 3 == len(left_in(data))


def test_what_can_be_executed_stays_so(tmp_path: Path):
    folder = small_set(tmp_path)
    (folder / LIBRARY).chmod(0o755)
    (folder / "licenses" / "LICENSE").chmod(0o600)
    archive = tmp_path / "a.tar.gz"
    members = entries_of(folder)
    for member, _ in members:
        member.mode = 0o755 if member.isdir() or "lib/" in member.name else 0o600
    digest = pack(archive, members)
    for source, sha in ((archive, digest), (folder, None)):
        (found,) = companions.install(source, sha256=sha, use=False)
        assert os.access(found.path / LIBRARY, os.X_OK)
        assert not os.access(found.path / "licenses" / "LICENSE", os.X_OK)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (lambda folder: (folder / "companion.json").unlink(), "no companion set"),
    "description is a folder": (
        lambda folder: ((folder / "companion.json").unlink(), (folder / "companion.json").mkdir()),
        "no companion set",
    ),
    "additional file": (lambda folder: (folder / "lib" / "more.so").write_bytes(b""), "does not list"),
    "missing file": (lambda folder: (folder / LIBRARY).unlink(), "lacks"),
    "flipped byte": (lambda folder: (folder / LIBRARY).write_bytes(b"no library at alm"), "SHA-256"),
    "longer file": (lambda folder: (folder / LIBRARY).write_bytes(b"no library at all!"), "SHA-256"),
    "link": (
        lambda folder: ((folder / LIBRARY).unlink(), (folder / LIBRARY).symlink_to("/etc/passwd")),
        "is a link",
    ),
    "linked folder": (lambda folder: (folder / "more").symlink_to("/etc"), "is a link"),
    "fifo": (lambda folder: os.mkfifo(folder / "fifo"), "no plain file"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_checked_as_well(name: str, tmp_path: Path, data: Path):
    change, reason = FOLDERS[name]
    folder = small_set(tmp_path)
    change(folder)
    with pytest.raises(DamagedSetError, match=reason):
        companions.install(folder)
    assert [] == left_in(data)


def test_a_set_that_has_no_room_is_refused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    folder = small_set(tmp_path)
    facts = {"lib/libggml-cuda.so": {"sha256": "0" * 64, "size": 3 << 30}}
    write_facts(folder, files=facts)
    archive = archive_of(folder, tmp_path / "packed")
    import shutil

    if shutil.disk_usage(tmp_path).free > 3 << 30:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(usage.total, usage.used, 1 << 20))
    with pytest.raises(CompanionError, match="free some space"):
        companions.install(archive)
    assert [] == left_in(data)
