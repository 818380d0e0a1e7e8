"""What the tests of the build share."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging_fixtures import checkout, installed, packaged, portable_checkout, unpacked, validate  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]

# Behind everything installed: the build's own modules are found, the packages under test stay the installed ones.
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from build_support.pin import Pin  # noqa: E402
from build_support.process import Console  # noqa: E402
from build_support.source import sha256_of  # noqa: E402


@pytest.fixture
def console() -> Console:
    """A console that speaks into the void of a string."""
    return Console(io.StringIO())


@pytest.fixture
def said(console: Console) -> Callable[[], str]:
    """What `console` has said so far."""
    return console._stream.getvalue  # type: ignore[attr-defined]


@pytest.fixture
def sdist(tmp_path: Path) -> Pin:
    """A real sdist in `tmp_path/index` that carries a tiny llama.cpp 9.8.7, and its pin.

    Its build backend needs nothing, so that pip handles it without a network.
    """
    top = "tiny_source-1.2"
    files = {
        f"{top}/PKG-INFO": "Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.2\n",
        f"{top}/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n',
        f"{top}/back.py": (
            "import os\n"
            "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
            "    os.mkdir(os.path.join(folder, 'tiny_source-1.2.dist-info'))\n"
            "    with open(os.path.join(folder, 'tiny_source-1.2.dist-info', 'METADATA'), 'w') as file:\n"
            "        file.write('Metadata-Version: 2.1\\nName: tiny-source\\nVersion: 1.2\\n')\n"
            "    return 'tiny_source-1.2.dist-info'\n"
            "def build_wheel(*args, **kwargs):\n"
            "    raise SystemExit('the package itself must never be built')\n"
        ),
        f"{top}/vendor/llama.cpp/CMakeLists.txt": (
            "set(LLAMA_VERSION_MAJOR 9)\nset(LLAMA_VERSION_MINOR 8)\nset(LLAMA_VERSION_PATCH 7)\n"
        ),
        f"{top}/vendor/llama.cpp/src/a.cpp": "int a;\n",
        f"{top}/elsewhere.txt": "not wanted",
    }
    (tmp_path / "index").mkdir()
    archive = tmp_path / "index" / f"{top}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return Pin("9.8.7", "abcdef123", "tiny-source", "1.2", sha256_of(archive), "vendor/llama.cpp")


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `tmp_path/index` all that pip knows; returns it."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a fresh interpreter outside the checkout, with variables added to the environment."""
    import os

    def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LLAMACORE_")}
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env={**clean, **env}, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )

    return run
