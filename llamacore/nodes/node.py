"""What a node is: something with parameters that takes envelopes and gives envelopes, for many sessions at a time."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from ..chat import json_text
from ..errors import InvalidArgumentError
from .data import Data, Json
from .gate import CancelGate

NodeStatus = Literal["idle", "initializing", "ready", "processing", "error", "stopping", "stopped"]
Output = Data | list[Data] | None

_State = TypeVar("_State")


@dataclass(frozen=True)
class NodeConfig:
    """What a node is made of.

    Attributes:
        node_id: What it is called in a pipeline.
        node_type: The name its class is registered under.
        params: Its parameters.
        session_id: The session it serves, where it serves only one.
        log_level: What of its messages is logged.
    """

    node_id: str = ""
    node_type: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    session_id: str | None = None
    log_level: str | None = None

    @classmethod
    def of(cls, given: NodeConfig | Mapping[str, Any] | str | None) -> NodeConfig:
        """Make one of whatever a node can be constructed with.

        Args:
            given: A config; its parameters as a mapping or as JSON text; a mapping of the fields of a config (one with
                "params"); None or an empty text for no parameters.

        Raises:
            InvalidArgumentError: It is none of these.
        """
        if isinstance(given, NodeConfig):
            return given
        if isinstance(given, str):
            try:
                given = json_text.loads(given) if given.strip() else None
            except ValueError as exc:
                raise InvalidArgumentError(f"Invalid config JSON: {exc}", hint="give a JSON object") from None
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise InvalidArgumentError(f"Invalid config: it is a {type(given).__name__}", hint="give an object")
        if "params" not in given:
            return cls(params=dict(given))
        unknown = given.keys() - {known.name for known in dataclasses.fields(cls)}
        if unknown:
            raise InvalidArgumentError(f"Invalid config: a node config has no {sorted(unknown)[0]!r}")
        if not isinstance(given["params"] or {}, Mapping):
            raise InvalidArgumentError("Invalid config: params is no object")
        return cls(**{**given, "params": dict(given["params"] or {})})


@dataclass(frozen=True)
class Progress:
    """News of a node.

    Attributes:
        status: Such as "loading_model", "ready" or "error".
        message: In words.
        node: The node's id.
        session_id: The session it is about, None for all.
        ts_ms: Milliseconds since 1970.
    """

    status: str
    message: str
    node: str
    session_id: str | None
    ts_ms: int

    def to_json(self) -> Json:
        """Return it as the envelope that pipelines send."""
        value = {"kind": "loading", "status": self.status, "message": self.message, "ts_ms": self.ts_ms}
        return Json({**value, "node": self.node} if self.node else value)


@dataclass(frozen=True)
class NodeContext:
    """Where a node runs.

    Attributes:
        node_id: What it is called there.
        session_id: The session it serves, where it serves only one.
        on_progress: Called with its news, in the event loop.
    """

    node_id: str = ""
    session_id: str | None = None
    on_progress: Callable[[Progress], Any] | None = None

    def emit_progress(self, status: str, message: str = "", session_id: str | None = None) -> None:
        """Tell what the node is doing."""
        if self.on_progress is not None:
            now = int(time.time() * 1000)
            self.on_progress(Progress(status, message, self.node_id, session_id or self.session_id, now))


class Node:
    """A node. Subclasses say what `process` does; `register_node` gives them the name that pipelines know them by.

    Args:
        config: Its parameters as a mapping or JSON text, a `NodeConfig`, or None.

    Attributes:
        node_type: The name its class is registered under.
        config: What it was made of.
        params: Its parameters: an instance of `params_type` where the class has one, else a mapping.
        warnings: What of its parameters was not understood, one sentence each.
        status: What it is doing.
        context: Where it runs; the empty one until `initialize`.

    Raises:
        InvalidArgumentError: The parameters are wrong.
    """

    node_type: ClassVar[str] = ""
    params_type: ClassVar[Any] = None
    """A class with `read(params) -> (instance, warnings)`."""

    def __init__(self, config: NodeConfig | Mapping[str, Any] | str | None = None) -> None:
        given = NodeConfig.of(config)
        self.config = given if given.node_type else dataclasses.replace(given, node_type=self.node_type)
        self.warnings: list[str] = []
        self.params: Any = dict(self.config.params)
        if self.params_type is not None:
            self.params, self.warnings = self.params_type.read(self.config.params)
        self.status: NodeStatus = "idle"
        self.context = NodeContext(self.config.node_id, self.config.session_id)
        self._gates: dict[str, CancelGate] = {}
        self._states: dict[str, Any] = {}

    # its life

    async def initialize(self, context: NodeContext | None = None) -> None:
        """Get ready: load what takes time. Called once, before anything is processed."""
        if context is not None:
            self.context = context
        self.status = "ready"

    async def cleanup(self) -> None:
        """Give everything back. Called once, at the end; calling it again does nothing."""
        for gate in self._gates.values():
            gate.cancel_force()
        self._gates.clear()
        self._states.clear()
        self.status = "stopped"

    # its work

    async def process(self, data: Data) -> Output:
        """Take an envelope, and give one, several, or none. May be an async generator as well."""
        raise NotImplementedError(f"{type(self).__name__} does not say what process() does")

    async def stream(self, data: Data, session_id: str | None = None) -> AsyncIterator[Data]:
        """Take an envelope of a session, and give what comes of it as it comes; without a session it stands alone."""
        made: Any = self.process(data)
        if hasattr(made, "__aiter__"):
            async for envelope in made:
                yield envelope
            return
        made = await made if inspect.isawaitable(made) else made
        for envelope in made if isinstance(made, (list, tuple)) else [made]:
            if envelope is not None:
                yield envelope

    async def process_control_message(self, message: Data, session_id: str | None = None) -> bool:
        """Take something that does not wait in line behind the data; whether the node knew what to do with it.

        A node that answers True to a `barge_in` ends what it does by itself; that of any other is ended for it.
        """
        return False

    # its sessions

    def gate(self, session_id: str) -> CancelGate:
        """Return the gate of a session, always the same one until the session ends."""
        return self._gates.setdefault(session_id, CancelGate())

    def make_session_state(self, session_id: str) -> Any:
        """Make what the node keeps of a session. Called once for each."""
        return None

    def state(self, session_id: str, kind: type[_State]) -> _State:
        """Return what the node keeps of a session, always the same object until the session ends.

        Raises:
            InvalidArgumentError: It is of another type.
        """
        found = self.try_state(session_id, kind)
        if found is None:
            raise InvalidArgumentError(
                f"node {self.context.node_id or self.node_type!r} keeps a {type(self._states[session_id]).__name__} "
                f"of the session {session_id!r}, not a {kind.__name__}"
            )
        return found

    def try_state(self, session_id: str, kind: type[_State]) -> _State | None:
        """As `state`, with None where it is of another type."""
        if session_id not in self._states:
            self._states[session_id] = self.make_session_state(session_id)
        found = self._states[session_id]
        return found if isinstance(found, kind) else None

    async def end_session(self, session_id: str) -> None:
        """End what runs for a session, and forget it."""
        gate = self._gates.pop(session_id, None)
        if gate is not None:
            gate.cancel_force()
        self._states.pop(session_id, None)

    def __repr__(self) -> str:
        return f"<{self.node_type or type(self).__name__} {self.context.node_id} {self.status}>"
