"""Tools that a model calls while it writes: real turns, in which a grammar has the model write what the test wants."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

import pytest
from scripted import END, SMALL, ScriptedNode, call, history, run, running, turn

from llamacore.chat.message import ChatMessage, ToolCall
from llamacore.nodes import Json, Text
from llamacore.nodes.generation import GenerationNode
from llamacore.nodes.ports import aux
from llamacore.nodes.turn import MAX_TOOL_PASSES

WAVE = {"name": "wave", "description": "Wave.", "parameters": {"type": "object", "properties": {}}}


def weather(city: str) -> str:
    """Get the weather."""
    return f"It rains in {city}."


def test_say_and_show_and_tools_of_the_user():
    script = "Well. " + call("say", text="hi") + call("show", content="*hi*") + call("wave", n=2) + "Bye."

    async def main() -> None:
        async with running(ScriptedNode(script, tools=[WAVE])) as node:
            assert await turn(node, "1", "s") == [
                Text("Well. hi\n"), Text("*hi*", "ui"),
                Json({"kind": "tool_call", "id": "call_2", "name": "wave", "arguments": {"n": 2}}), Text("Bye."), END,
            ]  # fmt: skip
            calls = (
                ToolCall("call_0", "say", '{"text": "hi"}'), ToolCall("call_1", "show", '{"content": "*hi*"}'),
                ToolCall("call_2", "wave", '{"n": 2}'),
            )  # fmt: skip
            assert history(node, "s") == [
                ChatMessage("user", "1"),
                ChatMessage("assistant", "Well. Bye.", tool_calls=calls),
                *(ChatMessage("tool", "", tool_call_id=made.id, name=made.name) for made in calls),
            ]
            told = node.llama.chat_format.prepare(history(node, "s")).prompt  # the history can be rendered
            assert told.count("<tool_call>") == 3

    run(main)


def test_the_text_of_say_and_show_while_it_is_written():
    script = "Well. " + call("say", text="one two three") + call("show", content="*hi*") + call("wave")
    broken = '<tool_call>{"name": "say", "arguments": {"text": "one tw'

    async def main() -> None:
        async with running(ScriptedNode(script, broken, tools=[WAVE], stream_arguments=True)) as node:
            pieces = [envelope async for envelope in node.stream(Text("1"), "s")]
            assert len([piece for piece in pieces if isinstance(piece, Text)]) > 6
            node.script.insert(0, script)
            assert await turn(node, "2", "s") == [
                Text("Well. one two three\n"), Text("*hi*", "ui"),
                Json({"kind": "tool_call", "id": "call_2", "name": "wave", "arguments": {}}), END,
            ]  # fmt: skip
            assert len(history(node, "s")) == 2 * 5
            assert await turn(node, "3", "t") == [Text("one tw"), END]
            assert history(node, "t") == []

    run(main)


def test_an_assistant_that_only_calls_has_no_content():
    async def main() -> None:
        async with running(ScriptedNode(call("say", text="hi"), output_channel="voice")) as node:
            assert await turn(node, "1", "s") == [Text("hi\n", "voice"), Text("hi\n"), END]
            assert history(node, "s")[1].content is None

    run(main)


def test_calls_that_are_none(caplog: pytest.LogCaptureFixture):
    script = "<tool_call>oops</tool_call> " + call("fly", to="moon") + call("") + '<tool_call>{"name": "say"'

    async def main() -> None:
        async with running(ScriptedNode(script)) as node:
            assert await turn(node, "1", "s") == [Text("oops "), END]
            answers = [message.text for message in history(node, "s") if message.role == "tool"]
            assert answers == ["Error: there is no tool 'fly'", "Error: there is no tool ''"]
            assert node.asked == 1

    with caplog.at_level(logging.WARNING, "llamacore.nodes"):
        run(main)
    assert caplog.text.count("was not offered") == 2


def test_a_tool_that_is_not_offered_does_nothing():
    async def main() -> None:
        async with running(ScriptedNode(call("show", content="x"), call("perform_motion", prompt="x"))) as node:
            await node.process_control_message(aux("disable_tool", "show"), "s")
            assert await turn(node, "1", "s") == [END]
            assert await turn(node, "2", "s") == [END]

    run(main)


def test_a_returned_value_goes_back_to_the_model_which_goes_on():
    async def main() -> None:
        script = ("Let me see. " + call("weather", city="Oslo") + call("weather", city="Rome"), "It rains.")
        async with running(ScriptedNode(*script)) as node:
            node.register_tool(weather)
            assert await turn(node, "Weather?", "s") == [Text("Let me see. It rains."), END]
            assert node.asked == 2
            assert [(message.role, message.text) for message in history(node, "s")] == [
                ("user", "Weather?"), ("assistant", "Let me see. "), ("tool", "It rains in Oslo."),
                ("tool", "It rains in Rome."), ("assistant", "It rains."),
            ]  # fmt: skip
            ids = [message.tool_call_id for message in history(node, "s") if message.role == "tool"]
            assert ids == ["call_0", "call_1"]

    run(main)


def test_functions_of_both_kinds_and_their_errors(caplog: pytest.LogCaptureFixture):
    seen: list[Any] = []

    async def note(text: str) -> None:
        await asyncio.sleep(0)
        seen.append(text)

    def broken() -> int:
        raise ValueError("out of order")

    async def main() -> None:
        first = call("note", text="a") + call("broken") + call("weather", town="Oslo") + call("later")
        async with running(ScriptedNode(first, "Sorry.", call("note", text="b"))) as node:
            node.register_tool(note, kind="side_effect")
            node.register_tool(broken)
            node.register_tool(weather)
            node.register_tool({"name": "later", "kind": "return_value"})
            assert await turn(node, "1", "s") == [Text("Sorry."), END]
            answers = [message.text for message in history(node, "s") if message.role == "tool"]
            assert answers[0] == ""
            assert answers[1] == "Error: ValueError: out of order"
            assert "weather has no argument 'town'" in answers[2]
            assert "later has no function" in answers[3]
            assert await turn(node, "2", "s") == [END]  # a side effect alone asks for no answer
            assert node.asked == 3
        assert seen == ["a", "b"]

    with caplog.at_level(logging.WARNING, "llamacore.nodes"):
        run(main)
    assert "the tool broken failed: out of order" in caplog.text


def test_a_model_that_never_stops_calling_is_asked_six_times(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        async with running(ScriptedNode(*[call("weather", city="Oslo")] * 9)) as node:
            node.register_tool(weather)
            assert await turn(node, "1", "s") == [END]
            assert node.asked == MAX_TOOL_PASSES == 6
            assert len(history(node, "s")) == 1 + 2 * 6

    with caplog.at_level(logging.WARNING, "llamacore.nodes"):
        run(main)
    assert "still calls tools after 6 passes" in caplog.text


def test_an_interruption_while_a_function_runs():
    cancelled = []

    async def main() -> None:
        started = asyncio.Event()

        async def slow() -> str:
            started.set()
            try:
                await asyncio.sleep(50)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
            return "done"

        async with running(ScriptedNode(call("slow"), "never")) as node:
            node.register_tool(slow)
            task = asyncio.ensure_future(turn(node, "1", "s"))
            await started.wait()
            assert node.request_cancel("s")
            assert await task == [END]
            assert (node.asked, node.script) == (1, ["never"])
            assert history(node, "s") == []

    run(main)
    assert cancelled == [True]


def test_a_call_that_is_forced_is_one_the_model_makes_itself():
    """Without a script: the demo model with a tool that it must call, and its own answer to the result."""

    def city_weather(city: Literal["Oslo", "Rome"]) -> str:
        """Get the weather."""
        return f"It rains in {city}."

    async def main() -> None:
        node = GenerationNode({**SMALL, "tool_choice": "required", "active_tools": []})
        async with running(node):
            node.register_tool(city_weather)
            assert (await turn(node, "Weather in Oslo?", "s"))[-1] == END
            roles = [message.role for message in history(node, "s")]
            assert roles[:3] == ["user", "assistant", "tool"]
            assert history(node, "s")[2].text in ("It rains in Oslo.", "It rains in Rome.")

    run(main)


BRACKETS = """{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' %}[INST]{{ m.content }}[/INST]
{%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]
{%- else %}{{ m.content or '' }}{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls -%}
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
{%- if not loop.last %}, {% endif %}{% endfor %}]{% endif %}</s>{% endif -%}
{%- endfor -%}"""


def test_models_that_write_their_calls_in_another_way():
    calls = '[{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "say", "arguments": {"text": "hé"}}]'

    async def main() -> None:
        script = (f"Hm. [TOOL_CALLS]{calls}", "a <think>b</think>c", '[TOOL_CALLS][{"name": "say", "arguments": {"te')
        async with running(ScriptedNode(*script)) as node:
            assert node._prompter._writes_tags  # as the demo model does
            del node._prompter.__dict__["_writes_tags"], node.llama.__dict__["chat_format"]
            node.llama.__dict__["_chat_template_source"] = BRACKETS
            node.register_tool(weather)
            assert await turn(node, "1", "s") == [Text("Hm. hé\na c"), END]
            assert not node._prompter._writes_tags
            assert [(message.role, message.text) for message in history(node, "s")] == [
                ("user", "1"), ("assistant", "Hm. "), ("tool", "It rains in Oslo."), ("tool", ""),
                ("assistant", "a c"),
            ]  # fmt: skip
            assert [made.name for made in history(node, "s")[1].tool_calls] == ["weather", "say"]
            assert await turn(node, "2", "s") == [END]  # cut off

    run(main)


def test_process_offers_no_tools():
    async def main() -> None:
        async with running(ScriptedNode("a" + call("say", text="hi") + "b")) as node:
            assert await node.process(Text("1")) == Text("ab")

    run(main)
