"""What the tests of companion sets share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .making import archive_of, base_set
from .server import Files, serving


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder that everything goes to, empty; no test touches the user's own."""
    folder = tmp_path / "data"
    monkeypatch.setenv("LLAMACORE_DATA_DIR", str(folder))
    monkeypatch.delenv("LLAMACORE_LIB_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real base set, unpacked; nobody changes it."""
    return base_set(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def base_archive(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, packed, with its sidecar; nobody changes it."""
    return archive_of(base_folder, tmp_path_factory.mktemp("packed"))


@pytest.fixture
def files() -> Iterator[Files]:
    """A server of files."""
    with serving(Files()) as served:
        yield served
