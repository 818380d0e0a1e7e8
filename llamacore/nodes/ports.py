"""What a node is given: the text of an envelope, and envelopes that go to a port beside the data."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgumentError
from .data import ControlMessage, Data, Json, Text

AUX_PORT = "__aux_port__"
"""The key that makes of a Json envelope one for a port."""

BARGE_IN = "barge_in"
"""The port of interruptions, which every node has."""


def aux(port: str, payload: Mapping[str, Any] | str | bytes | None = None) -> Json:
    """Make the envelope for a port: `context`, `system_prompt`, `reset`, `barge_in`, `set_active_tools`, ...

    Args:
        port: Name of the port.
        payload: An object; a text becomes `{"text": ...}`, bytes become `{"binary_b64": ...}`.

    Raises:
        InvalidArgumentError: The name is empty, or the payload is none of these.
    """
    if not port:
        raise InvalidArgumentError("a port without a name", hint='such as "context"')
    if isinstance(payload, str):
        payload = {"text": payload}
    elif isinstance(payload, bytes):
        payload = {"binary_b64": base64.b64encode(payload).decode()}
    elif payload is not None and not isinstance(payload, Mapping):
        raise InvalidArgumentError(f"the payload is a {type(payload).__name__}", hint="give an object, text or bytes")
    return Json({AUX_PORT: port, "payload": dict(payload or {})})


def read_aux(data: Data) -> tuple[str, dict[str, Any]] | None:
    """Return the port and the payload of an envelope for a port; None for any other envelope."""
    if not isinstance(data, Json) or not isinstance(data.value, dict) or not isinstance(data.value.get(AUX_PORT), str):
        return None
    payload = data.value.get("payload")
    return data.value[AUX_PORT], payload if isinstance(payload, dict) else {"text": payload} if payload else {}


def is_cancel(data: Data) -> bool:
    """Whether an envelope asks for what runs to be cancelled."""
    found = read_aux(data)
    if found is not None:
        return found[0] == BARGE_IN
    return isinstance(data, ControlMessage) and data.message_type == "CancelSpeculation"


def text_of(data: Data, keys: tuple[str, ...] = ("prompt", "text")) -> str:
    """Return the text that a node works on.

    Args:
        data: Text, or JSON.
        keys: Where JSON has it, the first one that is a text; with none of them all of the JSON is the text.

    Raises:
        InvalidArgumentError: It is another kind of envelope, or empty.
    """
    if isinstance(data, Text):
        text = data.text
    elif isinstance(data, Json):
        value = data.value if isinstance(data.value, dict) else {}
        text = next((value[key] for key in keys if isinstance(value.get(key), str)), data.as_text)
    else:
        raise InvalidArgumentError(f"the node accepts Text or Json, got {getattr(data, 'data_type', type(data))}")
    if not text:
        raise InvalidArgumentError("the text is empty", hint="give at least one character")
    return text
