"""Pipelines: the nodes of a manifest, ready to serve sessions."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BusyError, ClosedError, InvalidArgumentError, LlamaCoreError, UnsupportedError
from ..params import StrPath
from .data import Data
from .manifest import Manifest, refuse_circles
from .manifest_sources import node_params, require_sources
from .multi_input import MultiInputNode
from .node import Node, NodeConfig, NodeContext, Progress
from .node_error import NodeError
from .registry import node_class
from .session import Emitted, Session

if TYPE_CHECKING:
    from typing_extensions import Self


class Pipeline:
    """Nodes and how they are connected, as a manifest says. Used in one event loop, with `async with`.

    The nodes are made at once, which checks their parameters, and get ready when the first session opens. All sessions
    share them; each has its own queues and its own state in every node.

    Args:
        manifest: A `Manifest`, a mapping, or JSON text.
        on_progress: Called with the news of all nodes and sessions, in the event loop.
        fetch: Fetch model files that `model_sources` lists and that are missing from the Hugging Face Hub.

    Attributes:
        manifest: The manifest.
        nodes: The nodes by their ids.
        warnings: What of the manifest means nothing here, a line each.

    Raises:
        InvalidArgumentError: The manifest or a parameter is wrong; the message names the path.
        UnsupportedError: A plugin or a package cannot be imported.
        ModelNotFoundError: A model file that a node declares is missing.
    """

    def __init__(
        self,
        manifest: Manifest | Mapping[str, Any] | str,
        *,
        on_progress: Callable[[Progress], Any] | None = None,
        fetch: bool = False,
    ) -> None:
        self.manifest = manifest if isinstance(manifest, Manifest) else Manifest.parse(manifest)
        self._on_progress = on_progress
        self._sessions: dict[str, Session] = {}
        self._starting = asyncio.Lock()
        self._ready: list[Node] = []
        self._started = self._closed = False
        _import_plugins(self.manifest)
        require_sources(self.manifest, fetch=fetch)
        self.nodes = {item.id: self._make(number) for number, item in enumerate(self.manifest.nodes)}
        self.warnings = list(self.manifest.not_used)
        for number, node in enumerate(self.nodes.values()):
            self.warnings += [f"nodes[{number}].params: {text}" for text in node.warnings]
        several = {name for name, node in self.nodes.items() if isinstance(node, MultiInputNode)}
        refuse_circles(self.manifest.nodes, self.manifest.connections, several)

    @classmethod
    def load(
        cls, path: StrPath, *, on_progress: Callable[[Progress], Any] | None = None, fetch: bool = False
    ) -> Pipeline:
        """Make the pipeline of a manifest file; see `Manifest.load` for what it may be."""
        return cls(Manifest.load(path), on_progress=on_progress, fetch=fetch)

    def _make(self, number: int) -> Node:
        item = self.manifest.nodes[number]
        try:
            cls = node_class(item.node_type)
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"nodes[{number}].node_type: {exc.message}", hint=exc.hint) from exc
        params = node_params(item.params, self.manifest.folder)
        try:
            return cls(NodeConfig(node_id=item.id, node_type=item.node_type, params=params))
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(_at(f"nodes[{number}].params", exc.message, cls), hint=exc.hint) from exc
        except LlamaCoreError:
            raise
        except Exception as exc:  # a user's node: whatever its constructor raises
            raise NodeError.of(item.id, exc) from exc

    # its life

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Get all nodes ready, in the order of the manifest; once. The first session does so too.

        Raises:
            NodeError: A node failed to get ready; the others are cleaned up and the pipeline is closed.
            ClosedError: It was closed.
        """
        async with self._starting:
            if self._closed:
                raise ClosedError("this pipeline is closed", hint="make a new one")
            if self._started:
                return
            self._tell("initializing", f"{len(self.nodes)} nodes")
            for name, node in self.nodes.items():
                self._tell("loading_node", self._type(name), name)
                self._ready.append(node)
                try:  # what is ready when this is cancelled is cleaned up by close()
                    await node.initialize(NodeContext(name, on_progress=self._publish))
                except Exception as exc:  # a node may raise anything
                    error = NodeError.of(name, exc)
                    self._tell("error", error.message, name)
                    with contextlib.suppress(NodeError):  # the first failure is the one to tell
                        await self._clean_up()
                    raise error from exc
                self._tell("node_ready", self._type(name), name)
            self._started = True
            self._tell("ready", "")

    async def close(self) -> None:
        """End all sessions and give back what the nodes hold. Doing it again does nothing.

        Raises:
            NodeError: A node failed to clean up; all others were cleaned up.
        """
        for session in list(self._sessions.values()):
            await session.close()
        async with self._starting:
            await self._clean_up()

    async def _clean_up(self) -> None:
        self._closed = True
        error: NodeError | None = None
        while self._ready:
            node = self._ready.pop()
            try:
                await node.cleanup()
            except Exception as exc:  # a node may raise anything; the others are cleaned up all the same
                error = error or NodeError.of(node.config.node_id, exc)
        if error is not None:
            raise error

    # sessions

    def session(self, session_id: str | None = None) -> Session:
        """Make a session, to be opened with `async with`.

        Args:
            session_id: What the nodes know it by; None for a new name. It is forgotten when the session ends.
        """
        return Session(self, session_id)

    async def run(
        self, *inputs: Data | str | Mapping[str, Any], session_id: str | None = None
    ) -> AsyncIterator[Emitted]:
        """Send inputs in a session of their own and yield what comes of them.

        Raises:
            NodeError: A node failed.
        """
        async with self.session(session_id) as session:
            feeding = asyncio.ensure_future(_feed(session, inputs))
            try:
                async for item in session:
                    yield item
            finally:
                feeding.cancel()
                outcome = (await asyncio.gather(feeding, return_exceptions=True))[0]
            if isinstance(outcome, Exception):
                raise outcome

    def _join(self, session: Session) -> None:
        if self._closed:
            raise ClosedError("this pipeline is closed", hint="make a new one")
        if session.session_id in self._sessions:
            raise BusyError(f"the session {session.session_id!r} is open", hint="close it first, or take another name")
        self._sessions[session.session_id] = session

    def _leave(self, session: Session) -> None:
        self._sessions.pop(session.session_id, None)

    async def _end(self, session: Session) -> None:
        """Let all nodes forget a session."""
        try:
            for name, node in self.nodes.items():
                try:
                    await node.end_session(session.session_id)
                except Exception as exc:  # a node may raise anything; the others are told all the same
                    self._tell("error", NodeError.of(name, exc).message, name, session.session_id)
        finally:
            self._leave(session)

    # news

    def _tell(self, status: str, message: str, node: str = "", session_id: str | None = None) -> None:
        self._publish(Progress(status, message, node, session_id, int(time.time() * 1000)))

    def _publish(self, news: Progress) -> None:
        for session in list(self._sessions.values()):
            session._hear(news)
        if self._on_progress is not None:
            self._on_progress(news)

    def _type(self, name: str) -> str:
        return self.nodes[name].config.node_type


async def _feed(session: Session, inputs: Iterable[Data | str | Mapping[str, Any]]) -> None:
    for data in inputs:
        await session.send(data)
    await session.finish()


def _at(path: str, message: str, cls: type[Node]) -> str:
    """Put the path of the parameter that a message is about in front of it."""
    said = message.removeprefix("Invalid config: ")
    word = re.match(r"\w+", said)
    known = getattr(cls.params_type, "__dataclass_fields__", {})
    return f"{path}.{said}" if word is not None and word[0] in known else f"{path}: {said}"


def _import_plugins(manifest: Manifest) -> None:
    """Import the Python files among the plugins, so that they register their nodes."""
    for number, plugin in enumerate(manifest.plugins):
        if plugin.path is None or not plugin.path.endswith(".py"):
            continue
        file = (manifest.folder / Path(plugin.path).expanduser()).resolve()
        name = f"llamacore_plugin_{file.stem}_{abs(hash(str(file))):x}"
        if name in sys.modules:
            continue
        what = f"plugins[{number}]: {file}"
        if not file.is_file():
            raise InvalidArgumentError(f"{what} does not exist", hint="the path is relative to the manifest's folder")
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # it ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as exc:  # somebody else's module: whatever it raises
            del sys.modules[name]
            raise UnsupportedError(f"{what} cannot be imported: {type(exc).__name__}: {exc}") from exc
