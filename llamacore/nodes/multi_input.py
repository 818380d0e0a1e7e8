"""Nodes that take one envelope of each of several inputs at a time."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ..errors import InvalidArgumentError
from .data import Data
from .node import Node, Output


class MultiInputNode(Node):
    """A node whose input ports (`to_port` of the connections to it) belong together.

    It waits until there is an envelope at every port that is connected, and takes one of each.
    """

    async def process_multi(self, inputs: Mapping[str, Data]) -> Output:
        """Take an envelope of each port, by the ports' names, and give one, several, or none."""
        raise NotImplementedError(f"{type(self).__name__} does not say what process_multi() does")

    async def stream_multi(self, inputs: Mapping[str, Data], session_id: str | None = None) -> AsyncIterator[Data]:
        """As `stream`, of an envelope of each port."""
        made: Any = self.process_multi(inputs)
        if hasattr(made, "__aiter__"):
            async for envelope in made:
                yield envelope
            return
        made = await made if inspect.isawaitable(made) else made
        for envelope in made if isinstance(made, (list, tuple)) else [made]:
            if envelope is not None:
                yield envelope

    async def process(self, data: Data) -> Output:
        """Refuse an envelope that comes alone."""
        raise InvalidArgumentError(
            f"{type(self).__name__} takes several inputs together", hint="name the ports of the connections to it"
        )
