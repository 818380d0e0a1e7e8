"""What a session remembers."""

from __future__ import annotations

from llamacore.chat.message import ChatMessage, ToolCall
from llamacore.nodes.conversation import NodeConversation


def said(conversation: NodeConversation, text: str, answer: str = "yes", **ending: float) -> bool:
    """One turn of a user and the model."""
    messages = [ChatMessage("user", text), ChatMessage("assistant", answer)]
    began = conversation.begin_turn()
    interrupted = bool(ending.get("interrupted", False))
    return conversation.end_turn(began, messages, interrupted=interrupted, elapsed=ending.get("elapsed", 9))


def texts(conversation: NodeConversation) -> list[str]:
    return [message.text for message in conversation.messages]


def test_the_system_message():
    alone = NodeConversation()
    assert alone.system_message is None
    alone.set_context("It rains.")
    assert alone.system_message == ChatMessage("system", "It rains.")
    both = NodeConversation("Be kind.")
    for facts in ("It rains.", "It snows."):
        both.set_context(facts)
        assert both.system_message == ChatMessage("system", f"Be kind.\nContext: {facts}")
    both.set_context("")
    assert both.system_message == ChatMessage("system", "Be kind.")


def test_facts_of_a_history_without_a_system_message():
    conversation = NodeConversation()
    said(conversation, "a")
    conversation.set_context("It rains.")
    roles = [message.role for message in conversation.prompt([ChatMessage("user", "b")])]  # type: ignore[union-attr]
    assert roles == ["system", "user", "assistant", "user"]


def test_an_empty_answer_is_not_remembered():
    conversation = NodeConversation()
    assert not said(conversation, "a", "")
    assert not conversation.end_turn(
        conversation.begin_turn(), [ChatMessage("user", "a")], interrupted=False, elapsed=9
    )
    assert said(conversation, "a")
    assert texts(conversation) == ["a", "yes"]


def test_the_window_counts_turns_of_the_user_and_parts_none():
    conversation = NodeConversation("Be kind.", history_turns=2)
    said(conversation, "a")
    call = ToolCall("call_0", "say")
    group = [
        ChatMessage("user", "b"),
        ChatMessage("assistant", None, tool_calls=(call,)),
        ChatMessage("tool", "", tool_call_id="call_0", name="say"),
        ChatMessage("assistant", "done"),
    ]
    conversation.end_turn(conversation.begin_turn(), group, interrupted=False, elapsed=9)
    said(conversation, "c")
    new = [ChatMessage("user", "d")]
    system = ChatMessage("system", "Be kind.")
    assert conversation.prompt(new) == [system, *group, ChatMessage("user", "c"), ChatMessage("assistant", "yes"), *new]
    conversation.history_turns = 0
    assert conversation.prompt(new) == [system, *new]
    conversation.history_turns = 9
    assert len(conversation.prompt(new)) == 10


def test_an_early_interruption_takes_the_turn_back():
    conversation = NodeConversation()
    said(conversation, "a")
    assert not said(conversation, "b", interrupted=True, elapsed=2.9)
    assert said(conversation, "c", interrupted=True, elapsed=3.0)
    assert texts(conversation) == ["a", "yes", "c", "yes"]


def test_finalize_turn_settles_the_last_turn_once():
    conversation = NodeConversation()
    assert not conversation.finalize_turn(interrupted=True, elapsed=1)
    said(conversation, "a")
    said(conversation, "b")
    assert conversation.finalize_turn(interrupted=True, elapsed=2.9)
    assert not conversation.finalize_turn(interrupted=True, elapsed=0)  # not the turn before it
    assert texts(conversation) == ["a", "yes"]
    said(conversation, "c")
    assert not conversation.finalize_turn(interrupted=True, elapsed=3.0)
    said(conversation, "d")
    assert not conversation.finalize_turn(interrupted=False, elapsed=0)
    assert texts(conversation) == ["a", "yes", "c", "yes", "d", "yes"]


def test_a_turn_that_took_itself_back_is_not_taken_back_again():
    conversation = NodeConversation()
    said(conversation, "a")
    said(conversation, "b", interrupted=True, elapsed=1)
    assert not conversation.finalize_turn(interrupted=True, elapsed=1)
    assert texts(conversation) == ["a", "yes"]


def test_finalize_turn_takes_a_whole_group():
    conversation = NodeConversation()
    said(conversation, "a")
    group = [
        ChatMessage("user", "b"),
        ChatMessage("assistant", None, tool_calls=(ToolCall("call_0", "f"),)),
        ChatMessage("tool", "3", tool_call_id="call_0", name="f"),
        ChatMessage("assistant", "three"),
    ]
    conversation.end_turn(conversation.begin_turn(), group, interrupted=False, elapsed=9)
    assert conversation.finalize_turn(interrupted=True, elapsed=1)
    assert texts(conversation) == ["a", "yes"]


def test_a_reset_keeps_the_system_message_and_forgets_the_turn_that_runs():
    conversation = NodeConversation("Be kind.")
    conversation.set_context("It rains.")
    said(conversation, "a")
    began = conversation.begin_turn()
    conversation.reset_history()
    late = [ChatMessage("user", "b"), ChatMessage("assistant", "yes")]
    assert not conversation.end_turn(began, late, interrupted=False, elapsed=9)
    assert conversation.messages == []
    assert conversation.system_message == ChatMessage("system", "Be kind.\nContext: It rains.")
    assert not conversation.finalize_turn(interrupted=True, elapsed=0)
