"""`GenerationNode`: prompts in, text and what the model calls out, for many sessions at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from ..errors import ClosedError, OutOfRangeError
from ..llama import Llama
from .control import take
from .conversation import NodeConversation
from .data import TEXT_END, Data, Text
from .loading import LoadingNode
from .node import NodeConfig
from .params import GenerationNodeParams
from .ports import is_cancel, read_aux, text_of
from .prompting import Prompter
from .shared import Lease, lease_llama
from .tools import NodeTool, Toolbox, ToolKind
from .turn import Turn

_log = logging.getLogger("llamacore.nodes")

_ALONE = ""  # the gate of what belongs to no session
_PATIENCE = 5.0  # seconds that turns have to end in when the node is cleaned up


@dataclass(eq=False)
class GenerationSession:
    """What a node keeps of a session.

    Attributes:
        conversation: What was said.
        toolbox: What the model may call.
        turns: Held while a turn runs: the next one waits.
    """

    conversation: NodeConversation
    toolbox: Toolbox
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)


class GenerationNode(LoadingNode[Llama]):
    """Generates text with a model.

    `stream(data, session_id)` answers a prompt with `Text` envelopes as the model writes them, the last of which is the
    sentinel `<|text_end|>`: one for each turn, however it ends. A session has a history, and its turns follow one
    another; turns of different sessions run at the same time. Without a session a prompt stands alone.
    `process(data)` returns all of the text at once, without tools and without a session.

    Args:
        config: `GenerationNodeParams` as a mapping or JSON, a `NodeConfig`, or None.

    Raises:
        InvalidArgumentError: The parameters are wrong, beginning with "Invalid config".
    """

    node_type = "LlamaCppGenerationNode"
    params_type: ClassVar[Any] = GenerationNodeParams
    params: GenerationNodeParams

    def __init__(self, config: NodeConfig | Mapping[str, Any] | str | None = None) -> None:
        super().__init__(config)
        self.toolbox = Toolbox(self.params.tools, self.params.active_tools)
        """The tools that new sessions begin with, and that calls without a session use."""
        self.warnings += self.toolbox.warnings
        self.system_prompt = self.params.system_prompt
        """The system prompt that new sessions begin with, and that calls without a session use."""
        self._prompter: Prompter | None = None
        self._running: set[asyncio.Future[None]] = set()

    # its life

    def _take_lease(self) -> Lease[Llama]:
        params = self.params
        return lease_llama(
            params.model_path, params.backend, n_ctx=params.context_size, n_batch=params.batch_size,
            n_parallel=params.n_parallel, mtp=params.mtp, taps=self.needs_taps,
        )  # fmt: skip

    @property
    def needs_taps(self) -> bool:
        """Whether its engine must be one that reads and steers activations."""
        return self.params.activation_tap is not None

    def _open(self, loaded: Llama) -> None:
        tap = self.params.activation_tap
        if tap is not None and tap.layer >= loaded.model.n_layer:
            hint = f"{loaded.name} has the layers 0 to {loaded.model.n_layer - 1}"
            raise OutOfRangeError(f"activation_tap.layer={tap.layer}", hint=hint)
        self._prompter = Prompter(loaded, self.params.sampling(), self.params.max_tokens)

    def _close(self) -> None:
        self._prompter = None

    async def cleanup(self) -> None:
        """End what runs and give the model back; the last node that uses it frees it."""
        self.status = "stopping"
        for gate in self._gates.values():
            gate.cancel_force()
        running = [turn for turn in self._running if not turn.done()]
        if running:  # a turn that nobody reads does not come to its end
            await asyncio.wait(running, timeout=_PATIENCE)
        await super().cleanup()

    @property
    def llama(self) -> Llama:
        """The engine, which may be other nodes' as well.

        Raises:
            ClosedError: The node is not initialised, or cleaned up.
        """
        if self._lease is None:
            raise ClosedError(
                f"{self.node_type}: worker not running, the node is {self.status}", hint="await initialize() first"
            )
        return self._lease.value

    # its work

    async def process(self, data: Data) -> Text:
        """Answer a prompt that stands alone, and return all of the text; no tools are offered.

        Raises:
            InvalidArgumentError: The envelope is neither Text nor Json.
            ClosedError: The node is not initialised.
        """
        session = GenerationSession(self._conversation(), Toolbox(active=()))
        parts = [
            part async for part in self._turn(text_of(data), session, _ALONE, taps=False) if isinstance(part, Text)
        ]
        return Text("".join(part.text for part in parts if part.text != TEXT_END), self.params.output_channel)

    async def stream(self, data: Data, session_id: str | None = None) -> AsyncGenerator[Data, None]:
        """Answer a prompt of a session as the text comes; an envelope for a port is taken and answered with nothing.

        Raises:
            InvalidArgumentError: The envelope is neither Text nor Json.
            ClosedError: The node is not initialised.
            ContextFullError: The prompt has no room in the context.
        """
        if read_aux(data) is not None:
            await self.process_control_message(data, session_id)
            return
        text = text_of(data)
        async with contextlib.aclosing(self._turn(text, self.session(session_id), session_id or _ALONE)) as envelopes:
            async for envelope in envelopes:
                yield envelope

    async def _turn(
        self, text: str, session: GenerationSession, gate: str, *, taps: bool = True
    ) -> AsyncGenerator[Data, None]:
        self.llama  # noqa: B018 - raises where the node is not initialised
        async with session.turns:
            if self._prompter is None or self.status not in ("ready", "processing"):
                raise ClosedError(f"{self.node_type}: the node is {self.status}", hint="make a new node")
            turn = Turn(
                self._prompter, session.conversation, session.toolbox, self.gate(gate), self.params.tool_choice,
                self.params.output_channel, self.params.stream_arguments, partial(self._options, gate, taps),
            )  # fmt: skip
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._running.add(ended)
            self.status = "processing"
            try:
                async with contextlib.aclosing(turn.run(text)) as envelopes:
                    async for envelope in envelopes:
                        yield envelope
            finally:
                self._running.discard(ended)
                ended.set_result(None)
                if not self._running and self.status == "processing":
                    self.status = "ready"

    def _options(self, session_id: str, taps: bool) -> Mapping[str, Any]:
        tap = self.params.activation_tap if taps else None
        own = {"activation_layers": (tap.layer,), "activation_every": tap.every_n_tokens} if tap else {}
        return {**own, **self.generation_options(session_id)}

    def generation_options(self, session_id: str) -> Mapping[str, Any]:
        """More options for `Llama.stream`, asked for before each answer of the model; for nodes derived from this one.

        Args:
            session_id: The session, "" for none.
        """
        return {}

    async def process_control_message(self, message: Data, session_id: str | None = None) -> bool:
        """Take an interruption (`barge_in`, `CancelSpeculation`) or something for a port; see `aux`.

        The ports are `context`, `system_prompt`, `reset`, `barge_in`, `enable_tool`, `disable_tool`,
        `set_active_tools` and `register_tool`. Without a session they are about what new sessions begin with.

        Raises:
            InvalidArgumentError: The payload is not one for the port.
        """
        if is_cancel(message):
            if not self.request_cancel(session_id):
                _log.info("session %s: what runs is protected and was not interrupted", session_id)
            return True
        return take(message, self, session_id)

    # its sessions

    def make_session_state(self, session_id: str) -> GenerationSession:
        """Make a session."""
        return GenerationSession(self._conversation(), self.toolbox.copy())

    def _conversation(self) -> NodeConversation:
        return NodeConversation(self.system_prompt, self.params.history_turns)

    def session(self, session_id: str | None) -> GenerationSession:
        """Return a session; without an id a new one that nobody else gets."""
        if session_id:
            return self.state(session_id, GenerationSession)
        return self.make_session_state(_ALONE)

    def request_cancel(self, session_id: str | None = None) -> bool:
        """Interrupt the turn of a session (without one, all turns that belong to none), unless it is protected.

        Returns:
            Whether it was not protected.
        """
        return self.gate(session_id or _ALONE).try_cancel()

    def reset_history(self, session_id: str) -> None:
        """Forget what was said in a session; its system prompt and its facts stay."""
        self.session(session_id).conversation.reset_history()

    def set_context(self, session_id: str, text: str) -> None:
        """Replace the facts that a session's system message has."""
        self.session(session_id).conversation.set_context(text)

    def finalize_turn(self, session_id: str, *, interrupted: bool, elapsed: float) -> bool:
        """Settle the last turn of a session once it was heard: one that was interrupted within 3 s is taken back.

        Args:
            session_id: The session.
            interrupted: Whether the user cut it off.
            elapsed: Seconds after which.

        Returns:
            Whether it was taken back.
        """
        return self.session(session_id).conversation.finalize_turn(interrupted=interrupted, elapsed=elapsed)

    def register_tool(self, tool: Any, *, kind: ToolKind | None = None, cancelable: bool | None = None) -> NodeTool:
        """Offer a tool to sessions that begin from now on, and to calls without one; see `NodeTool.of`.

        Args:
            tool: A Python function (whose value goes back to the model), a specification, or a `Tool`.
            kind: "side_effect" or "return_value"; None for what it is by itself.
            cancelable: Whether a turn that calls it may be interrupted; None for what it is by itself.
        """
        return self.toolbox.register(tool, kind=kind, cancelable=cancelable)
