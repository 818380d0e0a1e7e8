"""The base class of nodes, through nodes as users write them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llamacore.errors import InvalidArgumentError
from llamacore.nodes import Data, Json, Node, NodeConfig, NodeContext, Progress, Text


class Upper(Node):
    node_type = "Upper"

    async def process(self, data: Any) -> Text:
        return Text(data.text.upper())


class Letters(Node):
    async def process(self, data: Any) -> AsyncIterator[Data]:  # type: ignore[override]
        for letter in data.text:
            yield Text(letter)


class Lines(Node):
    async def process(self, data: Any) -> list[Data] | None:
        return [Text(line) for line in data.text.split()] or None


async def collected(node: Node, text: str) -> list[str]:
    return [envelope.text async for envelope in node.stream(Text(text))]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("node", "text", "expected"),
    [(Upper, "ab", ["AB"]), (Letters, "ab", ["a", "b"]), (Lines, "a b", ["a", "b"]), (Lines, "", [])],
)
def test_stream_gives_what_process_returns(node: type[Node], text: str, expected: list[str]):
    assert asyncio.run(collected(node(), text)) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"a": 1},
        '{"a": 1}',
        NodeConfig(params={"a": 1}),
        {"params": {"a": 1}},
        {"node_id": "", "params": {"a": 1}, "session_id": None},
    ],
)
def test_a_node_is_made_of_any_form_of_its_parameters(config: Any):
    node = Upper(config)
    assert node.params == {"a": 1}
    assert (node.config.node_type, node.status) == ("Upper", "idle")


def test_no_parameters_at_all():
    for config in (None, "", "  ", {}, "{}"):
        assert Upper(config).params == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "Invalid config JSON"),
        ("[" * 300, "Invalid config JSON"),
        ("[1]", "Invalid config: it is a list"),
        (3, "Invalid config: it is a int"),
        ({"params": 3}, "params is no object"),
        ({"params": {}, "id": "x"}, "has no 'id'"),
    ],
)
def test_a_wrong_config_is_named(config: Any, message: str):
    with pytest.raises(InvalidArgumentError, match=message):
        Upper(config)


def test_the_state_of_a_session_is_made_once_and_forgotten_with_it():
    made: list[str] = []

    class Counting(Node):
        node_type = "Counting"

        def make_session_state(self, session_id: str) -> list[int]:
            made.append(session_id)
            return []

    async def main() -> None:
        node = Counting()
        state = node.state("a", list)
        assert node.state("a", list) is state
        assert node.state("b", list) is not state
        assert node.try_state("a", dict) is None
        with pytest.raises(InvalidArgumentError, match="'Counting' keeps a list of the session 'a', not a dict"):
            node.state("a", dict)
        gate = node.gate("a")
        assert node.gate("a") is gate
        await node.end_session("a")
        await node.end_session("a")
        assert node.state("a", list) is not state
        assert node.gate("a") is not gate
        assert made == ["a", "b", "a"]
        assert Upper().try_state("a", object) is None

    asyncio.run(main())


def test_a_node_tells_what_it_does():
    told: list[Progress] = []

    async def main() -> None:
        node = Upper({"params": {}, "node_id": "up"})
        context = NodeContext("up", "s", told.append)
        await node.initialize(context)
        assert node.status == "ready"
        node.context.emit_progress("ready", "all is well")
        assert not await node.process_control_message(Json({}), "s")
        await node.cleanup()
        await node.cleanup()
        assert node.status == "stopped"

    asyncio.run(main())
    assert [(news.status, news.message, news.node, news.session_id) for news in told] == [
        ("ready", "all is well", "up", "s")
    ]
    value = told[0].to_json().value
    assert value["ts_ms"] > 1_600_000_000_000
    assert {**value, "ts_ms": 0} == {
        "kind": "loading", "status": "ready", "message": "all is well", "node": "up", "ts_ms": 0,
    }  # fmt: skip


def test_a_node_without_process_says_so():
    with pytest.raises(NotImplementedError, match="Node does not say"):
        asyncio.run(collected(Node(), "a"))
