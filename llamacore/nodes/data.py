"""What flows between nodes: frozen envelopes of text, JSON, tensors, bytes, files and control messages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..chat import json_text
from ..errors import InvalidArgumentError
from .tensor import Tensor as Tensor

DEFAULT_CHANNEL = "tts"
"""The channel of text that names none."""

TEXT_END = "<|text_end|>"
"""The text of the envelope that ends a turn."""

Metadata = Mapping[str, Any]

_CONTROLS = {
    "CancelSpeculation": ("from_timestamp", "to_timestamp"),
    "BatchHint": ("suggested_batch_size",),
    "DeadlineWarning": ("deadline_us",),
}


@dataclass(frozen=True)
class Text:
    """Text on a channel.

    Attributes:
        text: The text, of which a stream has many.
        channel: What it is for: "tts" (to be spoken) unless told otherwise, "ui" to be shown, or a name of your own.
        metadata: More about it.
    """

    data_type: ClassVar[str] = "text"

    text: str
    channel: str = DEFAULT_CHANNEL
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require("text", self.text, str)
        _require("channel", self.channel, str)
        if not self.channel:
            object.__setattr__(self, "channel", DEFAULT_CHANNEL)
        _require("metadata", self.metadata, Mapping)

    @property
    def is_end(self) -> bool:
        """Whether it only says that a turn has ended."""
        return self.text == TEXT_END and self.channel == DEFAULT_CHANNEL

    def to_wire(self) -> bytes:
        """Return the text as UTF-8; on another channel than "tts" after a header: 0, the channel's length, the channel.

        A channel of more than 255 bytes is cut there, between characters.
        """
        text = self.text.encode("utf-8", "replace")
        if self.channel == DEFAULT_CHANNEL:
            return text
        channel = self.channel.encode("utf-8", "replace")[:255].decode("utf-8", "ignore").encode()
        return bytes((0, len(channel))) + channel + text

    @classmethod
    def from_wire(cls, data: bytes) -> Text:
        """Read what `to_wire` wrote.

        Raises:
            InvalidArgumentError: It is no UTF-8, or its header is cut off.
        """
        channel = b""
        if data[:1] == b"\0":
            end = 2 + data[1] if len(data) > 1 else 2
            if len(data) < end:
                raise InvalidArgumentError("the channel header of a text is cut off")
            channel, data = data[2:end], data[end:]
        try:
            return cls(data.decode(), channel.decode())
        except UnicodeDecodeError as exc:
            raise InvalidArgumentError(f"a text is no UTF-8: {exc}") from None

    def _fields(self) -> dict[str, Any]:
        return {"text": self.text, "channel": self.channel}


@dataclass(frozen=True)
class Json:
    """A JSON value.

    Attributes:
        value: The value: dict, list, str, number, bool or None.
        metadata: More about it.
    """

    data_type: ClassVar[str] = "json"

    value: Any
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            json_text.dumps(self.value)
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidArgumentError(f"the value is no JSON: {exc}") from None
        _require("metadata", self.metadata, Mapping)

    @property
    def as_text(self) -> str:
        """The value as JSON text."""
        return json_text.dumps(self.value)

    def _fields(self) -> dict[str, Any]:
        return {"value": self.value}


@dataclass(frozen=True)
class Binary:
    """Bytes that no node looks into.

    Attributes:
        data: The bytes.
        metadata: More about them.
    """

    data_type: ClassVar[str] = "binary"

    data: bytes
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require("data", self.data, bytes)
        _require("metadata", self.metadata, Mapping)

    def _fields(self) -> dict[str, Any]:
        return {"data": base64.b64encode(self.data).decode()}


@dataclass(frozen=True)
class ControlMessage:
    """Something that a node is told while it works.

    Attributes:
        message_type: "CancelSpeculation", "BatchHint" or "DeadlineWarning".
        values: What belongs to it: `from_timestamp` and `to_timestamp`; `suggested_batch_size`; `deadline_us`.
        segment_id: The part of a stream that it is about.
        timestamp_ms: When it was sent.
        metadata: More about it.
    """

    data_type: ClassVar[str] = "control_message"

    message_type: str
    values: Mapping[str, int] = field(default_factory=dict)
    segment_id: str | None = None
    timestamp_ms: int = 0
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require("metadata", self.metadata, Mapping)
        _require("values", self.values, Mapping)
        if self.message_type not in _CONTROLS:
            raise InvalidArgumentError(
                f"a control message of the type {self.message_type!r}", hint="there are " + ", ".join(_CONTROLS)
            )
        wrong = [name for name in self.values if name not in _CONTROLS[self.message_type]]
        if wrong:
            raise InvalidArgumentError(f"{self.message_type} has no {wrong[0]!r}")
        for name, value in {**self.values, "timestamp_ms": self.timestamp_ms}.items():
            _require(name, value, int)

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"message_type": self.message_type, "values": dict(self.values)}
        if self.segment_id is not None:
            fields["segment_id"] = self.segment_id
        return {**fields, "timestamp_ms": self.timestamp_ms}


@dataclass(frozen=True)
class File:
    """A file, or a part of one, that is named and not sent along.

    Attributes:
        path: Where it is.
        filename: What to call it.
        mime_type: What is in it.
        size: Its bytes.
        offset: Where the part begins.
        length: Bytes of the part.
        stream_id: The stream that it belongs to.
        metadata: More about it.
    """

    data_type: ClassVar[str] = "file"

    path: str
    filename: str | None = None
    mime_type: str | None = None
    size: int | None = None
    offset: int | None = None
    length: int | None = None
    stream_id: str | None = None
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require("path", self.path, str)
        for name in ("size", "offset", "length"):
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), int)
        _require("metadata", self.metadata, Mapping)

    def _fields(self) -> dict[str, Any]:
        names = ("path", "filename", "mime_type", "size", "offset", "length", "stream_id")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


Data = Text | Json | Tensor | Binary | ControlMessage | File
"""An envelope: what nodes take and give."""

KINDS: Mapping[str, type[Any]] = {kind.data_type: kind for kind in (Text, Json, Tensor, Binary, ControlMessage, File)}
"""The kinds of envelopes by their `data_type`."""


def to_dict(data: Data) -> dict[str, Any]:
    """Return an envelope as plain data for JSON, with its `data_type`; bytes are in base64."""
    fields = {"data_type": data.data_type, **data._fields()}
    return {**fields, "metadata": dict(data.metadata)} if data.metadata else fields


def from_dict(data: Any) -> Data:
    """Make an envelope of what `to_dict` returned.

    Raises:
        InvalidArgumentError: It has no such kind, a field is unknown, missing or wrong.
    """
    kind = KINDS.get(str(data.get("data_type"))) if isinstance(data, Mapping) else None
    if kind is None:
        raise InvalidArgumentError(
            f"{str(data)[:80]!r} is no envelope", hint='it has a "data_type": ' + ", ".join(KINDS)
        )
    fields = {key: value for key, value in data.items() if key != "data_type"}
    if kind in (Tensor, Binary):
        try:
            fields["data"] = base64.b64decode(fields["data"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as exc:
            raise InvalidArgumentError(f"the data of a {kind.data_type} is no base64: {exc}") from None
    try:
        made: Data = kind(**fields)
    except TypeError as exc:
        raise InvalidArgumentError(f"a {kind.data_type} envelope: {exc}") from None
    return made


def _require(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise InvalidArgumentError(f"{name} is a {type(value).__name__}", hint=f"give a {kind.__name__}")
