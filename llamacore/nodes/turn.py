"""One turn of a session: the model is asked, what it writes becomes envelopes, what it calls is done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..chat.loop import ToolResult, ToolRunner
from ..chat.message import ChatMessage, ToolCall
from .data import TEXT_END, Data, Tensor, Text
from .stream_filter import ToolText
from .tools import Toolbox, arguments_of, effects, spoken

if TYPE_CHECKING:
    from ..engine.generation import Generation
    from ..engine.records import Chunk
    from .conversation import NodeConversation
    from .format_reader import FormatReader
    from .gate import CancelGate, ProtectGuard
    from .prompting import Prompter, Started
    from .stream_filter import Item, StreamFilter

_log = logging.getLogger("llamacore.nodes")

MAX_TOOL_PASSES = 6
"""How often a model is asked in a turn in which it calls tools that return values."""

_FORESEEN = ""  # the guard for a call whose tool is not known yet


@dataclass(eq=False)
class Turn:
    """A turn while it runs.

    Attributes:
        prompter: Asks the model.
        conversation: What was said before; the turn is added to it.
        toolbox: What the model may call.
        gate: What interrupts it.
        tool_choice: Whether it must call.
        channel: The channel of its text.
        stream_arguments: Whether the text of `say` and `show` is given while the call is written.
        options: Returns more for `Llama.stream`, asked for before each answer of the model.
    """

    prompter: Prompter
    conversation: NodeConversation
    toolbox: Toolbox
    gate: CancelGate
    tool_choice: Any = None
    channel: str = ""
    stream_arguments: bool = False
    options: Callable[[], Mapping[str, Any]] = dict
    _cancels: int = 0
    _new: list[ChatMessage] = field(default_factory=list)
    _calls: list[ToolCall] = field(default_factory=list)
    _n_calls: int = 0
    _began: float = 0.0
    _offset_ms: float = 0.0  # when the model was asked, from the beginning of the turn
    _generation: Generation | None = None
    _guards: dict[str, ProtectGuard] = field(default_factory=dict)

    async def run(self, text: str) -> AsyncGenerator[Data, None]:
        """Answer what the user says, and end with the sentinel, whatever happens.

        Raises:
            LlamaCoreError: It failed; after the sentinel.
        """
        began, start = self.conversation.begin_turn(), time.monotonic()
        self._began, self._cancels = start, self.gate.cancels
        woken = self.gate.notified()
        woken.add_done_callback(lambda future: None if future.cancelled() else self._interrupt())
        self._new = [ChatMessage("user", text)]
        failure: Exception | None = None
        ended = False
        try:
            for _ in range(MAX_TOOL_PASSES):
                async with contextlib.aclosing(self._ask()) as envelopes:
                    async for envelope in envelopes:
                        yield envelope
                if not await self._run_calls(woken) or self.interrupted:
                    break
            else:
                _log.warning("the model still calls tools after %d passes: the turn ends", MAX_TOOL_PASSES)
            ended = True
        except Exception as exc:
            failure, ended = exc, True
        finally:
            woken.cancel()
            for guard in self._guards.values():
                guard.release()
            if self._generation is not None:
                self._generation.close()
            self.conversation.end_turn(
                began, self._new, interrupted=self.interrupted or not ended, elapsed=time.monotonic() - start
            )
        yield Text(TEXT_END)
        if failure is not None:
            raise failure

    @property
    def interrupted(self) -> bool:
        """Whether the gate was cancelled since the turn began."""
        return self.gate.cancels != self._cancels

    def _interrupt(self) -> None:
        if self._generation is not None:
            self._generation.cancel()

    # asking

    async def _ask(self) -> AsyncGenerator[Data, None]:
        """Ask the model once: give its text as it comes, and note its calls."""
        started = await asyncio.to_thread(self._start)
        self._generation = started.generation
        if self.interrupted:  # while the prompt was written
            self._generation.cancel()
        reader = started.reader
        said: list[str] = []
        cut_off = True
        self._calls = []
        try:
            async for chunk in self._generation:
                if self.interrupted:  # what is ready already is not wanted any more
                    break
                for envelope in self._tapped(chunk):
                    yield envelope
                for item in reader.push(chunk.text):
                    for envelope in self._taken(item, said):
                        yield envelope
                self._foresee(reader)
                cut_off = chunk.finish_reason != "stop"
            for item in reader.finish(cut_off=cut_off or self.interrupted):
                for envelope in self._taken(item, said):
                    yield envelope
        finally:
            content = "".join(said)
            if content or self._calls:
                self._new.append(ChatMessage("assistant", content or None, tool_calls=tuple(self._calls)))
                # every call has its answer: that of a function takes the place of this one
                self._new += [
                    ChatMessage("tool", self._first_answer(call), tool_call_id=call.id, name=call.name)
                    for call in self._calls
                ]

    def _start(self) -> Started:
        tools = [tool.tool.to_prompt() for tool in self.toolbox.offered]
        forced = self.tool_choice not in (None, "auto", "none")
        choice = "auto" if forced and self._n_calls else self.tool_choice
        self._offset_ms = (time.monotonic() - self._began) * 1000
        texts = self.toolbox.streamed if self.stream_arguments else {}
        return self.prompter.start(self.conversation.prompt(self._new), tools, choice, self.options(), texts)

    def _tapped(self, chunk: Chunk) -> list[Data]:
        """The activations that a piece of the generation brings."""
        return [
            Tensor(
                seen.values,
                metadata={
                    "kind": "activation_tap",
                    "layer": seen.layer,
                    "phase": seen.phase,
                    "token_index": seen.token_index,
                    "turn_offset_ms": int(self._offset_ms + seen.elapsed_ms),
                },
            )
            for seen in chunk.activations
        ]

    def _taken(self, item: Item, said: list[str]) -> list[Data]:
        if isinstance(item, str):
            said.append(item)
            return [Text(item, self.channel)]
        if isinstance(item, ToolText):
            return spoken(item.name, item.text, self.channel)
        tool = self.toolbox.get(item.name)
        call = ToolCall(f"call_{self._n_calls}", item.name, item.arguments)
        arguments = arguments_of(call, tool)
        call = ToolCall(call.id, call.name, json.dumps(arguments, ensure_ascii=False))
        self._n_calls += 1
        self._calls.append(call)
        self._protect(item.name)
        if tool is None or tool not in self.toolbox.offered:
            _log.warning("the model calls the tool %r, which it was not offered", item.name)
            return []
        return [] if tool.is_run else effects(call, arguments, self.channel, item.given)

    def _first_answer(self, call: ToolCall) -> str:
        offered = any(tool.name == call.name for tool in self.toolbox.offered)
        return "" if offered else f"Error: there is no tool {call.name!r}"

    # protecting

    def _foresee(self, reader: StreamFilter | FormatReader) -> None:
        """Protect the turn from the tag of a call on, as long as it may be one that must not be cancelled."""
        name = reader.open_call_name
        if name is not None:
            self._protect(name)
        elif not reader.call_is_open:
            self._unprotect(_FORESEEN)
        elif any(not tool.cancelable for tool in self.toolbox.offered):
            self._guard(_FORESEEN)

    def _protect(self, name: str) -> None:
        """Let nothing interrupt the turn any more once it calls a tool that must not be cancelled."""
        if any(tool.name == name and not tool.cancelable for tool in self.toolbox.offered):
            self._guard(name)
        self._unprotect(_FORESEEN)

    def _guard(self, name: str) -> None:
        if name not in self._guards:
            self._guards[name] = self.gate.protect()

    def _unprotect(self, name: str) -> None:
        guard = self._guards.pop(name, None)
        if guard is not None:
            guard.release()

    # calling

    async def _run_calls(self, woken: asyncio.Future[None]) -> bool:
        """Run the functions of the calls; whether the model is to go on with what they returned."""
        if self.interrupted or not self._calls:
            return False
        offered = {tool.name: tool for tool in self.toolbox.offered}
        due = [call for call in self._calls if call.name in offered and offered[call.name].is_run]
        if not due:
            return False
        runner = ToolRunner([tool.tool for tool in offered.values()])
        task = asyncio.ensure_future(runner.arun(due))
        both: list[asyncio.Future[Any]] = [task, woken]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if not task.done():
            return False  # the gate was first
        wanted = False
        for result in task.result():
            if result.error is not None:
                _log.warning("the tool %s failed: %s", result.call.name, result.error)
            if offered[result.call.name].kind == "return_value":
                self._answer(result)
                wanted = True
        return wanted

    def _answer(self, result: ToolResult) -> None:
        place = next(i for i, message in enumerate(self._new) if message.tool_call_id == result.call.id)
        self._new[place] = result.message
