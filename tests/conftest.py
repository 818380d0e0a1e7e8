"""Fixtures of all tests: real models on the real libraries, and child processes for what may only crash there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llamacore as lc
from llamacore.hub import demo_model_path
from llamacore.testing import tiny_model

ROOT = Path(__file__).resolve().parent.parent

Tiny = Callable[..., lc.Model]
TinyPath = Callable[..., Path]
RunChild = Callable[..., str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--run-slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs --run-slow"))


@pytest.fixture(scope="session")
def demo_path() -> Path:
    """Path of the demo model."""
    return demo_model_path()


@pytest.fixture(scope="session")
def demo_model(demo_path: Path) -> Iterator[lc.Model]:
    """The demo model, loaded once."""
    with lc.Model.load(demo_path) as model:
        yield model


@pytest.fixture(scope="session")
def exact_path(demo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with its weights as F32.

    With quantised weights activations are rounded to 8 bits, so that what shares a batch with a text may change it.
    With these it changes the logits by 1e-6, and every text can be compared token by token.
    """
    path = tmp_path_factory.mktemp("exact") / "demo-f32.gguf"
    lc.quantize(demo_path, path, "F32", allow_requantize=True)
    return path


@pytest.fixture(scope="session")
def exact_model(exact_path: Path) -> Iterator[lc.Model]:
    """The same, loaded once."""
    with lc.Model.load(exact_path) as model:
        yield model


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> TinyPath:
    """A function that writes a tiny model of an architecture (arguments of `tiny_model`), each kind once."""
    folder = tmp_path_factory.mktemp("tiny")
    written: dict[str, Path] = {}

    def path(arch: str = "llama", **options: Any) -> Path:
        key = repr((arch, sorted(options.items())))
        if key not in written:
            written[key] = tiny_model(folder / f"{arch}-{len(written)}.gguf", arch=arch, **options)
        return written[key]

    return path


@pytest.fixture(scope="session")
def tiny(tiny_path: TinyPath) -> Iterator[Tiny]:
    """A function that returns a tiny model, each kind loaded once for the session. Nobody closes them."""
    loaded: dict[Path, lc.Model] = {}

    def model(arch: str = "llama", **options: Any) -> lc.Model:
        path = tiny_path(arch, **options)
        if path not in loaded:
            loaded[path] = lc.Model.load(path)
        return loaded[path]

    yield model
    for item in loaded.values():
        item.close()


@pytest.fixture(scope="session")
def upstream_source() -> Path:
    """The unpacked source of the llama.cpp that the libraries were built from; skipped where it cannot be had."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    import llamacore_sys
    from build_support.errors import BuildError
    from build_support.program import Libraries, upstream_source

    try:
        return upstream_source(Libraries(Path(llamacore_sys.lib_dir), llamacore_sys.UPSTREAM.commit))
    except BuildError as error:
        pytest.skip(f"no source of the pinned llama.cpp: {error}")


@pytest.fixture
def lib_copy(tmp_path: Path) -> Path:
    """A copy of the libraries in use."""
    import llamacore_sys

    return Path(shutil.copytree(llamacore_sys.lib_dir, tmp_path / "libraries"))


@pytest.fixture
def run_child(tmp_path: Path) -> RunChild:
    """A function that runs Python code in a process of its own and returns what it printed.

    It fails the test when the process ends by a signal or with another status than expected, or warns. The code finds
    `lc` imported, its arguments in `sys.argv` and the helpers of the core tests on `sys.path`.
    """

    def run(code: str, *argv: object, status: int = 0, timeout: float = 120) -> str:
        script = tmp_path / "child.py"
        script.write_text("import sys\nimport llamacore as lc\n" + textwrap.dedent(code))
        paths = [str(Path(lc.__file__).parent.parent), str(Path(__file__).parent / "core")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GGML_NO_BACKTRACE": "1"}
        command = [sys.executable, "-X", "faulthandler", "-W", "error", str(script), *map(str, argv)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=timeout)
        report = f"exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        assert done.returncode == status, report
        return done.stdout

    return run
