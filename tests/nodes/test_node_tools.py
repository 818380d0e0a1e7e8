"""Tools of nodes: which are offered, how calls are read, and what they leave the node as."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from llamacore.chat.message import ToolCall
from llamacore.errors import InvalidArgumentError
from llamacore.nodes import Json, Text
from llamacore.nodes.tools import BUILT_IN, NodeTool, Toolbox, arguments_of, effects

WAVE = {"name": "wave", "description": "Wave.", "parameters": {"type": "object", "properties": {}}}


def offered(toolbox: Toolbox) -> list[str]:
    return [tool.name for tool in toolbox.offered]


def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


def test_say_and_show_come_first_and_can_be_replaced_in_place():
    assert offered(Toolbox()) == ["say", "show"]
    mine = {"name": "say", "description": "Mine.", "cancelable": False}
    toolbox = Toolbox([WAVE, mine, "perform_motion"])
    assert offered(toolbox) == ["say", "show", "perform_motion", "wave"]
    say = toolbox.get("say")
    assert say is not None
    assert (say.tool.description, say.cancelable) == ("Mine.", False)
    assert BUILT_IN["say"].tool.description != "Mine."


def test_the_tools_as_the_model_is_told_of_them():
    for name, key in (("say", "text"), ("show", "content"), ("perform_motion", "prompt")):
        told = BUILT_IN[name].tool.to_dict()
        assert told["type"] == "function"
        assert told["function"]["name"] == name
        assert told["function"]["parameters"] == {
            "type": "object", "properties": {key: {"type": "string", "minLength": 1}}, "required": [key],
        }  # fmt: skip
    assert {name: (tool.kind, tool.cancelable) for name, tool in BUILT_IN.items()} == {
        "say": ("side_effect", True), "show": ("side_effect", True), "perform_motion": ("side_effect", False),
    }  # fmt: skip


def test_active_tools():
    assert offered(Toolbox([WAVE], active=["wave", "say"])) == ["say", "wave"]
    assert offered(Toolbox([WAVE], active=[])) == []
    assert offered(Toolbox(active=["perform_motion"])) == ["perform_motion"]


def test_switching_tools(caplog: pytest.LogCaptureFixture):
    toolbox = Toolbox([WAVE])
    assert toolbox.disable("say")
    assert offered(toolbox) == ["show", "wave"]
    assert toolbox.enable("say")
    assert toolbox.set_active(["say"])
    assert offered(toolbox) == ["say"]
    assert toolbox.enable("wave")
    assert offered(toolbox) == ["say", "wave"]
    toolbox.register({"name": "nod"})
    assert offered(toolbox) == ["say", "wave", "nod"]
    assert toolbox.set_active(None)
    assert offered(toolbox) == ["say", "show", "wave", "nod"]
    with caplog.at_level(logging.WARNING, "llamacore.nodes"):
        assert not toolbox.enable("fly")
        assert not toolbox.disable("fly")
        assert not toolbox.set_active(["say", "fly"])
    assert caplog.text.count("there is no tool 'fly'") == 3
    assert offered(toolbox) == ["say"]


def test_a_copy_goes_its_own_way():
    first = Toolbox([WAVE], active=["wave"])
    second = first.copy()
    second.register({"name": "nod"})
    second.disable("wave")
    assert (offered(first), offered(second)) == (["wave"], ["nod"])


def test_what_a_tool_can_be_made_of():
    function = NodeTool.of(add)
    assert (function.name, function.kind, function.cancelable, function.is_run) == ("add", "return_value", True, True)
    assert NodeTool.of(add, kind="side_effect", cancelable=False).kind == "side_effect"
    spec = NodeTool.of({**WAVE, "kind": "return_value", "cancelable": False})
    assert (spec.kind, spec.cancelable, spec.is_run) == ("return_value", False, True)
    outer = NodeTool.of({"type": "function", "function": WAVE, "cancelable": False})
    assert (outer.name, outer.kind, outer.cancelable, outer.is_run) == ("wave", "side_effect", False, False)
    assert NodeTool.of(outer) == outer
    for wrong in (3, None, int, {}, {"name": 3}, {"name": "two words"}, {"name": "a", "parameters": {"type": "array"}}):
        with pytest.raises(InvalidArgumentError, match="Invalid config: "):
            NodeTool.of(wrong)


@pytest.mark.parametrize(
    ("name", "arguments", "channel", "expected"),
    [
        ("say", {"text": "hi"}, "tts", [Text("hi\n")]),
        ("say", {"text": "hi\n"}, "tts", [Text("hi\n")]),
        ("say", {"text": "hi"}, "voice", [Text("hi\n", "voice"), Text("hi\n")]),
        *[("say", {key: "hi"}, "tts", [Text("hi\n")]) for key in ("content", "message", "body", "spoken")],
        *[("show", {key: "*hi*"}, "tts", [Text("*hi*", "ui")]) for key in ("content", "markdown", "text", "body")],
        *[
            ("perform_motion", {key: "wave"}, "tts", [Json({"kind": "motion_intent", "prompt": "wave"})])
            for key in ("prompt", "description", "action")
        ],
        ("say", {"text": "first", "body": "second"}, "tts", [Text("first\n")]),
        ("say", {"text": ""}, "tts", []),
        ("say", {"text": 3}, "tts", []),
        ("say", {}, "tts", []),
        ("wave", {"n": 2}, "tts", [Json({"kind": "tool_call", "id": "call_0", "name": "wave", "arguments": {"n": 2}})]),
    ],
)
def test_effects(name: str, arguments: dict[str, Any], channel: str, expected: list[Any]):
    assert effects(ToolCall("call_0", name, json.dumps(arguments)), arguments, channel) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("say", '{"text": "hi"}', {"text": "hi"}),
        ("say", '"hi"', {"text": "hi"}),
        ("say", "hi there", {"text": "hi there"}),
        ("show", '"hi"', {"content": "hi"}),
        ("say", "", {}),
        ("wave", '"hi"', {}),
        ("wave", "{", {}),
        ("say", "[1]", {}),
        ("say", "3", {}),
        ("fly", '{"a": 1}', {"a": 1}),
        ("fly", "[" * 500, {}),
    ],
)
def test_arguments(name: str, arguments: str, expected: dict[str, Any]):
    assert arguments_of(ToolCall("call_0", name, arguments), Toolbox([WAVE]).get(name)) == expected
