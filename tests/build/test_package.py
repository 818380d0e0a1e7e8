"""Built files reach the package all or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from build_support.package import RECORD, built_files, install, remove


def make_set(folder: Path, text: str, *libraries: str) -> Path:
    (folder / "lib").mkdir(parents=True)
    for name in ("_native.abi3.so", RECORD, *(f"lib/{library}" for library in libraries)):
        (folder / name).write_text(text)
    return folder


def contents(package: Path) -> dict[str, str]:
    return {str(path.relative_to(package)): path.read_text() for path in built_files(package)}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with an older set in it, and a file that is not the build's."""
    folder = make_set(tmp_path / "package", "old", "liba.so.0", "libstale.so")
    (folder / "__init__.py").write_text("mine")
    return folder


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return make_set(tmp_path / "staged", "new", "liba.so.0", "libb.so.0")


NEW = {"_build.py": "new", "_native.abi3.so": "new", "lib/liba.so.0": "new", "lib/libb.so.0": "new"}


def test_the_new_set_replaces_the_old_one(package: Path, staged: Path):
    files = install(staged, package)
    assert contents(package) == NEW
    assert files == built_files(package)
    assert (package / "__init__.py").read_text() == "mine"
    assert not list(package.glob(".install-*"))


def test_files_in_use_are_replaced_not_written_to(package: Path, staged: Path):
    with open(package / "lib" / "liba.so.0") as in_use:
        install(staged, package)
        assert in_use.read() == "old"


def test_a_first_install_makes_the_folder(tmp_path: Path, staged: Path):
    install(staged, tmp_path / "fresh" / "llamacore_sys")
    assert contents(tmp_path / "fresh" / "llamacore_sys") == NEW


@pytest.mark.parametrize("fail_at", range(1, 7))
def test_a_failure_half_way_leaves_the_old_set(
    package: Path, staged: Path, fail_at: int, monkeypatch: pytest.MonkeyPatch
):
    before = contents(package)
    calls = 0
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        install(staged, package)
    assert contents(package) == before


def test_what_a_killed_install_left_is_removed(package: Path, staged: Path):
    make_set(package / ".install-dead", "dead", "liba.so.0")
    install(staged, package)
    assert not (package / ".install-dead").exists()


def test_remove_takes_the_built_files_only(package: Path):
    remove(package)
    assert [path.name for path in package.iterdir()] == ["__init__.py"]
