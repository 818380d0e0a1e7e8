"""The bundled model, and upstream's tools on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from upstream_tools import BuildError, UpstreamTools

import llamacore as lc


@pytest.fixture(scope="session")
def llama() -> Iterator[lc.Llama]:
    """The bundled model, on one thread as the tools."""
    with lc.Llama(n_ctx=1024, n_threads=1) as llama:
        yield llama


@pytest.fixture(scope="session")
def upstream(llama: lc.Llama) -> UpstreamTools:
    """Upstream's tools on the bundled model; skipped where they cannot be compiled."""
    tools = UpstreamTools(Path(llama.model.paths[0]))
    try:
        tools.run("llama-tokenize", "--ids", "--log-disable", "-p", "x")
    except BuildError as error:
        pytest.skip(str(error))
    return tools
