"""What the tests of the OpenAI-shaped calls share."""

from __future__ import annotations

import pytest

import llamacore as lc


@pytest.fixture(scope="module")
def llama(demo_path):
    """The demo model, for all tests of a file."""
    with lc.Llama(demo_path, n_threads=1, n_ctx=1024, n_parallel=4) as llama:
        yield llama


@pytest.fixture(scope="module")
def steady(tiny_path):
    """A model in float32, for tests that compare two runs: a quantised one rounds differently with the batch size."""
    with lc.Llama(tiny_path(), n_threads=1, n_ctx=512, n_parallel=4) as llama:
        yield llama
