"""llamacore_sys/UPSTREAM and its parser."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_support.errors import BuildError
from build_support.pin import read_pin

ROOT = Path(__file__).resolve().parents[2]
PIN_FILE = ROOT / "llamacore_sys" / "UPSTREAM"


def test_the_pin_of_the_repository_is_complete():
    pin = read_pin(PIN_FILE)
    assert pin.version.count(".") == 2
    assert pin.requirement == f"{pin.sdist_name}=={pin.sdist_version} --hash=sha256:{pin.sdist_sha256}"
    assert pin.archive_stem == "llama_cpp_python-" + pin.sdist_version


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = ", "# version = ", "version missing"),
        ("commit = ", "comit = ", "expected one of"),
        ("sdist-sha256 = ", "sdist-sha256 = 00", "no valid sdist-sha256"),
        ("commit = ", "commit = HEAD #", "no valid commit"),
        ("sdist-subdir = ", "sdist-subdir = ../", "no valid sdist-subdir"),
        ("commit = ", "version = 1.2.3\ncommit = ", "expected one of"),
        ("commit = ", "commit ", "expected one of"),
    ],
)
def test_a_malformed_pin_is_refused(tmp_path: Path, old: str, new: str, message: str):
    text = PIN_FILE.read_text()
    assert f"\n{old}" in text
    path = tmp_path / "UPSTREAM"
    path.write_text(text.replace(f"\n{old}", f"\n{new}"))
    with pytest.raises(BuildError, match=message):
        read_pin(path)


def test_a_missing_pin_is_named(tmp_path: Path):
    with pytest.raises(BuildError, match=r"restore .*UPSTREAM"):
        read_pin(tmp_path / "UPSTREAM")
