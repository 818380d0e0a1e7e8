"""Running what a model calls, and writing what comes of it back into the conversation."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgumentError, ToolError
from .message import ChatMessage, ToolCall
from .tools import Tool, result_text, run_coroutine

MAX_PASSES = 8
"""How often a model is asked, unless told otherwise, before it must have answered."""


@dataclass(frozen=True)
class ToolResult:
    """What came of a call.

    Attributes:
        call: The call.
        value: What the tool returned; None when it failed.
        error: Why it failed; None when it did not.
        text: What the model gets to read.
    """

    call: ToolCall
    value: Any
    error: Exception | None
    text: str

    @property
    def message(self) -> ChatMessage:
        """The message that answers the call."""
        return ChatMessage("tool", self.text, tool_call_id=self.call.id, name=self.call.name)


ToolHook = Callable[[ToolResult], Any]
"""A function, or a coroutine function, called after every call; what it raises ends the loop."""


class ToolRunner:
    """Runs calls. What a tool raises, wrong arguments and unknown names become results that the model can read.

    Args:
        tools: The tools that may be called.
        hook: Called with every result.
    """

    def __init__(self, tools: Sequence[Tool], hook: ToolHook | None = None) -> None:
        if hook is not None and not callable(hook):
            raise InvalidArgumentError(f"on_tool_result is a {type(hook).__name__}", hint="give a function")
        self._tools = {tool.name: tool for tool in tools}
        self._hook = hook

    def can_run(self, calls: Sequence[ToolCall]) -> bool:
        """Whether all of them can be run here; a tool without a function is the caller's to run."""
        return all(call.name not in self._tools or self._tools[call.name].function is not None for call in calls)

    def run(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run calls one after the other; coroutine functions are run to their end."""
        results = []
        for call in calls:
            results.append(self._run(call))
            told = self._hook(results[-1]) if self._hook else None
            if inspect.iscoroutine(told):
                run_coroutine(told)
        return results

    async def arun(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Run calls at the same time; sync functions are run in threads. Results are in the order of the calls."""
        results = await asyncio.gather(*map(self._arun, calls))
        for result in results:
            told = self._hook(result) if self._hook else None
            if inspect.isawaitable(told):
                await told
        return results

    def _run(self, call: ToolCall) -> ToolResult:
        try:
            return _returned(call, self._tool(call).call(call.arguments))
        except Exception as exc:
            return _failed(call, exc)

    async def _arun(self, call: ToolCall) -> ToolResult:
        try:
            return _returned(call, await self._tool(call).acall(call.arguments))
        except Exception as exc:
            return _failed(call, exc)

    def _tool(self, call: ToolCall) -> Tool:
        if call.name not in self._tools:
            raise ToolError(f"there is no tool {call.name!r}", hint="there are " + ", ".join(self._tools))
        return self._tools[call.name]


def _returned(call: ToolCall, value: Any) -> ToolResult:
    return ToolResult(call, value, None, result_text(value))


def _failed(call: ToolCall, error: Exception) -> ToolResult:
    return ToolResult(call, None, error, f"Error: {type(error).__name__}: {error}")
