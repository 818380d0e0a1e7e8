"""A session of a pipeline: inputs go in, results come out, until the input ends or a node fails."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BusyError, InvalidArgumentError
from .channel import Channel
from .data import Data, Json, Text
from .node import Progress
from .node_error import NodeError
from .ports import BARGE_IN, aux
from .session_control import Controls, Intercept, NodeSwitch
from .session_worker import NodeWorker, is_urgent, takes

if TYPE_CHECKING:
    from typing_extensions import Self

    from .pipeline import Pipeline

INPUT_LIMIT = 8
OUTPUT_LIMIT = 256
SYSTEM = "__system__"
"""The name under which news of the pipeline itself come."""


@dataclass(frozen=True)
class Emitted:
    """A result of a session.

    Attributes:
        node: Id of the node that gave it; "__system__" for news of the pipeline: a Json envelope with `kind`, `status`,
            `message`, `ts_ms` and, where it is about one, `node`.
        data: The envelope.
    """

    node: str
    data: Data


class Session:
    """A session of a pipeline. Made by `Pipeline.session`; used in one event loop, with `async with`.

    Iterating over it yields results as they come, and ends when the input has ended and all of it is processed. Queues
    are bounded: `send` waits while the nodes are behind, nodes wait while nobody takes their results.

    Attributes:
        session_id: What the nodes know it by.
    """

    def __init__(self, pipeline: Pipeline, session_id: str | None) -> None:
        given: object = session_id  # from anywhere
        if given is not None and not (isinstance(given, str) and given):
            raise InvalidArgumentError(f"the session {session_id!r}", hint="give a name, or none for a new one")
        self.session_id = session_id or uuid.uuid4().hex
        self._pipeline = pipeline
        self._inputs: Channel[tuple[str | None, str, Data]] = Channel(INPUT_LIMIT)
        self._outputs: Channel[Emitted] = Channel(OUTPUT_LIMIT)
        self._controls = Controls([node.id for node in pipeline.manifest.nodes])
        self._workers: dict[str, NodeWorker] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._supervisor: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        pipeline = self._pipeline
        if self._supervisor is not None or self._outputs.closed:
            raise BusyError("this session was opened before", hint="make a new one")
        pipeline._join(self)
        try:
            await pipeline.start()
            self._build()
        except BaseException:
            pipeline._leave(self)
            raise
        self._supervisor = asyncio.ensure_future(self._supervise())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _build(self) -> None:
        manifest, nodes = self._pipeline.manifest, self._pipeline.nodes
        read_on = {link.from_ for link in manifest.connections if takes(nodes[link.to], link)}
        for item in manifest.nodes:
            emit = self._emit if item.is_output_node or item.id not in read_on else None
            self._workers[item.id] = NodeWorker(item.id, nodes[item.id], self.session_id, self._controls, emit)
        for link in manifest.connections:
            self._workers[link.from_].connect(link, self._workers[link.to])
        for name, worker in self._workers.items():
            self._tasks[asyncio.ensure_future(worker.work())] = name
            self._tasks[asyncio.ensure_future(worker.hand_on())] = name
        self._tasks[asyncio.ensure_future(self._route())] = "the input"

    # in

    async def send(self, data: Data | str | Mapping[str, Any], to: str | None = None) -> None:
        """Give it an input; waits while the nodes are behind. Control messages and `barge_in` do not wait in line.

        Args:
            data: An envelope, a text, or a mapping for a Json envelope.
            to: Where it goes: "node", or "node.in.port" for a port; None for all nodes that no other feeds.

        Raises:
            ClosedError: The input has ended, or the session has.
            InvalidArgumentError: There is no such node, or the data is none.
        """
        node, port = self._address(to)
        envelope = _envelope(data)
        if not is_urgent(envelope, port):
            await self._inputs.put((node, port, envelope))
            return
        if self._inputs.closed:
            await self._inputs.put((node, port, envelope))  # which raises
        for worker in self._receivers(node):
            await worker.deliver(envelope, port)

    async def barge_in(self, reason: str = "", to: str | None = None) -> None:
        """Interrupt what nodes are doing (those that no other feeds, or one): the next input follows.

        It does not wait in line behind inputs. A node that protects what it does is not interrupted.
        """
        await self.send(aux(BARGE_IN, {"reason": reason} if reason else None), to)

    async def finish(self) -> None:
        """End the input: what was sent is still processed, then iterating ends. Doing it again does nothing."""
        self._inputs.close()

    # watching and changing

    def set_node_state(self, node: str, state: NodeSwitch) -> None:
        """Switch a node: "enabled", "bypass" (its inputs are handed on as they are) or "disabled" (they are dropped).

        Inputs that it is working on are not affected.
        """
        self._controls.switch(node, state)

    def tap(self, address: str) -> Channel[Data]:
        """Return an async iterator of copies of what a node gives, from now on; it keeps 1024 that nobody took.

        Args:
            address: "node.out".
        """
        return self._controls.tap(address)

    def intercept(self, address: str, function: Intercept | None) -> None:
        """Send what a node gives through a function, which returns the envelope, another one, or None to drop it.

        A coroutine function has 50 ms; after that the envelope goes on as it was. An exception ends the session.

        Args:
            address: "node.out".
            function: The function; None to take it away again.
        """
        self._controls.intercept(address, function)

    # out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Emitted:
        return await self._outputs.__anext__()

    async def close(self) -> None:
        """End it now: what runs is cancelled, results that nobody took are lost. Doing it again does nothing."""
        self._inputs.close()
        if self._supervisor is not None:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait([self._supervisor])
        self._outputs.close()
        self._outputs.clear()

    # inside

    async def _supervise(self) -> None:
        """Wait for all tasks; the first one that fails ends the others and the session."""
        error: NodeError | None = None
        try:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                cause = None if task.cancelled() else task.exception()
                if cause is not None and error is None:
                    error = NodeError.of(self._tasks[task], cause)
                    self._news("error", error.message, error.node)
        finally:
            self._inputs.close(error)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._controls.close()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pipeline._end(self)
            self._outputs.close(error)

    async def _route(self) -> None:
        async for node, port, data in self._inputs:
            for worker in self._receivers(node):
                await worker.deliver(data, port)
        for worker in self._receivers(None):
            worker.inbox.close()

    async def _emit(self, node: str, data: Data) -> None:
        await self._outputs.put(Emitted(node, data))

    def _hear(self, news: Progress) -> None:
        if news.session_id in (None, self.session_id):
            self._outputs.put_over(Emitted(SYSTEM, news.to_json()))

    def _news(self, status: str, message: str, node: str) -> None:
        self._pipeline._tell(status, message, node, self.session_id)

    def _receivers(self, node: str | None) -> list[NodeWorker]:
        if node is not None:
            return [self._workers[node]]
        return [worker for worker in self._workers.values() if worker.is_source]

    def _address(self, to: str | None) -> tuple[str | None, str]:
        if to is None:
            return None, "default"
        node, _, port = to.partition(".in.") if to not in self._workers else (to, "", "")
        return self._controls.known(node), port or "default"


def _envelope(data: object) -> Data:
    if isinstance(data, str):
        return Text(data)
    if isinstance(data, Mapping):
        return Json(dict(data))
    if not hasattr(data, "data_type"):
        raise InvalidArgumentError(f"{data!r} is no envelope", hint="give a Text, Json, Tensor, ... or a str")
    return data  # type: ignore[return-value]
