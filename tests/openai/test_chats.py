"""`create_chat_completion` on the demo model, which is small: what it says is tested only where a grammar forces it."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest

import llamacore as lc

TALK = [{"role": "user", "content": "Tell me a happy story."}]
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["happy", "sad"]}, "n": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mood", "n"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA, "strict": True}}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}


def together(pieces):
    """The message that deltas add up to."""
    message = {"content": "", "tool_calls": []}
    for piece in pieces:
        for choice in piece["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            for call in delta.get("tool_calls", ()):
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"id": call["id"], "type": call["type"], "name": "", "arguments": ""})
                known = message["tool_calls"][call["index"]]
                known["name"] += call["function"].get("name") or ""
                known["arguments"] += call["function"].get("arguments") or ""
    return message


def test_the_shape_is_that_of_the_api(steady):
    response = steady.create_chat_completion(TALK, max_tokens=8, temperature=0)
    assert list(response) == ["id", "object", "created", "model", "choices", "usage"]
    assert re.fullmatch(r"chatcmpl-[0-9a-f-]{36}", response["id"])
    assert (response["object"], response["model"]) == ("chat.completion", steady.name)
    (choice,) = response["choices"]
    reply = steady.chat(TALK, max_tokens=8, temperature=0)
    assert choice == {
        "index": 0,
        "message": reply.message.to_dict(),
        "logprobs": None,
        "finish_reason": "length",
    }
    assert choice["message"]["role"] == "assistant"
    assert response["usage"]["completion_tokens"] == 8
    assert response["usage"]["prompt_tokens"] == len(steady.chat_prompt(TALK))
    assert json.loads(json.dumps(response)) == response


def test_a_stream_says_the_same(steady):
    options = {"max_tokens": 30, "temperature": 0}
    whole = steady.create_chat_completion(TALK, **options)["choices"][0]
    pieces = list(steady.create_chat_completion(TALK, stream=True, stream_options={"include_usage": True}, **options))
    first, *_, before_last, last = pieces
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert sum("role" in piece["choices"][0]["delta"] for piece in pieces[:-1]) == 1
    assert together(pieces)["content"] == whole["message"]["content"]
    assert before_last["choices"][0]["delta"] == {}
    assert before_last["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert all(piece["choices"][0]["finish_reason"] is None for piece in pieces[:-2])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] <= 30
    assert all(piece["usage"] is None for piece in pieces[:-1])
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert len({piece["id"] for piece in pieces}) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call(llama, choice):
    options = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 80, "temperature": 0}
    talk = [
        {"role": "user", "content": "What is the weather in Paris?"}
    ]  # text may stand before a call, so it is asked
    response = llama.create_chat_completion(talk, **options)
    (answer,) = response["choices"]
    assert answer["finish_reason"] == "tool_calls"
    call = answer["message"]["tool_calls"][0]
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome")
    pieces = list(llama.create_chat_completion(talk, stream=True, **options))
    assert pieces[-1]["choices"][0]["finish_reason"] == "tool_calls"
    streamed = together(pieces)["tool_calls"][0]
    assert streamed["name"] == "get_weather"
    assert streamed["id"]
    assert json.loads(streamed["arguments"])["city"] in ("Paris", "Rome")
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    again = llama.create_chat_completion([*talk, answer["message"], result], tools=[TOOL], max_tokens=5)
    assert again["usage"]["completion_tokens"] > 0


def test_no_tools_are_called_when_none_may_be(llama):
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    response = llama.create_chat_completion(question, tools=[TOOL], tool_choice="none", max_tokens=40, temperature=0)
    assert "tool_calls" not in response["choices"][0]["message"]


def test_json(llama):
    content = llama.create_chat_completion(TALK, response_format=FORMAT, max_tokens=60, temperature=0)["choices"][0][
        "message"
    ]["content"]
    assert set(json.loads(content)) == {"mood", "n"}
    lcp = {"type": "json_object", "schema": SCHEMA}  # the form of llama-cpp-python
    pieces = list(llama.create_chat_completion(TALK, response_format=lcp, max_tokens=60, stream=True, temperature=0))
    assert json.loads(together(pieces)["content"])["mood"] in ("happy", "sad")


@pytest.mark.parametrize("stream", [False, True])
def test_json_that_is_cut_off_is_no_error(llama, stream):
    """As the API has it: the finish reason tells."""
    answer = llama.create_chat_completion(TALK, response_format=FORMAT, max_tokens=3, stream=stream)
    choice = (list(answer)[-1] if stream else answer)["choices"][0]
    assert choice["finish_reason"] == "length"


def test_a_grammar(llama):
    response = llama.create_chat_completion(TALK, grammar='root ::= "yes" | "no"', max_tokens=20)
    assert re.fullmatch(r"\s*(yes|no)?", response["choices"][0]["message"]["content"])


def test_several_replies(tiny_path):
    options = {"max_tokens": 4, "temperature": 0.9, "ignore_eos": True}
    with lc.Llama(tiny_path(), n_threads=1, n_ctx=512, n_parallel=2) as llama:
        response = llama.create_chat_completion(TALK, n=3, seed=7, **options)
        assert [choice["index"] for choice in response["choices"]] == [0, 1, 2]
        alone = [llama.chat(TALK, seed=7 + number, **options).content for number in range(3)]
        assert [choice["message"]["content"] or "" for choice in response["choices"]] == alone
        assert response["usage"]["prompt_tokens"] == len(llama.chat_prompt(TALK))
        assert response["usage"]["completion_tokens"] == 12
        texts = ["", "", ""]
        for piece in llama.create_chat_completion(TALK, n=3, seed=7, stream=True, **options):
            texts[piece["choices"][0]["index"]] += piece["choices"][0]["delta"].get("content") or ""
        assert texts == alone


def test_log_probabilities(llama):
    options = {"max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    response = llama.create_chat_completion(TALK, **options)
    content = response["choices"][0]["logprobs"]["content"]
    assert len(content) == 6
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"] <= 0
    pieces = list(llama.create_chat_completion(TALK, stream=True, **options))
    streamed = [
        item["token"] for piece in pieces if piece["choices"][0]["logprobs"]
        for item in piece["choices"][0]["logprobs"]["content"]
    ]  # fmt: skip
    assert streamed == [entry["token"] for entry in content]


def test_messages_in_every_form(steady):
    from llamacore.chat.message import ChatMessage

    plain = steady.create_chat_completion(TALK, max_tokens=4, temperature=0)["choices"]
    parts = [{"role": "user", "content": [{"type": "text", "text": TALK[0]["content"]}]}]
    objects = (ChatMessage("user", TALK[0]["content"]),)
    for form in (parts, objects):
        assert steady.create_chat_completion(form, max_tokens=4, temperature=0)["choices"] == plain


def test_async(steady):
    async def both():
        whole, stream = await asyncio.gather(
            steady.acreate_chat_completion(TALK, max_tokens=8, temperature=0),
            steady.acreate_chat_completion(TALK, max_tokens=8, temperature=0, stream=True),
        )
        return whole, [piece async for piece in stream]

    whole, pieces = asyncio.run(both())
    assert together(pieces)["content"] == whole["choices"][0]["message"]["content"]


def idle(llama):
    """Wait until nothing is generated."""
    deadline = time.monotonic() + 5
    while llama.engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    return llama.engine.stats().running == 0


def test_leaving_a_stream_cancels(llama):
    options = {"max_tokens": None, "ignore_eos": True, "stream": True, "n": 2}
    stream = llama.create_chat_completion(TALK, **options)
    next(stream)
    assert llama.engine.stats().running >= 1
    stream.close()
    assert idle(llama)
    unread = llama.create_chat_completion(TALK, **options)
    del unread
    gc.collect()
    assert idle(llama)

    async def leave():
        async with aclosing(await llama.acreate_chat_completion(TALK, **options)) as pieces:
            async for _ in pieces:
                break
        task = asyncio.create_task(llama.acreate_chat_completion(TALK, max_tokens=None, ignore_eos=True))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert idle(llama)


def test_an_empty_reply(llama):
    """Even that has its role and its end."""
    first, last = llama.create_chat_completion(TALK, max_tokens=0, stream=True)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")


def test_many_threads(llama):
    """Streams and whole replies from several threads at once: each gets its own, and nobody waits for all."""

    def ask(number):
        options = {"max_tokens": 10, "temperature": 0, "model": str(number)}
        if number % 2:
            return llama.create_chat_completion(TALK, **options)["model"]
        return {piece["model"] for piece in llama.create_chat_completion(TALK, stream=True, **options)}.pop()

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(ask, range(16))) == [str(number) for number in range(16)]


@pytest.mark.parametrize(
    ("messages", "parameters", "error"),
    [
        ([], {}, lc.InvalidArgumentError),
        ("hi", {}, lc.InvalidArgumentError),
        ([3], {}, lc.InvalidArgumentError),
        ([{"content": "no role"}], {}, lc.InvalidArgumentError),
        (TALK, {"tools": [3]}, lc.InvalidArgumentError),
        (TALK, {"tools": [{"type": "function"}]}, lc.InvalidArgumentError),
        (
            TALK,
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            lc.InvalidArgumentError,
        ),
        (TALK, {"response_format": {"type": "json_object", "schema": {"type": "nonsense"}}}, lc.GrammarError),
        (TALK, {"grammar": "root ::= ("}, lc.GrammarError),
        (TALK, {"temperature": "hot"}, lc.InvalidArgumentError),
        (TALK, {"run_tools": True}, lc.InvalidArgumentError),
        (TALK, {"maxtokens": 3}, lc.InvalidArgumentError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_misuse(llama, messages, parameters, error, stream):
    """Errors come with the call, not with the first piece; and the object goes on."""
    with pytest.raises(error):
        llama.create_chat_completion(messages, stream=stream, **parameters)
    with pytest.raises(error):
        asyncio.run(llama.acreate_chat_completion(messages, stream=stream, **parameters))
    assert llama.create_chat_completion(TALK, max_tokens=1)["usage"]["completion_tokens"] == 1


def test_a_closed_object(tiny_path):
    llama = lc.Llama(tiny_path(), n_threads=1, n_ctx=128)
    llama.close()
    with pytest.raises(lc.ClosedError):
        llama.create_chat_completion(TALK)
