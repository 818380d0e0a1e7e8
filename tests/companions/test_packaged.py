"""What the packaging of this checkout makes is what the package takes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from llamacore import companions
from llamacore.errors import DamagedSetError

from .making import BASE, LIBRARIES, PLATFORM, left_in, sha256_of
from .server import Files

ROOT = Path(__file__).resolve().parents[2]

# Behind everything installed: the build's own modules are found, the packages under test stay the installed ones.
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from build_support.config import BuildConfig  # noqa: E402
from build_support.packaging import package  # noqa: E402
from build_support.process import Console  # noqa: E402


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the libraries that are installed."""
    if not PLATFORM.endswith("-linux"):
        pytest.skip("packaging reads ELF libraries")
    folder = tmp_path_factory.mktemp("dist")
    package(BuildConfig(), folder, Console(io.StringIO()), from_dirs=[LIBRARIES.parent], wheel=False)
    return folder


def test_it_is_installed_from_its_manifest_and_from_its_archive(dist: Path, files: Files, data: Path):
    files.add(dist)
    (found,) = companions.install(f"{files.url}/release-manifest.json")
    assert found.active
    assert companions.verify(found.id)[0].ok
    assert f"/{BASE}-companions.tar.gz" in [path for path, _ in files.requests]
    assert (found,) == companions.install(dist / f"{BASE}-companions.tar.gz")
    entry = json.loads((dist / "release-manifest.json").read_text())["platforms"][PLATFORM]
    assert sorted(found.backends) == sorted(entry["backends"])
    assert {"companion.json", "include", "lib", "licenses", "sbom.spdx.json"} == {
        path.name for path in found.path.iterdir()
    }


def test_a_flipped_byte_of_it_is_refused(dist: Path, data: Path, tmp_path: Path):
    """With the old hash, and with the right hash of the wrong bytes."""
    sound = (dist / f"{BASE}-companions.tar.gz").read_bytes()
    archive = tmp_path / f"{BASE}-companions.tar.gz"
    for position in (100, len(sound) // 2, len(sound) - 20):
        archive.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        hashes = (sha256_of(dist / archive.name), sha256_of(archive))
        for digest in hashes:
            with pytest.raises(DamagedSetError):
                companions.install(archive, sha256=digest)
            assert [] == left_in(data)
