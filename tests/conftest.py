"""Fixtures for all tests: real models on the real libraries."""

from pathlib import Path

import pytest

import llamacore as lc
from llamacore.hub import demo_model_path


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--run-slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs --run-slow"))


@pytest.fixture(scope="session")
def demo_path() -> Path:
    """Path of the demo model."""
    return demo_model_path()


@pytest.fixture(scope="session")
def demo_model(demo_path):
    """The demo model, loaded once."""
    with lc.Model.load(demo_path) as model:
        yield model


@pytest.fixture(scope="session")
def upstream_source() -> Path:
    """The unpacked source of the pinned llama.cpp."""
    from build_support import source

    return Path(source.locate())
