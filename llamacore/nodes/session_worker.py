"""One node at work in one session: takes from its inbox, one input at a time, and hands on what the node gives."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from .channel import Channel
from .data import ControlMessage, Data, Json, Text, to_dict
from .manifest_parts import DEFAULT_PORT, Connection
from .multi_input import MultiInputNode
from .node import Node
from .node_error import NodeError
from .ports import BARGE_IN, aux, read_aux
from .session_control import Controls

INBOX_LIMIT = 16
OUTBOX_LIMIT = 1024

logger = logging.getLogger("llamacore.nodes")


class NodeWorker:
    """Runs a node for a session.

    Args:
        name: Id of the node.
        node: The node.
        session_id: The session.
        controls: Switches, taps and intercepts of the session.
        emit: Takes what is a result of the session; None if this node's output is not.
    """

    def __init__(
        self,
        name: str,
        node: Node,
        session_id: str,
        controls: Controls,
        emit: Callable[[str, Data], Awaitable[None]] | None,
    ) -> None:
        self.name = name
        self.node = node
        self.inbox: Channel[tuple[str, Data]] = Channel(INBOX_LIMIT)
        self.ports: list[str] = []
        self._outbox: Channel[Data] = Channel(OUTBOX_LIMIT)
        self._session_id = session_id
        self._controls = controls
        self._emit = emit
        self._links: list[tuple[Connection, NodeWorker]] = []
        self._sources = 0
        self._current: asyncio.Task[None] | None = None
        self._dropped = False
        self._waiting: dict[str, deque[Data]] = {}

    def connect(self, link: Connection, target: NodeWorker) -> None:
        """Send what this node gives to another one."""
        self._links.append((link, target))
        if takes(target.node, link):
            target._sources += 1
            target.ports.append(link.to_port)

    @property
    def is_source(self) -> bool:
        """Whether its inputs come from outside."""
        return self._sources == 0

    # what comes in

    async def deliver(self, data: Data, port: str = DEFAULT_PORT) -> None:
        """Give it an input or something for an auxiliary port, in line, or what overtakes them."""
        if port != DEFAULT_PORT and not isinstance(self.node, MultiInputNode) and not isinstance(data, ControlMessage):
            data, port = aux(port, _payload(data)), DEFAULT_PORT
        if is_urgent(data):
            try:
                await self._control(data)
            except Exception as exc:  # a node may raise anything; who delivers to it is another one
                raise NodeError.of(self.name, exc) from exc
        elif read_aux(data) is not None:
            self.inbox.put_over((port, data))  # these may point back, where waiting would block the circle
        else:
            await self.inbox.put((port, data))

    async def _control(self, data: Data) -> None:
        """Give the node something for an auxiliary port, or a control message."""
        port = _port(data)
        cancelled = port == BARGE_IN and self.node.gate(self._session_id).try_cancel()
        if port == BARGE_IN and not cancelled:
            logger.info("node %r is protected: a barge_in does not interrupt it", self.name)
        known = await self.node.process_control_message(data, self._session_id)
        if cancelled and not known:
            self.drop()  # the node does not see to it itself
        if not known and port not in (BARGE_IN, None):
            logger.warning("node %r has no port %r: what was sent there is lost", self.name, port)

    def drop(self) -> None:
        """Stop what the node does with its present input; its next one follows."""
        if self._current is not None:
            self._dropped = True
            self._current.cancel()

    def end_source(self) -> None:
        """Note that one of the nodes before it has ended; with the last one ends its input."""
        self._sources -= 1
        if self._sources <= 0:
            self.inbox.close()

    # its two tasks

    async def work(self) -> None:
        """Process inputs until they end."""
        async for port, data in self.inbox:
            state = self._controls.state(self.name)
            if read_aux(data) is not None:
                await self._control(data)
            elif state == "bypass":
                await self._outbox.put(data)
            elif state == "enabled":
                stream = self._stream(port, data)
                if stream is not None:
                    await self._run(stream)
        self._outbox.close()

    async def hand_on(self) -> None:
        """Send what the node gives to where it goes, until it has ended."""
        async for given in self._outbox:
            data = await self._controls.passed(self.name, given)
            if data is None:
                continue
            for link, target in self._links:
                if _leaves_by(link.from_port, data):
                    await target.deliver(data, link.to_port)
            if self._emit is not None:
                await self._emit(self.name, data)
        for link, target in self._links:
            if takes(target.node, link):
                target.end_source()

    def _stream(self, port: str, data: Data) -> AsyncIterator[Data] | None:
        """What the node makes of an input; None if it waits for another port."""
        if not isinstance(self.node, MultiInputNode):
            return self.node.stream(data, self._session_id)
        ports = self.ports or [DEFAULT_PORT]
        self._waiting.setdefault(port, deque()).append(data)
        if not all(self._waiting.get(name) for name in ports):
            return None
        return self.node.stream_multi({name: self._waiting[name].popleft() for name in ports}, self._session_id)

    async def _run(self, stream: Any) -> None:
        async def pump() -> None:
            async with aclosing(stream):
                async for data in stream:
                    await self._outbox.put(data)

        self._dropped = False
        self._current = asyncio.ensure_future(pump())
        try:
            await asyncio.wait([self._current])
        except asyncio.CancelledError:
            self._current.cancel()
            await asyncio.wait([self._current])
            raise
        finally:
            task, self._current = self._current, None
        if task.cancelled() and not self._dropped:
            raise RuntimeError("it cancelled itself")  # else its session would wait forever
        if not task.cancelled():
            task.result()


def takes(node: Node, link: Connection) -> bool:
    """Whether a connection to a node carries inputs, and not what goes to an auxiliary port."""
    return link.to_port == DEFAULT_PORT or isinstance(node, MultiInputNode)


def is_urgent(data: Data, port: str = DEFAULT_PORT) -> bool:
    """Whether an envelope overtakes the inputs: control messages and `barge_in`."""
    return isinstance(data, ControlMessage) or BARGE_IN in (port, _port(data))


def _port(data: Data) -> str | None:
    found = read_aux(data)
    return None if found is None else found[0]


def _payload(data: Data) -> Mapping[str, Any] | str | bytes:
    """An envelope as the payload of one for an auxiliary port."""
    if isinstance(data, Json):
        return data.value if isinstance(data.value, Mapping) else {"value": data.value}
    if isinstance(data, Text):
        return data.text
    fields = to_dict(data)
    return {"binary_b64": fields["data"]} if "data" in fields else fields


def _leaves_by(port: str, data: Data) -> bool:
    """Whether an envelope goes through an output port: the default one takes all, others what bears their name."""
    if port == DEFAULT_PORT:
        return True
    return data.metadata.get("port") == port or (isinstance(data, Text) and data.channel == port)
