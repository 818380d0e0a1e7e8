"""What a node knows of a session: its system prompt, facts about it, and what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..chat.conversation import turns
from ..chat.message import ChatMessage, MessageLike

ROLLBACK_SECONDS = 3.0
"""A turn that is interrupted earlier than this counts as not said."""


@dataclass(eq=False)
class NodeConversation:
    """The conversation of one session. Used from one event loop.

    Attributes:
        system_prompt: What it begins with.
        history_turns: Earlier turns of the user that prompts have; None for all.
        context: Facts that belong to the system message.
        messages: What was said, oldest first, without the system message.
    """

    system_prompt: str | None = None
    history_turns: int | None = None
    context: str = ""
    messages: list[ChatMessage] = field(default_factory=list)
    _resets: int = 0
    _last_turn: int | None = None  # where the last turn begins, until it is settled

    @property
    def system_message(self) -> ChatMessage | None:
        """The system prompt, with the facts in a line of their own; the facts alone where there is none."""
        parts = [self.system_prompt or "", self.context]
        if all(parts):
            parts[1] = f"Context: {self.context}"
        text = "\n".join(filter(None, parts))
        return ChatMessage("system", text) if text else None

    def set_context(self, text: str) -> None:
        """Replace the facts; an empty text takes them away."""
        self.context = text

    def reset_history(self) -> None:
        """Forget what was said. The system prompt and the facts stay; a turn that runs now is not remembered."""
        self.messages.clear()
        self._resets += 1
        self._last_turn = None

    def prompt(self, new: Sequence[ChatMessage]) -> list[MessageLike]:
        """Return the messages for the next answer: those of the history's last turns, and the new ones."""
        history: list[MessageLike] = list(self.messages)
        if self.history_turns is not None:
            _, parts = turns(history)
            kept = parts[len(parts) - self.history_turns :] if self.history_turns < len(parts) else parts
            history = [message for part in kept for message in part]
        system = self.system_message
        return [*([system] if system else []), *history, *new]

    def begin_turn(self) -> int:
        """Return what `end_turn` wants to see."""
        return self._resets

    def end_turn(self, began: int, messages: Sequence[ChatMessage], *, interrupted: bool, elapsed: float) -> bool:
        """Remember a turn, unless it was empty, rolled back, or the history was reset since; whether it was.

        Args:
            began: From `begin_turn`.
            messages: What the user said, and the answers, calls and results after it.
            interrupted: Whether it was cut off.
            elapsed: Seconds that it took.
        """
        answered = any(message.text or message.tool_calls for message in messages if message.role == "assistant")
        if not answered or began != self._resets:
            return False
        if _rolls_back(interrupted, elapsed):
            self._last_turn = None  # settled: nothing of an earlier turn may be taken back for it
            return False
        self._last_turn = len(self.messages)
        self.messages += messages
        return True

    def finalize_turn(self, *, interrupted: bool, elapsed: float) -> bool:
        """Settle the last turn, once it was heard: one that was interrupted early is taken back; whether it was.

        Args:
            interrupted: Whether the user cut it off.
            elapsed: Seconds after which.
        """
        start, self._last_turn = self._last_turn, None
        if start is None or not _rolls_back(interrupted, elapsed):
            return False
        del self.messages[start:]
        return True


def _rolls_back(interrupted: bool, elapsed: float) -> bool:
    return interrupted and elapsed < ROLLBACK_SECONDS
