"""A node whose model writes what the test wants: a grammar leaves it no other text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from llamacore.chat.char_sets import literal
from llamacore.nodes import Data, Text
from llamacore.nodes.generation import GenerationNode

END = Text("<|text_end|>")
SMALL: dict[str, Any] = {
    "model_path": "demo", "context_size": 2048, "max_tokens": 120, "temperature": 0, "backend": {"threads": 1},
}  # fmt: skip


class ScriptedNode(GenerationNode):
    """The real node on the real model; each answer of the model is the next one of `script`, while there are any."""

    script: list[str]

    def __init__(self, *script: str, **params: Any) -> None:
        super().__init__({**SMALL, **params})
        self.script = list(script)
        self.asked = 0

    def generation_options(self, session_id: str) -> Mapping[str, Any]:
        self.asked += 1
        if not self.script:
            return {}
        rule = "root ::= " + literal(self.script.pop(0))
        free = {"grammar_lazy": False, "grammar_triggers": (), "grammar_type": "user"}
        return {"grammar": rule, **free, "reasoning_budget_start_tag": "", "reasoning_budget_end_tags": ()}


def call(name: str, **arguments: Any) -> str:
    """A tool call as models write it."""
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


@asynccontextmanager
async def running(node: Any):
    """A node between `initialize` and `cleanup`."""
    await node.initialize()
    try:
        yield node
    finally:
        await node.cleanup()


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test's coroutine, which must not hang."""
    return asyncio.run(asyncio.wait_for(main(), 300))  # type: ignore[arg-type]


async def turn(node: Any, text: str = "Hello.", session: str | None = None) -> list[Data]:
    """All envelopes of a turn, neighbouring texts of a channel joined."""
    found: list[Any] = []
    async for envelope in node.stream(Text(text), session):
        last = found[-1] if found else None
        joins = isinstance(last, Text) and isinstance(envelope, Text) and last.channel == envelope.channel
        if joins and not envelope.is_end:  # type: ignore[union-attr]
            found[-1] = Text(last.text + envelope.text, last.channel)  # type: ignore[union-attr]
        else:
            found.append(envelope)
    return found


def history(node: Any, session: str) -> list[Any]:
    """What a session remembers."""
    return list(node.session(session).conversation.messages)
