"""Messages of a conversation and the pieces that a reply arrives in, in the OpenAI API's terms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InvalidArgumentError

Role = Literal["system", "developer", "user", "assistant", "tool"]
"""The roles that the OpenAI API has; templates of some models read others."""

Content = str | Sequence[Mapping[str, Any]]
"""Text, or parts such as `{"type": "text", "text": "..."}`."""


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        id: What the result refers to with `tool_call_id`.
        name: Name of the tool.
        arguments: JSON text of the arguments, as the model wrote it: it may be cut off or wrong.
    """

    id: str
    name: str
    arguments: str = "{}"

    @property
    def parsed(self) -> dict[str, Any] | None:
        """The arguments, or None when the text is not a JSON object."""
        try:
            value = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the call in the OpenAI API's form."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ToolCall:
        """Read the OpenAI API's form; arguments may be an object as well, and the id may be missing.

        Raises:
            InvalidArgumentError: It has another form.
        """
        given: Any = data
        function = given.get("function") if isinstance(given, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidArgumentError(
                f"the tool call {data!r} names no function", hint='give {"function": {"name": ..., "arguments": ...}}'
            )
        arguments = function.get("arguments", "{}")
        if not isinstance(arguments, str):
            try:
                arguments = json.dumps(arguments, ensure_ascii=False)
            except (TypeError, ValueError, RecursionError) as exc:
                raise InvalidArgumentError(f"the arguments of a tool call are no JSON: {exc}") from exc
        return cls(str(data.get("id") or ""), function["name"], arguments)


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        content: The text, or a sequence of parts; None where an assistant only calls tools.
        reasoning_content: What the model thought before it answered.
        tool_calls: What an assistant calls.
        tool_call_id: Which call a tool's message answers.
        name: Name of the tool that answers, for templates that want it.
    """

    role: str
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        role: Any = self.role
        if not isinstance(role, str) or not role:
            raise InvalidArgumentError(
                f"a message with the role {self.role!r}", hint="use system, developer, user, assistant or tool"
            )
        for field in ("reasoning_content", "tool_call_id", "name"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, str):
                raise InvalidArgumentError(f"the {field} of a message is a {type(value).__name__}", hint="give a str")
        content: Any = self.content
        parts = isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content)
        if not (content is None or isinstance(content, str) or parts):
            raise InvalidArgumentError(
                f"the content of a message is a {type(content).__name__}",
                hint='give a str, or a list of parts like {"type": "text", "text": "..."}',
            )
        given: Sequence[Any] = self.tool_calls
        calls = tuple(call if isinstance(call, ToolCall) else ToolCall.from_dict(call) for call in given)
        object.__setattr__(self, "tool_calls", calls)

    @property
    def text(self) -> str:
        """The content as text: parts of type "text" joined, an empty string for None."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(str(part.get("text", "")) for part in self.content if part.get("type") == "text")

    def to_dict(self) -> dict[str, Any]:
        """Return the message in the OpenAI API's form, without what is not there."""
        content = self.content if self.content is None or isinstance(self.content, str) else list(self.content)
        found: dict[str, Any] = {"role": self.role, "content": content}
        if self.reasoning_content:
            found["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            found["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            found["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            found["name"] = self.name
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChatMessage:
        """Read the OpenAI API's form. Keys that are None are left out.

        Raises:
            InvalidArgumentError: A key is unknown, or a value has the wrong type.
        """
        if not isinstance(data, Mapping):
            raise InvalidArgumentError(f"a message is a {type(data).__name__}", hint="give a dict or a ChatMessage")
        given = {key: value for key, value in data.items() if value is not None}
        known = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
        unknown = [key for key in given if key not in known]
        if unknown:
            raise InvalidArgumentError(f"a message has no {unknown[0]!r}", hint="it has " + ", ".join(known))
        given.setdefault("role", "")
        calls = given.get("tool_calls", ())
        if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
            raise InvalidArgumentError("tool_calls is no list", hint="give a list of calls")
        given["tool_calls"] = tuple(calls)
        return cls(**given)


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a call.

    Attributes:
        index: Number of the call in the reply, from 0.
        id: On the first piece of the call.
        name: On the first piece of the call.
        arguments: More of the JSON text of its arguments.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the piece in the OpenAI API's form."""
        function: dict[str, Any] = {"arguments": self.arguments}
        if self.name is None:
            return {"index": self.index, "function": function}
        return {"index": self.index, "id": self.id, "type": "function", "function": {"name": self.name, **function}}


@dataclass(frozen=True)
class Delta:
    """A piece of a reply; a field is None, or empty, where nothing is new.

    Attributes:
        role: On the first piece.
        content: More of the answer.
        reasoning_content: More of the thoughts.
        tool_calls: More of the calls.
    """

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the piece in the OpenAI API's form."""
        found: dict[str, Any] = {}
        if self.role is not None:
            found["role"] = self.role
        if self.reasoning_content is not None:
            found["reasoning_content"] = self.reasoning_content
        if self.content is not None:
            found["content"] = self.content
        if self.tool_calls:
            found["tool_calls"] = [piece.to_dict() for piece in self.tool_calls]
        return found


MessageLike = ChatMessage | Mapping[str, Any]
"""A message as an object, or as a dict in the OpenAI API's form (which may carry what else its template reads)."""


def message_dict(message: MessageLike) -> dict[str, Any]:
    """Return a message as a dict of its own.

    Raises:
        InvalidArgumentError: It is no message, or it has no role.
    """
    if isinstance(message, ChatMessage):
        return message.to_dict()
    if not isinstance(message, Mapping):
        raise InvalidArgumentError(f"a message is a {type(message).__name__}", hint="give a dict or a ChatMessage")
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise InvalidArgumentError(f"the message {str(dict(message))[:80]} has no role", hint='give it a "role"')
    return dict(message)
