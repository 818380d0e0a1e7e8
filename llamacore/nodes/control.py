"""What the ports of a `GenerationNode` do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError
from .ports import read_aux

if TYPE_CHECKING:
    from .data import Data
    from .generation import GenerationNode

PORTS = ("context", "system_prompt", "reset", "enable_tool", "disable_tool", "set_active_tools", "register_tool")


def take(message: Data, node: GenerationNode, session_id: str | None) -> bool:
    """Do what an envelope for a port asks for; whether there is such a port.

    Args:
        message: The envelope.
        node: The node.
        session_id: The session that it is about; None for what new sessions begin with.

    Raises:
        InvalidArgumentError: The payload is not one for the port.
    """
    found = read_aux(message)
    if found is None or found[0] not in PORTS:
        return False
    port, payload = found
    session = node.session(session_id) if session_id else None
    toolbox = node.toolbox if session is None else session.toolbox
    if port == "register_tool":
        toolbox.register(payload.get("spec", payload))
    elif port == "set_active_tools":
        toolbox.set_active(_names(payload))
    elif port == "enable_tool":
        toolbox.enable(_text(port, payload, "name"))
    elif port == "disable_tool":
        toolbox.disable(_text(port, payload, "name"))
    elif port == "system_prompt":
        text = _text(port, payload) or None
        if session is None:
            node.system_prompt = text
        else:
            session.conversation.system_prompt = text
    elif session is None:
        raise InvalidArgumentError(f"the port {port} without a session", hint="give a session_id")
    elif port == "context":
        session.conversation.set_context(_text(port, payload))
    else:
        session.conversation.reset_history()
    return True


def _text(port: str, payload: Mapping[str, Any], key: str = "text") -> str:
    for name in (key, "text"):
        if isinstance(payload.get(name), str):
            return str(payload[name])
    raise InvalidArgumentError(f"the port {port} got no {key}", hint=f'give {{"{key}": "..."}}')


def _names(payload: Mapping[str, Any]) -> list[str] | None:
    names = payload.get("names")
    if "names" in payload and names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidArgumentError("the port set_active_tools got no names", hint='give {"names": ["..."]}')
    return names
