"""Nodes as users write them, for the tests of pipelines. Importing registers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from llamacore.nodes.data import Data, Json, Text
from llamacore.nodes.multi_input import MultiInputNode
from llamacore.nodes.node import Node
from llamacore.nodes.registry import register_node


def as_text(data: Data) -> str:
    return data.text if isinstance(data, Text) else str(data.value)


@register_node("TestUpper")
class Upper(Node):
    """Text in capitals."""

    async def process(self, data: Data) -> Data:
        return Text(as_text(data).upper())


@register_node("TestWords")
class Words(Node):
    """A word at a time; counts what it has given."""

    async def process(self, data: Data) -> AsyncIterator[Data]:
        self.given = getattr(self, "given", 0)
        for word in as_text(data).split():
            self.given += 1
            yield Text(word)


@register_node("TestSlow")
class Slow(Node):
    """Gives "begun", waits until it is told to go on, gives the text. Notes how it ends."""

    async def initialize(self, context=None) -> None:
        await super().initialize(context)
        self.go = asyncio.Event()
        self.log: list[str] = []

    async def process(self, data: Data) -> AsyncIterator[Data]:
        self.log.append(f"begin {as_text(data)}")
        try:
            yield Text("begun")
            await self.go.wait()
            yield data
            self.log.append("end")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise


@register_node("TestFailing")
class Failing(Node):
    """Fails at "boom"."""

    async def process(self, data: Data) -> Data:
        if as_text(data) == "boom":
            raise ZeroDivisionError("it went boom")
        return data


@register_node("TestBroken")
class Broken(Node):
    """Does not get ready, or not cleaned up, or is not even made."""

    def __init__(self, config=None) -> None:
        super().__init__(config)
        if self.params.get("at") == "make":
            raise KeyError("made badly")

    async def initialize(self, context=None) -> None:
        await super().initialize(context)
        self.context.emit_progress("warming", "for a while")
        if self.params.get("at") == "initialize":
            raise OSError("no disk")

    async def process(self, data: Data) -> Data:
        return data

    async def cleanup(self) -> None:
        await super().cleanup()
        if self.params.get("at") == "cleanup":
            raise ValueError("cannot let go")

    async def end_session(self, session_id: str) -> None:
        await super().end_session(session_id)
        if self.params.get("at") == "end_session":
            raise ValueError("cannot forget")


@register_node("TestCounting")
class Counting(Node):
    """Counts the inputs of each session; knows the port "reset"; gives a Json as well on the port "count"."""

    def make_session_state(self, session_id: str) -> list[int]:
        return [0]

    async def stream(self, data: Data, session_id: str | None = None) -> AsyncIterator[Data]:
        count = self.state(session_id, list)
        count[0] += 1
        yield Text(f"{count[0]} {as_text(data)}")
        yield Json({"count": count[0]}, {"port": "count"})

    async def process_control_message(self, message: Data, session_id: str | None = None) -> bool:
        if isinstance(message, Json) and message.value.get("__aux_port__") == "reset":
            self.state(session_id, list)[0] = message.value["payload"].get("count", 0)
            return True
        return False


@register_node("TestJoin")
class Join(MultiInputNode):
    """Joins one envelope of each port."""

    async def process_multi(self, inputs: Mapping[str, Data]) -> Data:
        return Text(" ".join(f"{port}={as_text(inputs[port])}" for port in sorted(inputs)))


@register_node("TestProtected")
class Protected(Slow):
    """Protects what it does."""

    async def stream(self, data: Data, session_id: str | None = None) -> AsyncIterator[Data]:
        with self.gate(session_id).protect():
            async for item in self.process(data):
                yield item
