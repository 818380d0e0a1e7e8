"""Fetching: what servers do to downloads, and that nothing unverified is ever used."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from llamacore import __version__, companions
from llamacore.companions import download
from llamacore.errors import CompanionError, DamagedSetError, DownloadError, InvalidArgumentError

from .making import COMMIT, archive_of, left_in, manifest, small_set
from .server import Files

NAME = "/cuda.tar.gz"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once."""
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def archive(tmp_path: Path, files: Files) -> Path:
    """An add-on of 400 kB that does not compress, served as `NAME` with its sidecar."""
    folder = small_set(tmp_path, {"lib/libggml-cuda.so": random.Random(1).randbytes(400_000)})
    made = archive_of(folder, tmp_path / "packed")
    files.content[NAME] = made.read_bytes()
    files.content[f"{NAME}.sha256"] = made.with_name(f"{made.name}.sha256").read_bytes()
    return made


def fetch(files: Files, **options) -> companions.InstalledSet:
    (found,) = companions.install(files.url + NAME, **{"use": False, "timeout": 5.0, **options})
    return found


def kept(data: Path) -> list[str]:
    """Endings of what is kept to go on with; everything else fails the test."""
    left = left_in(data)
    assert all(path.startswith(f"libs/{COMMIT}/downloads/") for path in left), left
    return sorted(path.rpartition(".")[2] for path in left)


def test_an_archive_is_fetched(files: Files, archive: Path, data: Path):
    """In one request beside that for its hash; who asks says so; progress ends with all of it."""
    seen: list[tuple[str, int, int]] = []
    found = fetch(files, progress=lambda *args: seen.append(args))
    assert [] == [path for path in left_in(data) if "/downloads/" in path]
    assert companions.verify(found.id)[0].ok
    assert [f"{NAME}.sha256", NAME] == [path for path, _ in files.requests]
    assert {f"llamacore/{__version__}"} == {headers["user-agent"] for _, headers in files.requests}
    size = len(files.content[NAME])
    assert ("cuda.tar.gz", size, size) == seen[-1]
    assert sorted(seen) == seen


def test_what_is_there_is_not_fetched_again(files: Files, archive: Path):
    first = fetch(files)
    assert first == fetch(files)
    assert 1 == len(files.asked_for(NAME))
    library = first.path / "lib/libggml-cuda.so"
    library.write_bytes(library.read_bytes()[:-1] + b"\0")
    assert companions.verify(fetch(files).id)[0].ok, "a damaged set is replaced"
    assert 2 == len(files.asked_for(NAME))


def test_a_lost_connection_is_taken_up_again(files: Files, archive: Path):
    files.cuts[NAME] = [100_000, 150_000]
    assert companions.verify(fetch(files).id)[0].ok
    assert ["", "bytes=100000-", "bytes=250000-"] == files.asked_for(NAME)


@pytest.mark.parametrize("tags", [True, False])
def test_another_call_goes_on_where_one_stopped(files: Files, archive: Path, data: Path, tags: bool):
    files.tags = tags
    files.cuts[NAME] = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError, match="goes on where it stopped"):
        fetch(files)
    assert ["json", "part"] == kept(data)
    files.requests.clear()
    assert companions.verify(fetch(files).id)[0].ok
    assert ["bytes=100000-"] == files.asked_for(NAME)


def test_a_server_without_ranges_starts_anew(files: Files, archive: Path):
    files.ranges = False
    files.cuts[NAME] = [100_000]
    assert companions.verify(fetch(files).id)[0].ok
    assert 2 == len(files.asked_for(NAME))


def test_a_part_of_what_is_another_file_now_is_not_used(files: Files, archive: Path, tmp_path: Path):
    """Whether the server compares tags (a whole new answer) or only has another length."""
    files.cuts[NAME] = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(files)
    other = archive_of(small_set(tmp_path / "other", {"lib/libggml-cuda.so": os.urandom(300_000)}), tmp_path / "p2")
    files.content[NAME] = other.read_bytes()
    files.content[f"{NAME}.sha256"] = other.with_name(f"{other.name}.sha256").read_bytes()
    assert companions.verify(fetch(files).id)[0].ok


def test_a_part_of_another_file_of_the_same_size_shows_in_the_hash(files: Files, archive: Path, tmp_path: Path):
    """A server without tags cannot tell; then it is fetched anew, once."""
    files.tags = False
    files.cuts[NAME] = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(files)
    other = bytearray(files.content[NAME])
    (part,) = (Path(os.environ["LLAMACORE_DATA_DIR"]) / "libs" / COMMIT / "downloads").glob("*.part")
    part.write_bytes(bytes(len(part.read_bytes())))
    assert bytes(other) == files.content[NAME]
    files.requests.clear()
    assert companions.verify(fetch(files).id)[0].ok
    assert ["bytes=100000-", ""] == files.asked_for(NAME)


def test_a_part_that_was_complete_is_taken(files: Files, archive: Path):
    """As when it was interrupted between the last byte and the hash."""
    files.cuts[NAME] = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(files)
    (part,) = (Path(os.environ["LLAMACORE_DATA_DIR"]) / "libs" / COMMIT / "downloads").glob("*.part")
    part.write_bytes(files.content[NAME])
    files.requests.clear()
    assert companions.verify(fetch(files).id)[0].ok
    assert [] == files.asked_for(NAME)


def test_a_part_that_is_longer_than_the_file_starts_anew(files: Files, archive: Path):
    files.cuts[NAME] = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(files)
    (part,) = (Path(os.environ["LLAMACORE_DATA_DIR"]) / "libs" / COMMIT / "downloads").glob("*.part")
    part.write_bytes(files.content[NAME] + b"more")
    assert companions.verify(fetch(files).id)[0].ok


def test_old_parts_are_swept(files: Files, archive: Path, data: Path):
    downloads = data / "libs" / COMMIT / "downloads"
    downloads.mkdir(parents=True)
    for name, age in (("old.part", 8 * 86400), ("new.part", 6 * 86400)):
        (downloads / name).write_bytes(b"x")
        os.utime(downloads / name, (time.time() - age,) * 2)
    fetch(files)
    assert ["new.part"] == [path.name for path in downloads.iterdir()]


def test_a_truncated_file_is_refused(files: Files, archive: Path, data: Path):
    """A whole answer of half a file: nothing stays."""
    files.content[NAME] = files.content[NAME][:200_000]
    with pytest.raises(DamagedSetError, match="SHA-256"):
        fetch(files)
    assert [] == left_in(data)


def test_a_flipped_byte_is_refused_before_anything_is_unpacked(files: Files, archive: Path, data: Path):
    content = bytearray(files.content[NAME])
    content[len(content) // 2] ^= 1
    files.content[NAME] = bytes(content)
    with pytest.raises(DamagedSetError, match=r"has the SHA-256 [0-9a-f]{64}, it has to be"):
        fetch(files)
    assert [] == left_in(data)


def test_a_length_that_nobody_tells(files: Files, archive: Path, data: Path):
    """Then a lost connection is a wrong hash."""
    files.lengths = files.ranges = False
    assert companions.verify(fetch(files).id)[0].ok
    companions.remove("cuda")
    files.cuts[NAME] = [100_000]
    with pytest.raises(DamagedSetError, match="SHA-256"):
        fetch(files)
    assert [] == left_in(data)


def test_the_size_of_the_release_is_the_limit(files: Files, archive: Path, data: Path, base_archive: Path, tmp_path):
    """More than that is not even fetched, with a length or without one."""
    import shutil

    (tmp_path / "release").mkdir()
    for path in (base_archive, archive):
        shutil.copy(path, tmp_path / "release")
    made = manifest(tmp_path / "release" / base_archive.name, tmp_path / "release" / archive.name)
    files.add(made.parent)
    files.content[f"/{archive.name}"] += bytes(1_000_000)
    for lengths, error in ((True, "more than the|the release says"), (False, "larger than it may be")):
        files.lengths = lengths
        with pytest.raises(CompanionError, match=error):
            companions.install(f"{files.url}/{made.name}", backends=["cuda"])
        assert [] == left_in(data)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_the_server_does_not_give_is_not_asked_for_again(files: Files, archive: Path, data: Path, status: int):
    files.statuses[NAME] = [status] * 9
    with pytest.raises(DownloadError, match=str(status)):
        fetch(files)
    assert 1 == len(files.asked_for(NAME))
    assert [] == left_in(data)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_go_away_is_waited_for(files: Files, archive: Path, status: int):
    files.statuses[NAME] = [status] * 3
    files.statuses[f"{NAME}.sha256"] = [status]
    assert companions.verify(fetch(files).id)[0].ok
    assert 4 == len(files.asked_for(NAME))


def test_a_server_that_stays_broken_is_given_up(files: Files, archive: Path):
    files.statuses[NAME] = [503] * 9
    with pytest.raises(DownloadError, match="503"):
        fetch(files)
    assert 4 == len(files.asked_for(NAME))


def test_nobody_there():
    with pytest.raises(DownloadError, match="could not be fetched"):
        companions.install("http://127.0.0.1:9/a.tar.gz", sha256="0" * 64)


def test_a_silent_server_is_given_up(files: Files, archive: Path, data: Path):
    files.stall_after[NAME] = 100_000
    started = time.monotonic()
    with pytest.raises(DownloadError, match="timed out"):
        fetch(files, timeout=0.3)
    assert time.monotonic() - started < 20
    assert ["json", "part"] == kept(data)
    files.stall_after.clear()
    assert companions.verify(fetch(files).id)[0].ok


def test_redirects_are_followed(files: Files, archive: Path):
    files.redirects["/latest.tar.gz"] = NAME
    (found,) = companions.install(
        f"{files.url}/latest.tar.gz", sha256=files.content[f"{NAME}.sha256"].decode(), use=False
    )
    assert companions.verify(found.id)[0].ok


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_a_redirect_leads_nowhere_else(files: Files, archive: Path, data: Path, to: str):
    files.redirects[NAME] = to
    with pytest.raises(DownloadError):
        fetch(files)
    assert [] == left_in(data)


def test_a_redirect_never_leaves_https():
    import io
    import urllib.request
    from email.message import Message

    request = urllib.request.Request("https://example.org/a.tar.gz")
    redirects = download._Redirects()
    for to, fine in (("https://example.com/b", True), ("http://example.org/a.tar.gz", False), ("HTTP://x/y", False)):
        if fine:
            followed = redirects.redirect_request(request, io.BytesIO(), 302, "Found", Message(), to)
            assert followed is not None
            assert to == followed.full_url
        else:
            with pytest.raises(DownloadError, match="leads from https"):
                redirects.redirect_request(request, io.BytesIO(), 302, "Found", Message(), to)


def test_a_redirect_without_end_is_given_up(files: Files, archive: Path):
    files.redirects[NAME] = NAME
    with pytest.raises(DownloadError):
        fetch(files)


def test_progress_can_cancel(files: Files, archive: Path, data: Path):
    """What has come is kept, as for every interruption."""
    with pytest.raises(CompanionError, match="cancelled"):
        fetch(files, progress=lambda name, here, total: here < 150_000)
    assert ["json", "part"] == kept(data)
    files.requests.clear()
    assert companions.verify(fetch(files).id)[0].ok
    assert files.asked_for(NAME)[0].startswith("bytes=")


def test_an_archive_without_a_hash_is_refused(files: Files, archive: Path, data: Path):
    del files.content[f"{NAME}.sha256"]
    with pytest.raises(DamagedSetError, match=r"nothing says what .* has to be"):
        fetch(files)
    assert [] == files.asked_for(NAME)
    assert [] == left_in(data)
    assert companions.verify(fetch(files, allow_unverified=True).id)[0].ok


@pytest.mark.parametrize("content", [b"", b"no hash", b"0" * 63, b"\xff" * 64, b"0" * 5000])
def test_a_sidecar_without_a_hash_is_refused(files: Files, archive: Path, data: Path, content: bytes):
    """Even where unverified archives are allowed: somebody meant to say something."""
    files.content[f"{NAME}.sha256"] = content
    with pytest.raises(CompanionError):
        fetch(files, allow_unverified=True)
    assert [] == left_in(data)


def test_a_hash_in_capitals_with_a_name_is_read(files: Files, archive: Path):
    sidecar = files.content[f"{NAME}.sha256"]
    files.content[f"{NAME}.sha256"] = sidecar.upper() + b"  cuda.tar.gz\n"
    assert companions.verify(fetch(files).id)[0].ok
    companions.remove("cuda")
    files.content[f"{NAME}.sha256"] = b"0" * 64
    assert companions.verify(fetch(files, sha256=sidecar.decode().upper()).id)[0].ok, "a hash that is given wins"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "ftp://x/a.tar.gz",
        "https:///a.tar.gz",
        "file://elsewhere/a.tar.gz",
        "http://x/a.zip",
        "no-such.tar.gz",
        "x#y",
    ],
)
def test_what_is_no_source(source: str, data: Path):
    with pytest.raises(InvalidArgumentError):
        companions.install(source)
    assert not data.exists()
