"""The names of the package."""

from __future__ import annotations

import pytest

import llamacore.nodes


def test_every_name_can_be_imported():
    for name in llamacore.nodes.__all__:
        assert getattr(llamacore.nodes, name) is not None
    assert set(llamacore.nodes.__all__) <= set(dir(llamacore.nodes))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llamacore.nodes.nonsense


def test_importing_the_envelopes_loads_no_library(run_child):
    run_child(
        """
        from llamacore.nodes import CancelGate, Json, Node, Text
        assert not {"numpy", "llamacore_sys", "jinja2"} & set(sys.modules), sorted(sys.modules)
        """
    )
