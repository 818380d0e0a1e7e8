"""What the tests of packaging share: packages of the libraries that are installed, and checkouts to make them in."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import llamacore_sys

ROOT = Path(__file__).resolve().parents[2]
DATE = 1_700_000_000
# What `build_lib.py package` reads of a checkout.
_PARTS = ("build_lib.py", "pyproject.toml", "LICENSE", "CHANGELOG.md", "build_support", "addons", "llamacore_sys")


@dataclass
class Checkout:
    """A copy of this checkout, a git repository of its own with one commit."""

    root: Path

    def build_lib(self, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs its build_lib.py, from its own folder."""
        return subprocess.run(
            [sys.executable, "build_lib.py", *map(str, arguments)],
            cwd=self.root,
            env={**_environment(), **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )

    def git(self, *arguments: str) -> str:
        """Runs git in it."""
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main")
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.root,
            env={**os.environ, "GIT_AUTHOR_DATE": f"{DATE} +0000", "GIT_COMMITTER_DATE": f"{DATE} +0000"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


def _environment() -> dict[str, str]:
    dropped = ("LLAMACORE_LIB_DIR", "LLAMACORE_BUILD_", "SOURCE_DATE_EPOCH", "GH_REPO")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


def copy_files(target: Path) -> Path:
    """Copies what git knows of this checkout, or would know, and returns the folder; skips the test without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("no checkout to copy")
    for name in map(os.fsdecode, filter(None, listed.stdout.split(b"\0"))):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="session")
def portable_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout for all that packages portable libraries, so that they are compiled once."""
    return copy_files(tmp_path_factory.mktemp("portable"))


@pytest.fixture(scope="session")
def installed() -> Path:
    """The folder of the installed `llamacore_sys`: libraries and extension."""
    assert llamacore_sys.__file__ is not None
    return Path(llamacore_sys.__file__).parent


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[[str], Checkout]:
    """A function that makes a checkout in a folder of that name."""
    if shutil.which("git") is None:
        pytest.skip("needs git")

    def make(name: str) -> Checkout:
        made = Checkout(tmp_path / name)
        made.root.mkdir(parents=True)
        unwanted = shutil.ignore_patterns("__pycache__", "*.so*", "_build.py", "*.egg-info", "build", ".install-*")
        for part in _PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, made.root / part, ignore=unwanted)
            else:
                shutil.copy(ROOT / part, made.root / part)
        (made.root / "llamacore").mkdir()
        shutil.copy(ROOT / "llamacore" / "__init__.py", made.root / "llamacore")
        (made.root / ".gitignore").write_text("/build/\n/dist/\n/release-dry-run-*/\n__pycache__/\n")
        made.git("init", "--quiet")
        made.git("add", "--all")
        made.git("commit", "--quiet", "-m", "all")
        return made

    return make


@pytest.fixture(scope="session")
def packaged(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The installed libraries as `build_lib.py package` makes them, without a wheel."""
    from build_support.config import BuildConfig
    from build_support.packaging import package
    from build_support.process import Console

    if sys.platform != "linux":
        pytest.skip("packaging reads ELF libraries")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(DATE))
        output = tmp_path_factory.mktemp("dist")
        return package(BuildConfig(), output, Console(io.StringIO()), from_dirs=[installed])


@pytest.fixture
def unpacked(packaged: Any, tmp_path: Path) -> Path:
    """The base set, unpacked somewhere else."""
    elsewhere = tmp_path / "elsewhere"
    with tarfile.open(packaged.folder / packaged.entry["companions"]) as tar:
        tar.extractall(elsewhere)
    [top] = elsewhere.iterdir()
    return top


@pytest.fixture(scope="session")
def validate() -> Callable[[Path, str], dict[str, Any]]:
    """A function that checks a JSON file against a schema of docs/schemas and returns what is in it."""

    def check(path: Path, schema: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rules = json.loads((ROOT / "docs" / "schemas" / f"{schema}.schema.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(rules).validate(value)
        return value

    return check
