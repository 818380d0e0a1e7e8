from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llamacore.chat.loop import ToolResult, ToolRunner
from llamacore.chat.message import ToolCall
from llamacore.chat.tools import Tool, tools_of
from llamacore.errors import InvalidArgumentError, ToolError


def add(a: int, b: int = 1) -> int:
    return a + b


def fail(why: str) -> None:
    raise LookupError(why)


async def aadd(a: int) -> int:
    await asyncio.sleep(0)
    return a + 100


def call(name: str, arguments: str, number: int = 0) -> ToolCall:
    return ToolCall(f"call_{number}", name, arguments)


CALLS = [
    call("add", '{"a": 1}', 0),
    call("fail", '{"why": "not here"}', 1),
    call("missing", "{}", 2),
    call("add", '{"a": "x"}', 3),
    call("add", "{cut off", 4),
    call("aadd", '{"a": 1}', 5),
]


def check(results: list[ToolResult]) -> None:
    assert [result.call for result in results] == CALLS
    assert [result.value for result in results] == [2, None, None, None, None, 101]
    assert [type(result.error) for result in results] == [
        type(None), LookupError, ToolError, ToolError, ToolError, type(None)
    ]  # fmt: skip
    texts = [result.text for result in results]
    assert texts[0] == "2"
    assert texts[1] == "Error: LookupError: not here"
    assert "there is no tool 'missing'" in texts[2]
    assert "$.a" in texts[3]
    assert "no JSON" in texts[4]
    message = results[1].message
    assert message.to_dict() == {"role": "tool", "content": texts[1], "tool_call_id": "call_1", "name": "fail"}


def test_results_and_errors() -> None:
    seen: list[ToolResult] = []
    runner = ToolRunner(tools_of([add, fail, aadd]), seen.append)
    check(runner.run(CALLS))
    check(seen)


def test_results_and_errors_in_an_event_loop() -> None:
    seen: list[ToolResult] = []
    runner = ToolRunner(tools_of([add, fail, aadd]), seen.append)
    check(asyncio.run(runner.arun(CALLS)))
    check(seen)


def test_calls_run_at_the_same_time_in_an_event_loop() -> None:
    barrier = threading.Barrier(2, timeout=20)
    event = asyncio.Event()

    def meet() -> str:
        barrier.wait()
        return "met"

    async def wait() -> str:
        await asyncio.wait_for(event.wait(), 20)
        return "told"

    async def tell() -> str:
        event.set()
        return "tells"

    calls = [call(name, "{}") for name in ("meet", "wait", "tell")]
    other = ToolRunner([Tool("meet", function=meet), *tools_of([wait, tell])])

    async def run() -> list[Any]:
        first, second = await asyncio.gather(other.arun(calls), other.arun(calls[:1]))
        return [result.value for result in first + second]

    assert asyncio.run(run()) == ["met", "told", "tells", "met"]


def test_a_hook_that_raises_ends_it() -> None:
    def stop(result: ToolResult) -> None:
        raise PermissionError(result.call.name)

    runner = ToolRunner(tools_of([add]), stop)
    with pytest.raises(PermissionError, match="add"):
        runner.run(CALLS[:1])
    with pytest.raises(PermissionError, match="add"):
        asyncio.run(runner.arun(CALLS[:1]))


def test_a_hook_may_be_a_coroutine_function() -> None:
    seen: list[Any] = []

    async def hook(result: ToolResult) -> None:
        await asyncio.sleep(0)
        seen.append(result.value)

    runner = ToolRunner(tools_of([add]), hook)
    runner.run(CALLS[:1])
    asyncio.run(runner.arun(CALLS[:1]))
    assert seen == [2, 2]


def test_interrupts_are_no_results() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ToolRunner(tools_of([interrupted])).run([call("interrupted", "{}")])


def test_tools_without_a_function_are_not_run_here() -> None:
    runner = ToolRunner([Tool("theirs"), Tool.from_function(add)])
    assert runner.can_run(CALLS[:1])
    assert runner.can_run([call("missing", "{}")])  # its result tells the model
    assert not runner.can_run([CALLS[0], call("theirs", "{}")])


def test_misuse() -> None:
    with pytest.raises(InvalidArgumentError, match="on_tool_result is a int"):
        ToolRunner([], 5)  # type: ignore[arg-type]
