"""Getting the pinned source: download, hash, cache, recovery; and checkouts of the user's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from build_support.cache import cache_dir
from build_support.errors import BuildError
from build_support.pin import Pin
from build_support.process import Console
from build_support.source import local_source, needs_download, pinned_source, tree_version

Said = Callable[[], str]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cached(sdist: Pin, local_index: Path, cache: Path, console: Console) -> Path:
    """The tree of a source that was fetched; the index it came from is gone."""
    tree = pinned_source(sdist, console, cache).path
    shutil.rmtree(local_index)
    return tree


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name.startswith(("unpack-", "download-"))]


def test_it_is_downloaded_verified_and_unpacked(
    sdist: Pin, local_index: Path, cache: Path, console: Console, said: Said
):
    assert needs_download(sdist, cache)
    source = pinned_source(sdist, console, cache)
    assert (source.version, source.commit) == ("9.8.7", "abcdef123")
    assert (source.path / "src" / "a.cpp").read_text() == "int a;\n"
    assert not (source.path / "elsewhere.txt").exists()
    assert not needs_download(sdist, cache)
    assert leftovers(cache) == []
    assert "downloading tiny-source 1.2" in said()


def test_it_is_usable_offline_afterwards(sdist: Pin, cached: Path, cache: Path, console: Console, said: Said):
    before = said()
    assert pinned_source(sdist, console, cache).path == cached
    assert said() == before


@pytest.mark.parametrize("damage", ["missing file", "cut file", "missing stamp", "extra file"])
def test_a_damaged_tree_is_unpacked_again(sdist: Pin, cached: Path, cache: Path, console: Console, damage: str):
    if damage == "missing file":
        (cached / "src" / "a.cpp").unlink()
    elif damage == "cut file":
        (cached / "src" / "a.cpp").write_text("int")
    elif damage == "missing stamp":
        (cached / ".llamacore-complete").unlink()
    else:
        (cached / "src" / "more.cpp").write_text("int b;")
    pinned_source(sdist, console, cache)
    assert (cached / "src" / "a.cpp").read_text() == "int a;\n"
    assert not (cached / "src" / "more.cpp").exists()


def test_a_damaged_archive_is_downloaded_again(
    sdist: Pin, local_index: Path, cache: Path, console: Console, said: Said
):
    tree = pinned_source(sdist, console, cache).path
    shutil.rmtree(tree)
    archive = cache / "tiny_source-1.2.tar.gz"
    archive.write_bytes(archive.read_bytes()[:100])
    pinned_source(sdist, console, cache)
    assert "is damaged; downloading it again" in said()
    assert (tree / "src" / "a.cpp").exists()


def test_what_a_killed_run_left_is_removed(sdist: Pin, local_index: Path, cache: Path, console: Console):
    for name in ("unpack-dead", "download-dead"):
        (cache / name).mkdir(parents=True)
    pinned_source(sdist, console, cache)
    assert leftovers(cache) == []


def test_a_wrong_hash_is_refused_before_anything_is_used(sdist: Pin, local_index: Path, cache: Path, console: Console):
    wrong = replace(sdist, sdist_sha256="0" * 64)
    with pytest.raises(BuildError, match="another hash than the pin") as caught:
        pinned_source(wrong, console, cache)
    assert sdist.sdist_sha256 in caught.value.cause
    assert "--source DIR" in caught.value.next_step
    assert not [path for path in cache.iterdir() if path.name.startswith(("llama.cpp", "tiny"))]


def test_no_network_is_named(sdist: Pin, cache: Path, console: Console, monkeypatch: pytest.MonkeyPatch):
    for name, value in (("CONFIG_FILE", "/dev/null"), ("INDEX_URL", "http://127.0.0.1:9/simple"), ("RETRIES", "0")):
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BuildError, match="could not be downloaded") as caught:
        pinned_source(sdist, console, cache)
    assert f"put it at {cache / 'tiny_source-1.2.tar.gz'}" in caught.value.next_step
    assert (cache / "download.log").read_text()


def test_an_archive_put_there_by_hand_is_used(sdist: Pin, tmp_path: Path, cache: Path, console: Console):
    cache.mkdir()
    shutil.copy(tmp_path / "index" / "tiny_source-1.2.tar.gz", cache)
    assert not needs_download(sdist, cache)
    assert pinned_source(sdist, console, cache).path.is_dir()


def test_an_archive_with_another_version_is_refused(sdist: Pin, local_index: Path, cache: Path, console: Console):
    with pytest.raises(BuildError, match=r"carries llama\.cpp 9\.8\.7, the pin says 1\.0\.0"):
        pinned_source(replace(sdist, version="1.0.0"), console, cache)
    assert leftovers(cache) == []


def test_a_checkout_of_the_pinned_version_is_accepted(sdist: Pin, cached: Path):
    source = local_source(cached, sdist, allow_unpinned=False)
    assert (source.version, source.commit) == ("9.8.7", "unknown")


def test_a_checkout_of_another_version_is_refused_unless_allowed(sdist: Pin, cached: Path):
    pin = replace(sdist, version="1.0.0")
    with pytest.raises(BuildError, match=r"is llama\.cpp 9\.8\.7 .* the pin is 1\.0\.0") as caught:
        local_source(cached, pin, allow_unpinned=False)
    assert "--allow-unpinned" in caught.value.next_step
    assert local_source(cached, pin, allow_unpinned=True).version == "9.8.7"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_of_a_git_checkout_counts(sdist: Pin, cached: Path):
    git = ["git", "-C", str(cached), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--no-verify", "--allow-empty", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    with pytest.raises(BuildError, match=head[:9]):
        local_source(cached, sdist, allow_unpinned=False)
    assert local_source(cached, sdist, allow_unpinned=True).commit == head[:9]
    assert local_source(cached, replace(sdist, commit=head[:7]), allow_unpinned=False).commit == head[:7]


def test_a_folder_that_is_no_llama_cpp_is_refused(tmp_path: Path):
    with pytest.raises(BuildError, match=r"is no llama\.cpp source tree"):
        tree_version(tmp_path)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LLAMACORE_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/c"}, Path("/a/b")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/llamacore")),
    ],
)
def test_the_cache_is_where_the_environment_says(environ: dict[str, str], expected: Path):
    assert cache_dir(environ) == expected


def test_the_cache_is_outside_the_repository():
    assert not cache_dir({}).is_relative_to(Path(__file__).resolve().parents[2])
