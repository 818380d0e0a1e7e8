from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llamacore.chat.conversation import Conversation, fitted, turns
from llamacore.chat.message import ChatMessage, MessageLike, ToolCall
from llamacore.errors import ContextFullError, InvalidArgumentError

CALL = ToolCall("call_1", "add", '{"a": 1}')


def example() -> Conversation:
    return Conversation(
        [
            {"role": "user", "content": "one"},
            ChatMessage("assistant", None, tool_calls=(CALL,)),
            {"role": "tool", "content": "2", "tool_call_id": "call_1", "name": "add"},
            {"role": "assistant", "content": "two", "reasoning_content": "hm"},
            {"role": "user", "content": [{"type": "text", "text": "three é"}]},
            {"role": "assistant", "content": "four"},
        ],
        system="Be kind.",
        budget=500,
    )


def test_the_history() -> None:
    conversation = example()
    assert len(conversation) == 7
    assert conversation[0] == ChatMessage("system", "Be kind.")
    assert conversation[-1].text == "four"
    assert [message.role for message in conversation] == [
        "system", "user", "assistant", "tool", "assistant", "user", "assistant"
    ]  # fmt: skip
    assert conversation.append("five") == ChatMessage("user", "five")
    assert conversation.append({"role": "assistant", "content": "six"}).role == "assistant"
    assert len(conversation.messages) == 9
    assert repr(conversation) == "<Conversation of 9 messages>"


def test_editing() -> None:
    conversation = example()
    assert conversation.edit(1, "ONE") == ChatMessage("user", "ONE")
    conversation.edit(-1, ChatMessage("assistant", "FOUR"))
    conversation.edit(4, {"role": "assistant", "content": "TWO"})
    assert [conversation[i].text for i in (1, 4, 6)] == ["ONE", "TWO", "FOUR"]
    conversation.edit(2, "calling")
    assert conversation[2].tool_calls == (CALL,)
    assert [message.text for message in conversation.truncate(6)] == ["FOUR"]


def test_forks_go_their_own_way() -> None:
    conversation = example()
    fork = conversation.fork()
    assert fork == conversation
    assert (fork.budget, fork.strategy) == (500, "drop_oldest")
    fork.append("more")
    fork.edit(0, "Be brief.")
    assert conversation == example()
    assert len(conversation.fork(2)) == 2
    assert conversation != fork


@pytest.mark.parametrize("index", [7, -8, 100])
def test_no_such_message(index: int) -> None:
    with pytest.raises(InvalidArgumentError, match="no message"):
        example()[index]
    with pytest.raises(InvalidArgumentError, match="no message"):
        example().edit(index, "x")


@pytest.mark.parametrize(
    "message",
    [5, None, {"content": "x"}, {"role": "user", "text": "x"}, {"role": "user", "content": 5}, {"role": 5}],
)
def test_what_is_no_message(message: Any) -> None:
    conversation = example()
    with pytest.raises(InvalidArgumentError):
        conversation.append(message)
    with pytest.raises(InvalidArgumentError):
        conversation.extend([{"role": "user", "content": "x"}, message])
    with pytest.raises(InvalidArgumentError):
        Conversation([message])
    assert conversation == example()


def test_a_result_needs_its_call() -> None:
    conversation = example()
    conversation.append({"role": "tool", "content": "again", "tool_call_id": "call_1"})
    with pytest.raises(InvalidArgumentError, match="'call_9', which nobody made"):
        conversation.append({"role": "tool", "content": "x", "tool_call_id": "call_9"})


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 0},
        {"budget": -1},
        {"budget": 1.5},
        {"budget": True},
        {"strategy": "drop"},
        {"strategy": 5},
        {"messages": "x"},
    ],
)
def test_options_that_are_wrong(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Conversation(**options)
    with pytest.raises(InvalidArgumentError):
        example().truncate(8)


# files


def test_saving_and_loading(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    conversation = example()
    conversation.save(path)
    assert list(tmp_path.iterdir()) == [path]
    loaded = Conversation.load(path)
    assert loaded == conversation
    assert (loaded.budget, loaded.strategy) == (500, "drop_oldest")
    assert json.loads(path.read_text(encoding="utf-8"))["version"] == 1
    assert "é" in path.read_text(encoding="utf-8")
    conversation.append("more").to_dict()
    conversation.save(os.fspath(path))
    assert len(Conversation.load(path)) == 8


def test_a_strategy_that_is_a_function_is_given_again(tmp_path: Path) -> None:
    def last(messages: Sequence[MessageLike], count: Any, budget: int) -> Sequence[MessageLike]:
        return messages[-1:]

    Conversation(strategy=last).save(tmp_path / "talk.json")
    assert Conversation.load(tmp_path / "talk.json").strategy == "drop_oldest"
    assert Conversation.load(tmp_path / "talk.json", strategy=last).strategy is last


def test_a_failed_save_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    example().save(path)
    before = path.read_bytes()
    broken = example()
    broken.append(ChatMessage("user", [{"type": "text", "text": object()}]))
    with pytest.raises(InvalidArgumentError, match="JSON"):
        broken.save(path)
    lone = Conversation([ChatMessage("user", "\ud800")])
    with pytest.raises(InvalidArgumentError, match="JSON"):
        lone.save(path)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="directory"):
        example().save(tmp_path / "missing" / "talk.json")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", '{"messages": []}', '{"version": 2, "messages": []}', '{"version": 1, "messages": 5}',
     '{"version": 1, "messages": [5]}', '{"version": 1, "messages": [], "budget": -1}',
     '{"version": 1, "messages": [], "strategy": "x"}', "[" * 100_000, "\x00\xff"],
)  # fmt: skip
def test_files_that_hold_no_conversation(tmp_path: Path, text: str) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidArgumentError):
        Conversation.load(path)


# budgets: each message counts as many tokens as its text has letters, and one for itself


def count(messages: Sequence[MessageLike]) -> int:
    return sum(
        1 + len(message.text if isinstance(message, ChatMessage) else message["content"]) for message in messages
    )


def test_turns() -> None:
    system, parts = turns(example().messages)
    assert [message.role for message in system] == ["system"]  # type: ignore[union-attr]
    assert [len(part) for part in parts] == [4, 2]
    assert turns([]) == ([], [])
    no_user = [{"role": "assistant", "content": "hello"}]
    assert turns(no_user) == ([], [no_user])


@pytest.mark.parametrize("budget", range(1, 40))
def test_oldest_turns_are_dropped_whole(budget: int) -> None:
    messages = example().messages
    total, least = count(messages), count([messages[0], *messages[5:]])
    if budget < least:
        with pytest.raises(ContextFullError, match=f"last turn alone has {least} tokens, where {budget}"):
            fitted(messages, count, budget, "drop_oldest")
        return
    chosen, dropped = fitted(messages, count, budget, "drop_oldest")
    assert count(chosen) <= budget
    assert dropped == (0 if budget >= total else 4)
    assert chosen[0] == messages[0]
    assert chosen[-2:] == list(messages[-2:])
    calls = {call.id for message in chosen for call in message.tool_calls}  # type: ignore[union-attr]
    results = {message.tool_call_id for message in chosen} - {None}  # type: ignore[union-attr]
    assert calls == results


def test_as_few_turns_as_possible_are_dropped() -> None:
    messages = [{"role": role, "content": "x" * 9} for _ in range(20) for role in ("user", "assistant")]
    for budget in range(20, 420, 7):
        chosen, dropped = fitted(messages, count, budget, "drop_oldest")
        assert len(chosen) == min(budget // 20, 20) * 2
        assert dropped == 40 - len(chosen)


def test_an_error_instead() -> None:
    messages = example().messages
    assert fitted(messages, count, 100, "error") == (list(messages), 0)
    with pytest.raises(ContextFullError, match="the conversation has"):
        fitted(messages, count, 10, "error")


def test_a_strategy_of_ones_own() -> None:
    def keep_last(messages: Sequence[MessageLike], count: Any, budget: int) -> Sequence[MessageLike]:
        assert count(messages) > budget
        return messages[-1:]

    chosen, dropped = fitted(example().messages, count, 10, keep_last)
    assert (len(chosen), dropped) == (1, 6)
    with pytest.raises(ContextFullError, match="what the strategy left"):
        fitted(example().messages, count, 4, keep_last)
    with pytest.raises(ContextFullError, match="what the strategy left"):
        fitted(example().messages, count, 4, lambda messages, count, budget: [])
