"""`create_completion` on the demo model: shapes, and that they say what the engine says."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time

import pytest

import llamacore as lc
from llamacore.errors import ContextFullError

PROMPT = "Once upon a time"


def test_the_shape_is_that_of_the_api(steady):
    before = int(time.time())
    response = steady.create_completion(PROMPT, max_tokens=8, temperature=0)
    assert list(response) == ["id", "object", "created", "model", "choices", "usage"]
    assert re.fullmatch(r"cmpl-[0-9a-f-]{36}", response["id"])
    assert (response["object"], response["model"]) == ("text_completion", steady.name)
    assert before <= response["created"] <= time.time()
    plain = steady.generate(PROMPT, max_tokens=8, temperature=0)
    assert response["choices"] == [{"text": plain.text, "index": 0, "logprobs": None, "finish_reason": "length"}]
    counted = {name: response["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    n = len(steady.tokenize(PROMPT))
    assert counted == {"prompt_tokens": n, "completion_tokens": 8, "total_tokens": n + 8}
    assert json.loads(json.dumps(response)) == response


def test_calling_the_object_is_the_same(steady):
    texts = [
        call(PROMPT, max_tokens=6, temperature=0, model="mine")["choices"][0]["text"]
        for call in (steady, steady.create_completion)
    ]
    assert texts[0] == texts[1]
    assert steady(PROMPT, max_tokens=1, model="mine")["model"] == "mine"


def test_sixteen_tokens_unless_told_otherwise(llama):
    assert llama.create_completion(PROMPT, ignore_eos=True)["usage"]["completion_tokens"] == 16
    long = llama.create_completion(PROMPT, max_tokens=None, ignore_eos=True, time_limit=1, temperature=0)
    assert long["usage"]["completion_tokens"] > 16
    assert long["choices"][0]["finish_reason"] == "length"
    nothing = llama.create_completion(PROMPT, max_tokens=0)
    assert (nothing["choices"][0]["text"], nothing["choices"][0]["finish_reason"]) == ("", "length")


def test_a_stop_string_is_the_reason(steady):
    text = steady.generate(PROMPT, max_tokens=20, temperature=0).text
    stop = text[10:13]
    response = steady.create_completion(PROMPT, max_tokens=20, temperature=0, stop=stop)
    assert response["choices"][0]["text"] == text[: text.index(stop)]
    assert response["choices"][0]["finish_reason"] == "stop"


def test_echo(steady):
    response = steady.create_completion(PROMPT, max_tokens=4, temperature=0, echo=True)
    assert response["choices"][0]["text"].startswith(PROMPT)
    plain = steady.generate(PROMPT, max_tokens=4, temperature=0).text
    assert response["choices"][0]["text"] == PROMPT + plain
    tokens = steady.tokenize(PROMPT)
    assert steady.create_completion(tokens, max_tokens=4, temperature=0, echo=True)["choices"] == response["choices"]
    pieces = list(steady.create_completion(PROMPT, max_tokens=4, temperature=0, echo=True, stream=True))
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == PROMPT + plain
    assert pieces[0]["choices"][0]["text"] == PROMPT


def test_a_stream_says_the_same(steady):
    whole = steady.create_completion(PROMPT, max_tokens=12, seed=5, temperature=1.0)
    pieces = list(steady.create_completion(PROMPT, max_tokens=12, seed=5, temperature=1.0, stream=True))
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert len({piece["id"] for piece in pieces}) == 1
    assert {piece["object"] for piece in pieces} == {"text_completion"}
    assert all("usage" not in piece for piece in pieces)


def test_a_stream_counts_when_asked(llama):
    pieces = list(
        llama.create_completion(PROMPT, max_tokens=5, stream=True, stream_options={"include_usage": True}, n=2)
    )
    assert all(piece["usage"] is None for piece in pieces[:-1])
    last = pieces[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    assert last["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize("n", [2, 6])
def test_several_choices(tiny_path, n):
    """Each is that of its own seed; six are more than the engine takes at a time."""
    options = {"max_tokens": 4, "temperature": 0.9, "ignore_eos": True}
    with lc.Llama(tiny_path(), n_threads=1, n_ctx=256, n_parallel=4) as llama:
        response = llama.create_completion(PROMPT, n=n, seed=11, **options)
        assert [choice["index"] for choice in response["choices"]] == list(range(n))
        alone = [llama.generate(PROMPT, seed=11 + number, **options).text for number in range(n)]
        assert [choice["text"] for choice in response["choices"]] == alone
        assert len(set(alone)) == n
        assert response["usage"]["prompt_tokens"] == len(llama.tokenize(PROMPT))
        assert response["usage"]["completion_tokens"] == 4 * n
        texts = [""] * n
        for piece in llama.create_completion(PROMPT, n=n, seed=11, stream=True, **options):
            texts[piece["choices"][0]["index"]] += piece["choices"][0]["text"]
        assert texts == alone


def test_several_prompts(llama):
    prompts = [PROMPT, "The cat", llama.tokenize("A dog")]
    response = llama.create_completion(prompts, max_tokens=5, temperature=0, n=2, echo=True)
    choices = response["choices"]
    assert [choice["index"] for choice in choices] == list(range(6))
    for number, text in enumerate([PROMPT, PROMPT, "The cat", "The cat", "A dog", "A dog"]):
        assert choices[number]["text"].startswith(text)
    assert response["usage"]["prompt_tokens"] == sum(
        len(llama.tokenize(prompt)) if isinstance(prompt, str) else len(prompt) for prompt in prompts
    )
    assert 20 < response["usage"]["completion_tokens"] <= 30


def test_log_probabilities(llama):
    response = llama.create_completion(PROMPT, max_tokens=6, temperature=0, logprobs=2)
    logprobs = response["choices"][0]["logprobs"]
    plain = llama.generate(PROMPT, max_tokens=6, temperature=0, logprobs=2).logprobs
    assert logprobs["tokens"] == [entry.text for entry in plain]
    assert logprobs["token_logprobs"] == pytest.approx([entry.logprob for entry in plain], abs=0.1)
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == logprob == max(top.values())
        assert len(top) == 2
    text = response["choices"][0]["text"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert text[offset : offset + len(token)] == token
    none = llama.create_completion(PROMPT, max_tokens=3, logprobs=0)["choices"][0]["logprobs"]
    assert none["top_logprobs"] == [None] * 3


def test_log_probabilities_of_an_echo(llama):
    """Those of the prompt are those of `score`; the first token has none. Streamed they are the same."""
    options = {"max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 2}
    choice = llama.create_completion(PROMPT, **options)["choices"][0]
    logprobs = choice["logprobs"]
    n = len(llama.tokenize(PROMPT))
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:n] == pytest.approx(llama.score(PROMPT).logprobs.tolist(), abs=1e-5)
    assert "".join(logprobs["tokens"]) == choice["text"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset : offset + len(token)] == token
    pieces = list(llama.create_completion(PROMPT, stream=True, **options))
    for name in ("tokens", "text_offset"):
        assert [item for piece in pieces for item in piece["choices"][0]["logprobs"][name]] == logprobs[name]
    single = llama.create_completion(llama.tokenize(PROMPT)[:1], **options)["choices"][0]["logprobs"]
    assert single["token_logprobs"][0] is None
    scored = llama.create_completion(PROMPT, **{**options, "max_tokens": 0})["choices"][0]
    assert scored["text"] == PROMPT and len(scored["logprobs"]["tokens"]) == n


def test_a_suffix_fills_the_gap(tiny_path):
    """The prompt is that of `infill`."""
    options = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}
    with lc.Llama(tiny_path(), n_threads=1, n_ctx=256) as tiny:
        response = tiny.create_completion("def f(", suffix="return 1", **options)
        assert response["choices"][0]["text"] == tiny.infill("def f(", "return 1", **options).text
        assert response["usage"]["prompt_tokens"] == len(tiny.infill_prompt("def f(", "return 1"))


def test_log_probabilities_end_with_the_text(steady):
    """Tokens of a stop string are not part of the text, and so not of the list; streamed or not."""
    text = steady.generate(PROMPT, max_tokens=20, temperature=0).text
    options = {"max_tokens": 20, "temperature": 0, "stop": text[10:16], "logprobs": 0}
    whole = steady.create_completion(PROMPT, **options)["choices"][0]
    assert whole["finish_reason"] == "stop"
    assert len("".join(whole["logprobs"]["tokens"])) >= len(whole["text"])
    assert max(whole["logprobs"]["text_offset"]) < len(whole["text"])
    pieces = list(steady.create_completion(PROMPT, stream=True, **options))
    for name in ("tokens", "text_offset"):
        streamed = [item for piece in pieces for item in piece["choices"][0]["logprobs"][name]]
        assert streamed == whole["logprobs"][name]


def test_text_offsets_count_characters(llama):
    """Tokens that are parts of a character begin where the character does."""
    response = llama.create_completion("x", grammar='root ::= "a€🙂b"', logprobs=0, max_tokens=20)
    logprobs = response["choices"][0]["logprobs"]
    assert response["choices"][0]["text"] == "a€🙂b"
    assert logprobs["text_offset"][0] == 0
    assert logprobs["text_offset"][-1] == 3
    assert sorted(logprobs["text_offset"]) == logprobs["text_offset"]


def test_forms(llama):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = llama.create_completion(PROMPT, response_format=named, max_tokens=40, temperature=0)
    assert set(json.loads(response["choices"][0]["text"])) == {"a"}
    assert llama(PROMPT, grammar='root ::= "yes"', max_tokens=9)["choices"][0]["text"] == "yes"


def test_a_bias_forbids(llama):
    token = llama.generate(PROMPT, max_tokens=1, temperature=0).tokens[0]
    response = llama.create_completion(PROMPT, max_tokens=1, temperature=0, logit_bias={str(token): -100})
    other = llama.create_completion(PROMPT, max_tokens=1, temperature=0, logit_bias={token: False})
    plain = llama.create_completion(PROMPT, max_tokens=1, temperature=0)
    assert response["choices"] == other["choices"] != plain["choices"]


def test_leaving_a_stream_cancels(llama):
    stream = llama.create_completion(PROMPT, max_tokens=None, ignore_eos=True, stream=True)
    next(stream)
    assert llama.engine.stats().running >= 1
    stream.close()
    unread = llama.create_completion([PROMPT] * 3, max_tokens=None, ignore_eos=True, stream=True)
    del unread
    gc.collect()
    deadline = time.monotonic() + 5
    while llama.engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert llama.engine.stats().running == 0


def test_async(steady):
    async def both():
        whole, stream = await asyncio.gather(
            steady.acreate_completion(PROMPT, max_tokens=8, temperature=0, n=2),
            steady.acreate_completion(PROMPT, max_tokens=8, temperature=0, stream=True),
        )
        return whole, [piece async for piece in stream]

    whole, pieces = asyncio.run(both())
    text = "".join(piece["choices"][0]["text"] for piece in pieces)
    assert [choice["text"] for choice in whole["choices"]] == [text, text]


def test_an_async_task_that_is_cancelled_frees_the_engine(llama):
    async def run():
        task = asyncio.create_task(llama.acreate_completion([PROMPT] * 2, max_tokens=None, ignore_eos=True))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    deadline = time.monotonic() + 5
    while llama.engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert llama.engine.stats().running == 0


@pytest.mark.parametrize(
    ("prompt", "parameters", "error"),
    [
        (None, {}, lc.InvalidArgumentError),
        ("", {}, lc.InvalidArgumentError),
        ([10**9], {}, lc.OutOfRangeError),
        ([-1], {}, lc.OutOfRangeError),
        ([PROMPT, [10**9]], {}, lc.OutOfRangeError),
        (PROMPT, {"temperature": float("nan")}, lc.InvalidArgumentError),
        (PROMPT, {"top_p": 2}, lc.InvalidArgumentError),
        (PROMPT, {"logit_bias": {10**9: 1}}, lc.OutOfRangeError),
        (PROMPT, {"grammar": "root ::= ("}, lc.GrammarError),
        (PROMPT, {"response_format": {"type": "json_object", "schema": {"type": "nonsense"}}}, lc.GrammarError),
        (PROMPT, {"overflow": "explode"}, lc.InvalidArgumentError),
        ("x" * 20_000, {}, ContextFullError),
        (PROMPT, {"unknown": 1}, lc.InvalidArgumentError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_misuse(llama, prompt, parameters, error, stream):
    """Errors come with the call, not with the first piece; and the object goes on."""
    with pytest.raises(error):
        llama.create_completion(prompt, stream=stream, **parameters)
    with pytest.raises(error):
        asyncio.run(llama.acreate_completion(prompt, stream=stream, **parameters))
    assert llama(PROMPT, max_tokens=1)["usage"]["completion_tokens"] == 1


def test_a_closed_object(tiny_path):
    llama = lc.Llama(tiny_path(), n_threads=1, n_ctx=128)
    stream = llama.create_completion("a", max_tokens=None, ignore_eos=True, stream=True)
    llama.close()
    with pytest.raises(lc.ClosedError):
        list(stream)
    with pytest.raises(lc.ClosedError):
        llama.create_completion("a")
