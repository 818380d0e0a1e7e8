"""What the nodes that work with a model have in common: they load it or share a loaded one, and give it back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Generic

from ..errors import InvalidArgumentError, LlamaCoreError
from .node import Node, NodeContext
from .shared import Lease, Value, leased

_log = logging.getLogger("llamacore.nodes")


class LoadingNode(Node, Generic[Value]):
    """A node whose parameters have a `model_path`. Subclasses say what they lease, and what they make of it."""

    _lease: Lease[Value] | None = None

    def _take_lease(self) -> Lease[Value]:
        """Load or share. Called in a thread."""
        raise NotImplementedError

    def _open(self, loaded: Value) -> None:
        """Make what the node works with. Called in a thread."""

    def _close(self) -> None:
        """Free what `_open` made, as far as it came. Called in a thread."""

    async def initialize(self, context: NodeContext | None = None) -> None:
        """Load the model, or share it with other nodes of this process, and make what is needed to work with it.

        Raises:
            InvalidArgumentError: It was called before.
            ModelLoadError: The model could not be loaded.
            ContextError: The context could not be made.
            LlamaCoreError: The model is not one that the parameters fit, such as OutOfRangeError for a layer.
        """
        if self.status != "idle":
            raise InvalidArgumentError(f"initialize() of a node that is {self.status}", hint="make a new node")
        self.status = "initializing"
        if context is not None:
            self.context = context
        for warning in self.warnings:
            _log.warning("node %s: %s", self.context.node_id or self.node_type, warning)
        self.context.emit_progress("loading_model", f"loading {self.params.model_path}")
        try:
            self._lease = await leased(self._take_lease)
            await self._opened(self._lease.value)
        except LlamaCoreError as exc:
            self.status = "error"
            self.context.emit_progress("error", exc.message)
            await self._give_back()
            raise
        self.status = "ready"
        self.context.emit_progress("ready", f"{self.params.model_path} is loaded")

    async def _opened(self, loaded: Value) -> None:
        work: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(self._open, loaded))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.gather(work, return_exceptions=True)  # what it makes is freed as well
            await self._give_back()
            raise

    async def cleanup(self) -> None:
        """End what runs and give the model back; the last node that uses it frees it."""
        await super().cleanup()
        await self._give_back()

    async def _give_back(self) -> None:
        await asyncio.to_thread(self._close)
        lease, self._lease = self._lease, None
        if lease is not None:
            await asyncio.to_thread(lease.close)
