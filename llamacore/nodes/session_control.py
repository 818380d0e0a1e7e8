"""Watching and changing what flows in a session: switches for nodes, taps and intercepts on their outputs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Literal, get_args

from ..errors import InvalidArgumentError
from .channel import Channel
from .data import Data

NodeSwitch = Literal["enabled", "bypass", "disabled"]
"""What becomes of the inputs of a node: processed, handed on as they are, or dropped."""

Intercept = Callable[[Data], Data | Awaitable[Data | None] | None]
"""Takes an envelope that a node gives, and returns what goes on instead of it; None drops it."""

INTERCEPT_SECONDS = 0.05
_TAP_LIMIT = 1024


class Controls:
    """What was asked for in a session, by node.

    Args:
        nodes: Ids of the nodes.
    """

    def __init__(self, nodes: list[str]) -> None:
        self._switches: dict[str, NodeSwitch] = dict.fromkeys(nodes, "enabled")
        self._taps: dict[str, list[Channel[Data]]] = {name: [] for name in nodes}
        self._intercepts: dict[str, Intercept] = {}

    def switch(self, node: str, state: NodeSwitch) -> None:
        """Set the switch of a node."""
        if state not in get_args(NodeSwitch):
            raise InvalidArgumentError(f"the state {state!r}", hint="there are " + ", ".join(get_args(NodeSwitch)))
        self._switches[self.known(node)] = state

    def state(self, node: str) -> NodeSwitch:
        """Return how the switch of a node stands."""
        return self._switches[node]

    def tap(self, address: str) -> Channel[Data]:
        """Return a channel that gets a copy of what a node gives; it keeps the newest 1024 that nobody took."""
        made: Channel[Data] = Channel(_TAP_LIMIT)
        self._taps[self._output(address)].append(made)
        return made

    def intercept(self, address: str, function: Intercept | None) -> None:
        """Send what a node gives through a function; None takes it away again."""
        node = self._output(address)
        if function is None:
            self._intercepts.pop(node, None)
        elif callable(function):
            self._intercepts[node] = function
        else:
            raise InvalidArgumentError(f"the intercept {function!r} cannot be called")

    async def passed(self, node: str, data: Data) -> Data | None:
        """Return what goes on of an envelope that a node gave, after its intercept, and let the taps see that."""
        function = self._intercepts.get(node)
        if function is not None:
            made: Any = function(data)
            if inspect.isawaitable(made):
                try:
                    made = await asyncio.wait_for(made, INTERCEPT_SECONDS)
                except asyncio.TimeoutError:
                    made = data  # too late: the stream does not wait
            if made is None:
                return None
            data = made
        for tap in self._taps[node]:
            tap.put_newest(data)
        return data

    def close(self) -> None:
        """End all taps."""
        for taps in self._taps.values():
            for tap in taps:
                tap.close()

    def known(self, node: str) -> str:
        """Return a node's id, if there is such a node.

        Raises:
            InvalidArgumentError: There is none.
        """
        if node not in self._switches:
            raise InvalidArgumentError(f"there is no node {node!r}", hint=f"there are {', '.join(self._switches)}")
        return node

    def _output(self, address: str) -> str:
        return self.known(str(address).removesuffix(".out"))
