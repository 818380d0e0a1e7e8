"""Conversations: a history that can be edited, forked, kept in a file and held to a budget of tokens."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import ContextFullError, InvalidArgumentError
from ..params import StrPath
from . import json_text
from .message import ChatMessage, Content, MessageLike

if TYPE_CHECKING:
    from typing_extensions import Self

VERSION = 1
"""Of the form in which conversations are kept in files."""

Count = Callable[[Sequence[MessageLike]], int]
"""Tokens of the prompt that messages make."""

Strategy = Literal["drop_oldest", "error"] | Callable[[Sequence[MessageLike], Count, int], Sequence[MessageLike]]
"""What to do when messages make more tokens than the budget has: drop the oldest turns, raise, or a function of the
messages, of what counts their tokens, and of the budget, which returns the messages to use."""

_SYSTEM = ("system", "developer")


class Chatting(Protocol):
    """What a conversation can be held with: `Llama`, or anything that has the same methods."""

    def chat(self, messages: Any, **options: Any) -> Any: ...  # noqa: D102
    def stream_chat(self, messages: Any, **options: Any) -> Any: ...  # noqa: D102
    async def achat(self, messages: Any, **options: Any) -> Any: ...  # noqa: D102


class Conversation:
    """A conversation with its history.

    Args:
        messages: What was said so far.
        system: A system message to begin with.
        budget: Most tokens that its prompt may have; None for what the context has room for.
        strategy: What to do when they are more: "drop_oldest" leaves out the oldest turns of the prompt (a turn is a
            user's message with all that follows it, so that no call is parted from its results; system messages and
            the last turn stay), "error" raises; or a function. The history itself keeps everything.

    Raises:
        InvalidArgumentError: A message is none, or an option is wrong.
    """

    def __init__(
        self,
        messages: Sequence[MessageLike] = (),
        *,
        system: str | None = None,
        budget: int | None = None,
        strategy: Strategy = "drop_oldest",
    ) -> None:
        if budget is not None and (type(budget) is not int or budget <= 0):
            raise InvalidArgumentError(f"budget={budget!r}", hint="give a number of tokens above 0, or None")
        check_strategy(strategy)
        if isinstance(messages, (str, Mapping)):
            raise InvalidArgumentError(f"messages is a {type(messages).__name__}", hint="give a list of messages")
        self._messages = [message_of(message) for message in messages]
        if system is not None:
            self._messages.insert(0, ChatMessage("system", system))
        self.budget = budget
        self.strategy: Strategy = strategy

    # the history

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """All messages, oldest first."""
        return tuple(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[ChatMessage]:
        return iter(self.messages)

    def __getitem__(self, index: int) -> ChatMessage:
        return self._messages[self._checked(index)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Conversation) and self.messages == other.messages

    __hash__ = None  # type: ignore[assignment]  # it changes

    def append(self, message: MessageLike | str) -> ChatMessage:
        """Add a message at the end; a text is the user's.

        Raises:
            InvalidArgumentError: It is no message, or a tool's message that answers no open call.
        """
        added = ChatMessage("user", message) if isinstance(message, str) else message_of(message)
        if added.role == "tool" and added.tool_call_id is not None:
            calls = {call.id for earlier in self._messages for call in earlier.tool_calls}
            if added.tool_call_id not in calls:
                raise InvalidArgumentError(
                    f"the message answers the call {added.tool_call_id!r}, which nobody made",
                    hint="append the assistant's message with the call first",
                )
        self._messages.append(added)
        return added

    def extend(self, messages: Sequence[MessageLike | str]) -> None:
        """Add messages at the end: all of them, or none when one is refused."""
        before = len(self._messages)
        try:
            for message in messages:
                self.append(message)
        except BaseException:
            del self._messages[before:]
            raise

    def edit(self, index: int, message: MessageLike | Content) -> ChatMessage:
        """Replace a message; a text (or a list of parts) replaces its content only.

        Raises:
            InvalidArgumentError: There is no such message, or the new one is none.
        """
        import dataclasses

        number = self._checked(index)
        if isinstance(message, (ChatMessage, Mapping)):
            changed = message_of(message)
        else:
            changed = dataclasses.replace(self._messages[number], content=message)
        self._messages[number] = changed
        return changed

    def truncate(self, length: int) -> list[ChatMessage]:
        """Keep the first messages only, and return the others.

        Raises:
            InvalidArgumentError: There are fewer messages.
        """
        if not 0 <= length <= len(self._messages):
            raise InvalidArgumentError(
                f"there are {len(self._messages)} messages, not {length}", hint="give how many to keep"
            )
        rest = self._messages[length:]
        del self._messages[length:]
        return rest

    def fork(self, length: int | None = None) -> Conversation:
        """Return a copy that goes its own way, of the first `length` messages or of all."""
        copy = Conversation(self._messages, budget=self.budget, strategy=self.strategy)
        if length is not None:
            copy.truncate(length)
        return copy

    def _checked(self, index: int) -> int:
        if not -len(self._messages) <= index < len(self._messages):
            raise InvalidArgumentError(f"there is no message {index}", hint=f"there are {len(self._messages)}")
        return index % len(self._messages)

    # files

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data for JSON; a strategy that is a function is left out."""
        return {
            "version": VERSION,
            "budget": self.budget,
            "strategy": self.strategy if isinstance(self.strategy, str) else None,
            "messages": [message.to_dict() for message in self._messages],
        }

    @classmethod
    def from_dict(cls, data: Any, *, strategy: Strategy | None = None) -> Self:
        """Make a conversation of what `to_dict` returned.

        Args:
            data: The data.
            strategy: Used instead of the one in the data.

        Raises:
            InvalidArgumentError: It is something else, or of a later version.
        """
        listed = data.get("messages") if isinstance(data, Mapping) else None
        if not isinstance(listed, list):
            raise InvalidArgumentError("this is no conversation", hint="give what Conversation.to_dict returns")
        if data.get("version") != VERSION:
            raise InvalidArgumentError(
                f"a conversation of version {data.get('version')!r}", hint=f"this package reads version {VERSION}"
            )
        return cls(listed, budget=data.get("budget"), strategy=strategy or data.get("strategy") or "drop_oldest")

    def save(self, path: StrPath) -> None:
        """Write it to a file as JSON. The file is whole or what it was before.

        Raises:
            OSError: The file cannot be written.
            InvalidArgumentError: A message has what JSON has not.
        """
        target = Path(path)
        try:
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
            raw = text.encode()
        except (TypeError, ValueError) as exc:
            raise InvalidArgumentError(f"the conversation cannot be written as JSON: {exc}") from exc
        number, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: StrPath, *, strategy: Strategy | None = None) -> Self:
        """Read what `save` wrote.

        Raises:
            OSError: The file cannot be read.
            InvalidArgumentError: It holds no conversation.
        """
        try:
            data = json_text.loads(Path(path).read_bytes().decode())
        except ValueError as exc:
            raise InvalidArgumentError(f"{os.fspath(path)} is no conversation: {exc}") from None
        return cls.from_dict(data, strategy=strategy)

    # talking

    def chat(self, llm: Chatting, text: MessageLike | str | None = None, **options: Any) -> Any:
        """Say something, and add it and the answer (with the calls and results between them) to the history.

        Args:
            llm: Whom to talk to.
            text: What the user says, or a message; None to have the history answered as it is.
            **options: As for `Llama.chat`.

        Returns:
            The reply. When it fails, the history is what it was before.
        """
        with _Attempt(self, text):
            return llm.chat(self, **options)

    def stream(self, llm: Chatting, text: MessageLike | str | None = None, **options: Any) -> Any:
        """Say something, and return the answer as it comes (`Llama.stream_chat`).

        The history has what the user said at once, and the answer when the stream has come to its end.
        """
        with _Attempt(self, text):
            return llm.stream_chat(self, **options)

    async def achat(self, llm: Chatting, text: MessageLike | str | None = None, **options: Any) -> Any:
        """As `chat`, for event loops."""
        with _Attempt(self, text):
            return await llm.achat(self, **options)

    def __repr__(self) -> str:
        return f"<Conversation of {len(self._messages)} messages>"


class _Attempt:
    """Takes back what was added when the call fails."""

    def __init__(self, conversation: Conversation, text: MessageLike | str | None) -> None:
        self.conversation = conversation
        self.text = text
        self.before = len(conversation)

    def __enter__(self) -> None:
        if self.text is not None:
            self.conversation.append(self.text)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.conversation.truncate(self.before)


def message_of(message: MessageLike) -> ChatMessage:
    """Return a message as an object."""
    return message if isinstance(message, ChatMessage) else ChatMessage.from_dict(message)


def check_strategy(strategy: Any) -> None:
    """Check that something is a strategy.

    Raises:
        InvalidArgumentError: It is not.
    """
    if strategy not in ("drop_oldest", "error") and not callable(strategy):
        raise InvalidArgumentError(f"strategy={strategy!r}", hint='give "drop_oldest", "error" or a function')


def turns(messages: Sequence[MessageLike]) -> tuple[list[MessageLike], list[list[MessageLike]]]:
    """Part messages into the system messages at their start, and turns.

    A turn is a message of the user with all that follows it up to the next one: answers, calls and their results.
    """
    start = next((i for i, message in enumerate(messages) if _role(message) not in _SYSTEM), len(messages))
    parts: list[list[MessageLike]] = []
    for message in messages[start:]:
        if _role(message) == "user" or not parts:
            parts.append([])
        parts[-1].append(message)
    return list(messages[:start]), parts


def _role(message: MessageLike) -> Any:
    return message.role if isinstance(message, ChatMessage) else message.get("role")


def fitted(
    messages: Sequence[MessageLike], count: Count, budget: int, strategy: Strategy
) -> tuple[list[MessageLike], int]:
    """Choose the messages whose prompt keeps to a budget.

    Args:
        messages: All messages.
        count: Counts the tokens of their prompt.
        budget: Most tokens.
        strategy: What to do when there are more.

    Returns:
        The messages to use, and how many were left out.

    Raises:
        ContextFullError: They do not fit, and the strategy does not help.
    """
    total = count(messages)
    if total <= budget:
        return list(messages), 0
    if callable(strategy):
        chosen = list(strategy(tuple(messages), count, budget))
        if not chosen or count(chosen) > budget:
            raise ContextFullError(
                f"what the strategy left of the conversation has {count(chosen) if chosen else 0} tokens, "
                f"where {budget} have room",
                hint="leave out more, and at least the last message in",
            )
        return chosen, len(messages) - len(chosen)
    system, parts = turns(messages)
    if strategy == "drop_oldest" and len(parts) > 1:
        low, high = 1, len(parts) - 1  # how many to drop: fewer turns never make more tokens
        while low < high:
            middle = (low + high) // 2
            if count(_joined(system, parts[middle:])) <= budget:
                high = middle
            else:
                low = middle + 1
        chosen = _joined(system, parts[low:])
        if count(chosen) <= budget:
            return chosen, len(messages) - len(chosen)
        total = count(chosen)
    left = "its last turn alone" if strategy == "drop_oldest" else "the conversation"
    raise ContextFullError(
        f"{left} has {total} tokens, where {budget} have room",
        hint='use a larger n_ctx, shorten the messages, or give a Conversation with strategy="drop_oldest"',
    )


def _joined(system: list[MessageLike], parts: list[list[MessageLike]]) -> list[MessageLike]:
    return [*system, *(message for part in parts for message in part)]
