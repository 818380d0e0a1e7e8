"""Tools of a node: what the model may call, what calling them does, and which of them are offered now."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..chat import json_text
from ..chat.message import ToolCall
from ..chat.tools import Tool
from ..errors import InvalidArgumentError
from .data import DEFAULT_CHANNEL, Data, Json, Text
from .reading import invalid

_log = logging.getLogger("llamacore.nodes")

ToolKind = Literal["side_effect", "return_value"]

UI_CHANNEL = "ui"
"""The channel of what `show` shows."""

_KEYS = {
    "say": ("text", "content", "message", "body", "spoken"),
    "show": ("content", "markdown", "text", "body"),
    "perform_motion": ("prompt", "description", "action"),
}
_CHANNELS = ("say", "show")  # those that give text
_SPEC = ("name", "description", "parameters", "kind", "cancelable")


@dataclass(frozen=True)
class NodeTool:
    """A tool of a node.

    Attributes:
        tool: Its name, parameters and function.
        kind: "side_effect": the model does not wait for it; without a function it leaves the node as an envelope.
            "return_value": its function's value goes back to the model, which goes on.
        cancelable: Whether the turn that calls it may be interrupted afterwards.
    """

    tool: Tool
    kind: ToolKind = "side_effect"
    cancelable: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("side_effect", "return_value"):
            raise invalid(
                f"the kind of the tool {self.tool.name} is {self.kind!r}", 'use "side_effect" or "return_value"'
            )
        if type(self.cancelable) is not bool:
            raise invalid(f"cancelable of the tool {self.name} is {self.cancelable!r}", "give true or false")

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.tool.name

    @property
    def is_run(self) -> bool:
        """Whether a call runs a function, once the model has ended; else it leaves the node as an envelope at once."""
        return self.tool.function is not None or self.kind == "return_value"

    @classmethod
    def of(cls, given: Any, *, kind: ToolKind | None = None, cancelable: bool | None = None) -> NodeTool:
        """Make one of a specification, in the form of the parameters or of the OpenAI API, or of a Python function.

        Args:
            given: The specification, a function, a `Tool`, or a `NodeTool`.
            kind: None for what the specification says; that of a function is "return_value".
            cancelable: None for what the specification says, else True.

        Raises:
            InvalidArgumentError: It is none of these.
        """
        try:
            if isinstance(given, NodeTool):
                made = given
            elif isinstance(given, Mapping):
                inner = _specification(given)
                made = cls(
                    Tool.from_dict({key: inner.get(key) for key in _SPEC[:3]}),
                    inner.get("kind", "side_effect"),
                    inner.get("cancelable", True),
                )
            elif isinstance(given, Tool) or (callable(given) and not isinstance(given, type)):
                tool = given if isinstance(given, Tool) else Tool.from_function(given)
                made = cls(tool, "side_effect" if tool.function is None else "return_value")
            else:
                raise InvalidArgumentError(f"{given!r:.80} is no tool", hint="give its specification, or a function")
        except InvalidArgumentError as exc:
            raise invalid(exc.message.removeprefix("Invalid config: "), exc.hint) from None
        changes = {"kind": kind, "cancelable": cancelable}
        return replace(made, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def _specification(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a tool from either form."""
    inner = given
    if given.get("type") == "function" and isinstance(given.get("function"), Mapping):
        inner = {**{key: value for key, value in given.items() if key not in ("type", "function")}, **given["function"]}
    if not isinstance(inner.get("name"), str):
        raise InvalidArgumentError(f"the tool {str(dict(given))[:80]} has no name")
    return inner


def _texts_only(name: str, description: str, key: str) -> Tool:
    schema = {"type": "object", "properties": {key: {"type": "string", "minLength": 1}}, "required": [key]}
    return Tool(name, description, schema)


BUILT_IN: Mapping[str, NodeTool] = {
    "say": NodeTool(_texts_only("say", "Say something aloud to the user.", "text")),
    "show": NodeTool(_texts_only("show", "Show the user something, written in Markdown.", "content")),
    "perform_motion": NodeTool(
        _texts_only("perform_motion", "Move the body as described.", "prompt"), cancelable=False
    ),
}
"""The tools that every node knows. `perform_motion` is offered only when it is asked for by its name."""


class Toolbox:
    """The tools of a node or of a session.

    Args:
        tools: Specifications, functions, or names of tools that the node knows.
        active: Names of the tools that are offered; None for all.

    Raises:
        InvalidArgumentError: Something is no tool.
    """

    def __init__(self, tools: Iterable[Any] = (), active: Iterable[str] | None = None) -> None:
        self._tools: dict[str, NodeTool] = dict(BUILT_IN)
        self._off = {"perform_motion"}
        self._active: set[str] | None = None
        self.warnings: list[str] = []
        """What of the specifications is unknown, a sentence each."""
        for tool in tools:
            if isinstance(tool, str):
                if not self.enable(tool):
                    raise invalid(f"there is no tool {tool!r}", "known by name are " + ", ".join(BUILT_IN))
            else:
                self.register(tool)
        if active is not None:
            self.set_active(active)

    def copy(self) -> Toolbox:
        """Return a toolbox that goes its own way."""
        other = Toolbox()
        other._tools, other._off = dict(self._tools), set(self._off)
        other._active = None if self._active is None else set(self._active)
        return other

    def get(self, name: str) -> NodeTool | None:
        """The tool of a name, offered or not."""
        return self._tools.get(name)

    @property
    def offered(self) -> list[NodeTool]:
        """The tools that the model is told of: `say`, `show`, then the others."""
        active = self._tools if self._active is None else self._active
        return [tool for name, tool in self._tools.items() if name in active and name not in self._off]

    @property
    def streamed(self) -> dict[str, tuple[str, ...]]:
        """The offered tools whose text can be given while it is written, with the arguments that may be it."""
        return {tool.name: _KEYS[tool.name] for tool in self.offered if tool.name in _CHANNELS and not tool.is_run}

    def register(self, tool: Any, *, kind: ToolKind | None = None, cancelable: bool | None = None) -> NodeTool:
        """Add a tool, in the place of one of the same name, and offer it; see `NodeTool.of`."""
        made = NodeTool.of(tool, kind=kind, cancelable=cancelable)
        if isinstance(tool, Mapping):
            unknown = [key for key in _specification(tool) if key not in _SPEC]
            self.warnings += [f"tools.{made.name}.{key} is unknown and not used" for key in unknown]
        self._tools[made.name] = made
        self.enable(made.name)
        return made

    def enable(self, name: str) -> bool:
        """Offer a tool again; whether there is one of this name."""
        if not self._known(name):
            return False
        self._off.discard(name)
        if self._active is not None:
            self._active.add(name)
        return True

    def disable(self, name: str) -> bool:
        """Offer a tool no more; whether there is one of this name."""
        if not self._known(name):
            return False
        self._off.add(name)
        return True

    def set_active(self, names: Iterable[str] | None) -> bool:
        """Offer these tools and no others, None for all; whether there is one for each name."""
        listed = list(self._tools) if names is None else list(names)
        known = [name for name in listed if self._known(name)]
        self._active = None if names is None else set(known)
        self._off = {"perform_motion"} - set(known if names is not None else ())
        return len(known) == len(listed)

    def _known(self, name: str) -> bool:
        if name not in self._tools:
            _log.warning("there is no tool %r; there are %s", name, ", ".join(self._tools))
        return name in self._tools


def arguments_of(call: ToolCall, tool: NodeTool | None) -> dict[str, Any]:
    """Read the arguments of a call. A bare text stands for the tool's only text; what cannot be read, for nothing."""
    try:
        value = json_text.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        value = call.arguments
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and tool is not None:
        texts = [key for key, kind in tool.tool.parameters.get("properties", {}).items() if _is_text(kind)]
        if len(texts) == 1:
            return {texts[0]: value}
    _log.warning("the arguments of the call of %r are no object: %.80s", call.name, call.arguments)
    return {}


def _is_text(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "string"


def spoken(name: str, text: str, channel: str) -> list[Data]:
    """Return the envelopes for text of `say` or `show`.

    Args:
        name: Name of the tool.
        text: All of the text, or a piece.
        channel: The node's channel for text.
    """
    if not text:
        return []
    return [Text(text, to) for to in ([UI_CHANNEL] if name == "show" else dict.fromkeys((channel, DEFAULT_CHANNEL)))]


def effects(call: ToolCall, arguments: Mapping[str, Any], channel: str, given: str = "") -> list[Data]:
    """Return the envelopes that a call of a tool without a function leaves the node as.

    Args:
        call: The call.
        arguments: Its arguments.
        channel: The node's channel for text.
        given: What of its text was given already.
    """
    if call.name not in _KEYS:
        return [Json({"kind": "tool_call", "id": call.id, "name": call.name, "arguments": dict(arguments)})]
    text = next((arguments[key] for key in _KEYS[call.name] if isinstance(arguments.get(key), str)), "")
    if not text:
        _log.warning("the call of %s has no text: %.80s", call.name, call.arguments)
        return []
    if call.name == "perform_motion":
        return [Json({"kind": "motion_intent", "prompt": text})]
    if call.name == "say" and not text.endswith("\n"):
        text += "\n"
    return spoken(call.name, text[len(given) :], channel)
