"""`Llama.chat` and its kin on the demo model, which is small and often wrong: what is forced is what is checked."""

from __future__ import annotations

import asyncio
import enum
import gc
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import llamacore as lc
from llamacore.chat.conversation import Conversation
from llamacore.chat.message import ChatMessage
from llamacore.chat.tools import Tool
from llamacore.errors import (
    ContextFullError,
    IncompleteOutputError,
    InvalidArgumentError,
    StructuredOutputError,
    ToolError,
    UnsupportedError,
)
from llamacore.llama._chat_records import ChatChunk, ChatReply

STORY = "Tell me a happy story."
FORCED: Any = {"tool_choice": "required", "max_tokens": 200, "temperature": 0}


@pytest.fixture(scope="module")
def llm(demo_path: Path) -> Iterator[Any]:
    with lc.Llama(demo_path, n_threads=1, n_ctx=2048) as llm:
        yield llm


City = Literal["Oslo", "Rome"]  # a call that is forced comes to its end, whatever the model would say


def get_weather(city: City, unit: Literal["c", "f"] = "c") -> str:
    """Get the weather.

    Args:
        city: Where.
        unit: Celsius or Fahrenheit.
    """
    return f"It rains in {city}."


async def aget_weather(city: City) -> str:
    """Get the weather."""
    await asyncio.sleep(0)
    return f"It snows in {city}."


def looped(llm: Any, **options: Any) -> ChatReply:
    """The reply of a loop; a small model may go on calling for ever."""
    try:
        reply = llm.chat("Weather in Oslo?", run_tools=True, max_passes=3, **{**FORCED, **options})
    except ToolError as error:
        reply = error.reply
    assert isinstance(reply, ChatReply)
    return reply


def joined(chunks: list[ChatChunk], field: str) -> str:
    return "".join(getattr(chunk, field) for chunk in chunks)


# plain chats


def test_a_reply(llm: Any) -> None:
    reply = llm.chat(STORY, max_tokens=30, temperature=0)
    assert isinstance(reply, ChatReply)
    assert reply.message.role == "assistant"
    assert reply.content == reply.message.content
    assert reply.content
    assert reply.finish_reason in ("stop", "length")
    assert reply.usage.prompt_tokens > 5
    assert 0 < reply.usage.completion_tokens <= 30
    assert reply.timings.predicted_ms > 0
    assert (reply.parsed, reply.tool_calls, reply.passes, reply.dropped_messages) == (None, (), 1, 0)
    assert reply.new_messages == (reply.message,)
    assert reply.model == llm.name


def test_forms_of_messages_are_the_same(llm: Any) -> None:
    forms: list[Any] = [
        STORY,
        [{"role": "user", "content": STORY}],
        [ChatMessage("user", STORY)],
        (ChatMessage("user", [{"type": "text", "text": STORY}]),),
        Conversation([ChatMessage("user", STORY)]),
    ]
    texts = {llm.chat(form, max_tokens=20, temperature=0).content for form in forms}
    assert len(texts) == 1


def test_a_stream_adds_up_to_the_reply(llm: Any) -> None:
    chunks = list(llm.stream_chat(STORY, max_tokens=40, temperature=0, logprobs=1, enable_thinking=True))
    reply = chunks[-1].reply
    assert all(chunk.reply is None and chunk.finish_reason is None for chunk in chunks[:-1])
    assert chunks[-1].finish_reason == reply.finish_reason
    assert joined(chunks, "content") == reply.content
    assert joined(chunks, "reasoning_content") == (reply.reasoning_content or "")
    assert reply.reasoning_content
    assert [chunk.delta.role for chunk in chunks if chunk.delta.role] == ["assistant"]
    n_tokens = sum(len(chunk.tokens) for chunk in chunks)
    assert n_tokens == reply.usage.completion_tokens == len(reply.logprobs)
    assert tuple(entry for chunk in chunks for entry in chunk.logprobs) == reply.logprobs
    again = llm.stream_chat(STORY, max_tokens=40, temperature=0, enable_thinking=True)
    assert again.result().message == reply.message == again.result().message


def test_thinking_on_and_off(llm: Any) -> None:
    assert llm.chat(STORY, max_tokens=40, temperature=0, enable_thinking=False).reasoning_content is None
    assert llm.chat(STORY, max_tokens=40, temperature=0, enable_thinking=True).reasoning_content


@pytest.mark.parametrize("budget", [0, 3])
def test_a_budget_of_thoughts(llm: Any, budget: int) -> None:
    reply = llm.chat(STORY, max_tokens=60, temperature=0, enable_thinking=True, thinking_budget=budget)
    n_tokens = len(llm.tokenize(reply.reasoning_content or "", add_special=False))
    assert n_tokens <= budget + 1  # white space around the thoughts may go with their tags
    assert reply.content


def test_stop_strings(llm: Any) -> None:
    text = llm.chat(STORY, max_tokens=60, temperature=0).content
    stop = text[10:14]
    reply = llm.chat(STORY, max_tokens=60, temperature=0, stop=stop)
    assert reply.content == text[: text.index(stop)]
    assert reply.finish_reason == "stop"


def test_async_chats_run_together(llm: Any) -> None:
    async def streamed() -> list[ChatChunk]:
        return [chunk async for chunk in llm.stream_chat(STORY, max_tokens=20, ignore_eos=True)]

    async def run() -> list[Any]:
        one = (llm.achat(STORY, max_tokens=10 + n, ignore_eos=True) for n in range(6))
        return await asyncio.gather(*one, streamed())

    *replies, chunks = asyncio.run(run())
    assert [reply.usage.completion_tokens for reply in replies] == [10 + n for n in range(6)]
    assert joined(chunks, "content") == chunks[-1].reply.content


def test_threads_share_one_object(llm: Any) -> None:
    replies: dict[int, ChatReply] = {}
    options: Any = {"response_format": SCHEMA, "temperature": 0, "max_tokens": 200}
    threads = [threading.Thread(target=lambda n=n: replies.update({n: llm.chat(STORY, **options)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [replies[n].parsed["mood"] in ("happy", "sad") for n in range(4)] == [True] * 4


# ends


def test_cancelling_keeps_what_there_is(llm: Any) -> None:
    stream = llm.stream_chat(STORY, temperature=0, ignore_eos=True)
    first = next(stream)
    stream.cancel()
    reply = stream.result()
    assert reply.finish_reason == "cancelled"
    assert reply.content.startswith(first.content)


def test_a_cancelled_task_ends_its_chat(llm: Any) -> None:
    async def run() -> None:
        task = asyncio.create_task(llm.achat(STORY, temperature=0, ignore_eos=True))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    wait_until_idle(llm)


def test_a_dropped_stream_ends_its_chat(llm: Any) -> None:
    stream = llm.stream_chat(STORY, temperature=0, ignore_eos=True)
    next(stream)
    del stream
    gc.collect()
    wait_until_idle(llm)


def test_a_closed_stream_has_no_more(llm: Any) -> None:
    stream = llm.stream_chat(STORY, temperature=0, ignore_eos=True)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    with pytest.raises(lc.ClosedError, match="ended before"):
        stream.result()
    wait_until_idle(llm)


def wait_until_idle(llm: Any) -> None:
    until = time.monotonic() + 20
    while llm.engine.stats().running and time.monotonic() < until:
        time.sleep(0.01)
    assert llm.engine.stats().running == 0


# structured


class Mood(enum.Enum):
    HAPPY = "happy"
    SAD = "sad"


SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["happy", "sad"]}, "n": {"type": "number", "minimum": 1, "maximum": 5}},
    "required": ["mood", "n"],
}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_structured_answers(llm: Any, thinking: bool, seed: int) -> None:
    options: Any = {"max_tokens": 400, "temperature": 0.7, "seed": seed, "enable_thinking": thinking}
    reply = llm.chat(STORY, response_format=SCHEMA, **options)
    assert reply.parsed == json.loads(reply.content)
    assert reply.parsed["mood"] in ("happy", "sad")
    assert 1 <= reply.parsed["n"] <= 5
    assert bool(reply.reasoning_content) == thinking
    assert llm.chat(STORY, response_format=Mood, **options).parsed in Mood
    assert llm.chat(STORY, response_format=["yes", "no"], **options).parsed in ("yes", "no")
    assert re.fullmatch("[ab]{3}", llm.chat(STORY, response_format=re.compile("[ab]{3}"), **options).parsed)
    assert isinstance(llm.chat(STORY, response_format=list[bool], **options).parsed, list)


def test_pydantic_answers(llm: Any) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        mood: Mood
        share: float = pydantic.Field(gt=0, lt=1)

    reply = llm.chat(STORY, response_format=Answer, max_tokens=200, temperature=0)
    assert isinstance(reply.parsed, Answer)


def test_a_structured_answer_that_is_cut_off(llm: Any) -> None:
    with pytest.raises(IncompleteOutputError, match=r"cut off \(length\)") as caught:
        llm.chat(STORY, response_format=SCHEMA, max_tokens=3, temperature=0)
    assert caught.value.text.startswith("{")
    stream = llm.stream_chat(STORY, response_format=SCHEMA, max_tokens=3, temperature=0)
    seen: list[ChatChunk] = []
    with pytest.raises(IncompleteOutputError) as other:
        seen.extend(stream)
    assert other.value.text == caught.value.text


def test_an_answer_that_no_grammar_could_hold(llm: Any) -> None:
    with pytest.raises(StructuredOutputError, match="multipleOf") as caught:
        llm.chat(
            STORY, response_format={"const": 3, "multipleOf": 1, "not": {"const": 4}, "allOf": [{"multipleOf": 2}]}
        )
    assert caught.value.text == "3"


def test_a_cancelled_structured_answer_has_no_value(llm: Any) -> None:
    stream = llm.stream_chat(STORY, response_format={"type": "string", "minLength": 1000}, temperature=0)
    next(stream)
    stream.cancel()
    reply = stream.result()
    assert (reply.finish_reason, reply.parsed) == ("cancelled", None)


# tools


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("thinking", [False, True])
def test_forced_calls(llm: Any, choice: Any, thinking: bool) -> None:
    other = Tool("other", "Do something else.")
    options = {**FORCED, "tool_choice": choice, "tools": [get_weather, other], "enable_thinking": thinking, "seed": 1}
    for temperature in (0, 1.0):
        reply = llm.chat("Weather in Oslo?", **{**options, "temperature": temperature, "max_tokens": 400})
        if reply.finish_reason == "length":
            continue  # a city's name without an end
        assert reply.finish_reason == "tool_calls"
        assert reply.tool_calls
        for call in reply.tool_calls:
            assert call.name in (("get_weather", "other") if choice == "required" else ("get_weather",))
            assert call.id
            assert call.parsed is not None
            if call.name == "get_weather":
                Tool.from_function(get_weather).arguments(call.arguments)


def test_streamed_calls_add_up(llm: Any) -> None:
    chunks = list(llm.stream_chat("Weather in Oslo?", tools=[get_weather], **FORCED))
    reply = chunks[-1].reply
    pieces = [piece for chunk in chunks for piece in chunk.delta.tool_calls]
    (call,) = reply.tool_calls
    assert [(piece.id, piece.name) for piece in pieces if piece.name] == [(call.id, call.name)]
    assert "".join(piece.arguments for piece in pieces) == call.arguments
    assert len(pieces) > 1


def test_no_calls_when_none_are_wanted(llm: Any) -> None:
    for seed in range(3):
        reply = llm.chat("Weather in Oslo?", tools=[get_weather], tool_choice="none", max_tokens=60, seed=seed)
        assert reply.tool_calls == ()


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_tools_and_a_response_format(llm: Any, thinking: bool, seed: int) -> None:
    """Either a call, or an answer of the format; never anything else."""
    reply = llm.chat("Weather in Oslo?", tools=[get_weather], response_format=SCHEMA, enable_thinking=thinking,
                     max_tokens=500, temperature=1.2, seed=seed)  # fmt: skip
    if reply.tool_calls:
        assert (reply.finish_reason, reply.parsed) == ("tool_calls", None)
        assert all(call.parsed is not None for call in reply.tool_calls)
    else:
        assert reply.parsed == json.loads(reply.content)


def test_the_loop(llm: Any) -> None:
    seen: list[Any] = []
    reply = looped(llm, tools=[get_weather], on_tool_result=seen.append)
    assert reply.passes > 1
    first, result = reply.new_messages[:2]
    assert first.tool_calls[0].name == "get_weather"
    assert (result.role, result.tool_call_id) == ("tool", first.tool_calls[0].id)
    city = (first.tool_calls[0].parsed or {})["city"]
    assert result.text == seen[0].text == f"It rains in {city}."
    assert reply.new_messages[-1] == reply.message
    assert reply.usage.prompt_tokens > 100
    assert reply.usage.completion_tokens > len(llm.tokenize(first.tool_calls[0].arguments))


def test_the_loop_as_a_stream(llm: Any) -> None:
    chunks: list[ChatChunk] = []
    try:
        for chunk in llm.stream_chat("Weather?", tools=[aget_weather], run_tools=True, max_passes=3, **FORCED):
            chunks.append(chunk)  # noqa: PERF402 - those before an error count
        assert chunks[-1].reply is not None
    except ToolError:
        pass
    results = [chunk.tool_result for chunk in chunks if chunk.tool_result]
    assert results[0].value.startswith("It snows in ")
    roles = [chunk.delta.role for chunk in chunks if chunk.delta.role]
    assert len(roles) == (chunks[-1].reply.passes if chunks[-1].reply else 3)


def test_the_loop_in_an_event_loop(llm: Any) -> None:
    async def run(tool: Any) -> list[ChatChunk]:
        stream = llm.stream_chat("Weather?", tools=[tool], run_tools=True, max_passes=3, **FORCED)
        chunks = []
        try:
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401 - those before an error count
        except ToolError:
            pass
        return chunks

    for tool, start in ((aget_weather, "It snows in "), (get_weather, "It rains in ")):
        results = [chunk.tool_result for chunk in asyncio.run(run(tool)) if chunk.tool_result]
        assert results[0].text.startswith(start)


def test_errors_of_tools_go_back_to_the_model(llm: Any) -> None:
    def get_weather(city: City) -> str:
        """Get the weather."""
        raise RuntimeError("no connection")

    assert looped(llm, tools=[get_weather]).new_messages[1].text == "Error: RuntimeError: no connection"


def test_too_many_passes(llm: Any) -> None:
    with pytest.raises(ToolError, match="still calls tools after 1 passes") as caught:
        llm.chat("Weather in Oslo?", tools=[get_weather], run_tools=True, max_passes=1, **FORCED)
    assert isinstance(caught.value.reply, ChatReply)
    assert caught.value.reply.tool_calls


def test_tools_without_a_function_are_the_callers(llm: Any) -> None:
    tool = Tool.from_function(get_weather).to_dict()
    reply = llm.chat("Weather in Oslo?", tools=[tool], run_tools=True, **FORCED)
    assert (reply.finish_reason, reply.passes) == ("tool_calls", 1)


def test_a_hook_that_raises_ends_the_chat(llm: Any) -> None:
    def stop(result: Any) -> None:
        raise PermissionError("not this one")

    conversation = Conversation([ChatMessage("user", "Weather in Oslo?")])
    with pytest.raises(PermissionError):
        llm.chat(conversation, tools=[get_weather], run_tools=True, on_tool_result=stop, **FORCED)
    assert len(conversation) == 1


# conversations


def test_a_conversation_grows(llm: Any) -> None:
    conversation = Conversation(system="You are kind.")
    reply = conversation.chat(llm, STORY, max_tokens=20, temperature=0)
    assert [message.role for message in conversation] == ["system", "user", "assistant"]
    assert conversation[-1] == reply.message
    chunks = list(conversation.stream(llm, "And then?", max_tokens=20))
    assert conversation[-1] == chunks[-1].reply.message
    assert len(conversation) == 5
    assert asyncio.run(conversation.achat(llm, "Why?", max_tokens=5)).message == conversation[-1]
    assert len(conversation) == 7


def test_a_conversation_keeps_calls_and_results(llm: Any) -> None:
    conversation = Conversation()
    forced = {**FORCED, "tools": [get_weather]}
    reply = conversation.chat(llm, "Weather in Oslo?", **forced)
    (call, *_) = reply.tool_calls
    conversation.append({"role": "tool", "content": get_weather(**call.parsed), "tool_call_id": call.id})
    conversation.chat(llm, max_tokens=20)
    assert [message.role for message in conversation] == ["user", "assistant", "tool", "assistant"]
    assert Conversation.from_dict(json.loads(json.dumps(conversation.to_dict()))) == conversation


def test_a_failed_chat_leaves_the_conversation(llm: Any) -> None:
    conversation = Conversation([ChatMessage("user", "a"), ChatMessage("assistant", "b")])
    with pytest.raises(InvalidArgumentError):
        conversation.chat(llm, STORY, no_such_option=1)
    with pytest.raises(IncompleteOutputError):
        conversation.chat(llm, STORY, response_format=SCHEMA, max_tokens=2)
    assert len(conversation) == 2


def long_conversation(**options: Any) -> Conversation:
    conversation = Conversation(system="You are kind.", **options)
    for number in range(40):
        conversation.append(f"Question {number}: {STORY * 3}")
        conversation.append({"role": "assistant", "content": f"Answer {number}. " + STORY * 3})
    conversation.append("And now?")
    return conversation


def test_a_conversation_that_outgrows_the_context(llm: Any) -> None:
    conversation = long_conversation()
    reply = llm.chat(conversation, max_tokens=10)
    assert reply.dropped_messages > 0
    assert reply.dropped_messages % 2 == 0  # whole turns
    assert reply.usage.prompt_tokens <= 2048 - 10
    assert len(conversation) == 83  # the history itself keeps everything
    small = long_conversation(budget=300)
    assert llm.chat(small, max_tokens=10).usage.prompt_tokens <= 300
    with pytest.raises(ContextFullError, match="the conversation has"):
        llm.chat(long_conversation(strategy="error"), max_tokens=10)
    with pytest.raises(ContextFullError):
        llm.chat(list(long_conversation()), max_tokens=10)
    listed = llm.chat(list(long_conversation()), max_tokens=10, strategy="drop_oldest")
    assert listed.dropped_messages == reply.dropped_messages
    own = llm.chat(long_conversation(strategy=lambda messages, count, budget: messages[-1:]), max_tokens=10)
    assert own.dropped_messages == 81


def test_a_last_turn_that_is_too_long(llm: Any) -> None:
    with pytest.raises(ContextFullError, match="last turn alone"):
        Conversation().chat(llm, "word " * 5000)


# misuse


@pytest.mark.parametrize(
    ("messages", "options", "why"),
    [
        (5, {}, "messages are a int"),
        (b"x", {}, "messages are a bytes"),
        ({"role": "user", "content": "x"}, {}, "messages are a dict"),
        ([], {}, "no messages"),
        ([5], {}, "a message is a int"),
        ([{"content": "x"}], {}, "no role"),
        ("x", {"tempreture": 1}, "did you mean 'temperature'"),
        ("x", {"grammar": "root ::= x"}, "response_format"),
        ("x", {"json_schema": {}}, "response_format"),
        ("x", {"n": 2}, "no option 'n'"),
        ("x", {"sampling": lc.SamplingParams(grammar='root ::= "x"')}, "grammar in its sampling"),
        ("x", {"generation_prompt": "x"}, "no option 'generation_prompt'"),
        ("x", {"response_format": "json", "logit_bias": 5}, "logit_bias"),
        ("x", {"special": True}, "no option 'special'"),
        ("x", {"tools": "ab"}, "tools is a str"),
        ("x", {"tools": [5]}, "no tool"),
        ("x", {"tool_choice": "maybe"}, "tool_choice"),
        ("x", {"tool_choice": "required"}, "no tools"),
        ("x", {"tools": [get_weather], "tool_choice": {"function": {"name": "x"}}}, "names no tool"),
        ("x", {"run_tools": True}, "run_tools without tools"),
        ("x", {"max_passes": 0}, "max_passes=0"),
        ("x", {"max_passes": 1.5}, "max_passes=1.5"),
        ("x", {"thinking_budget": -1}, "thinking_budget=-1"),
        ("x", {"thinking_budget": True}, "thinking_budget=True"),
        ("x", {"strategy": "shift"}, "strategy='shift'"),
        ("x", {"response_format": "xml"}, "response_format"),
        ("x", {"response_format": {"type": "integer", "minimum": 2, "maximum": 1}}, "no number between"),
        ("x", {"template_options": {"messages": []}}, "template_options"),
        ("x", {"on_tool_result": 5, "tools": [get_weather]}, "on_tool_result"),
        ("x", {"max_tokens": -1}, "max_tokens"),
        ("x", {"temperature": "hot"}, "temperature"),
        ("x", {"stop": [""]}, "stop"),
    ],
    ids=str,
)
def test_misuse(llm: Any, messages: Any, options: dict[str, Any], why: str) -> None:
    for method in (llm.chat, llm.stream_chat):
        with pytest.raises(InvalidArgumentError, match=why):
            method(messages, **options)
    with pytest.raises(InvalidArgumentError, match=why):
        asyncio.run(llm.achat(messages, **options))


def test_a_model_without_a_template(tiny_path: Any) -> None:
    with (
        lc.Llama(tiny_path(chat_template=None), n_threads=1, n_ctx=256) as llm,
        pytest.raises(UnsupportedError, match="no chat template"),
    ):
        llm.chat("x")  # type: ignore[attr-defined]


def test_a_template_without_tools_or_thoughts(demo_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    with lc.Llama(demo_path, n_threads=1, n_ctx=512, chat_template=template) as llm:
        chat: Any = llm.chat  # type: ignore[attr-defined]
        assert chat("x", response_format=["yes", "no"], max_tokens=20).parsed in ("yes", "no")
        assert chat("x", response_format=SCHEMA, max_tokens=200, temperature=0).parsed["mood"] in ("happy", "sad")
        with pytest.raises(UnsupportedError, match="no place for thoughts"):
            chat("x", thinking_budget=5)


def test_a_closed_object(demo_path: Path) -> None:
    llm: Any = lc.Llama(demo_path, n_threads=1, n_ctx=256)
    llm.close()
    with pytest.raises(lc.ClosedError):
        llm.chat("x")
