"""Requests in the OpenAI API's form: what is read, and what is refused with which words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llamacore as lc
from llamacore.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def completion(**parameters):
    return CompletionRequest.parse({"prompt": "hello", **parameters})


def chat(**parameters):
    return ChatRequest.parse({"messages": MESSAGES, **parameters})


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [3]], ("a", (3,))),
        ((1,), ((1,),)),
    ],
)
def test_prompts(prompt, read):
    assert completion(prompt=prompt).prompts == read
    assert EmbeddingRequest.parse({"input": prompt}).inputs == read


@pytest.mark.parametrize("prompt", [None, [], [[]], 3, b"a", {"a": 1}, [1, "a"], [True], [[1], None], ["a", []], [1.5]])
def test_what_is_no_prompt(prompt):
    with pytest.raises(lc.InvalidArgumentError, match="create_completion: prompt="):
        completion(prompt=prompt)
    with pytest.raises(lc.InvalidArgumentError, match="create_embedding: input="):
        EmbeddingRequest.parse({"input": prompt})


def test_the_defaults():
    assert completion() == CompletionRequest(("hello",), max_tokens=16)
    assert chat() == ChatRequest(tuple(MESSAGES))
    nothing = dict.fromkeys(
        ("suffix", "n", "stop", "seed", "logprobs", "logit_bias", "temperature", "top_p", "user", "tfs_z", "echo")
    )
    assert completion(**nothing) == completion()
    nothing = dict.fromkeys(("tools", "tool_choice", "response_format", "n", "stop", "top_logprobs", "stream_options"))
    assert chat(**nothing) == chat()


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [
        ({}, 16),
        ({"max_tokens": None}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 0}, 0),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 5),
    ],
)
def test_the_limit_of_tokens(parameters, limit):
    assert completion(**parameters).max_tokens == limit


def test_sampling_under_every_name():
    read = completion(
        frequency_penalty=0.1, presence_penalty=0.2, repeat_penalty=1.1, typical_p=0.9, mirostat_mode=2, min_p=0.1,
        repeat_last_n=32, temperature=0, top_k=3, samplers=["top_k"],
    )  # fmt: skip
    assert read.sampling == {
        "penalty_freq": 0.1, "penalty_present": 0.2, "penalty_repeat": 1.1, "typ_p": 0.9, "mirostat": 2, "min_p": 0.1,
        "penalty_last_n": 32, "temperature": 0, "top_k": 3, "samplers": ["top_k"],
    }  # fmt: skip
    assert completion(penalty_freq=0.1).sampling == {"penalty_freq": 0.1}
    assert completion(time_limit=2.5, min_tokens=3).scheduling == {"time_limit": 2.5, "min_tokens": 3}


def test_the_bias_of_tokens():
    assert completion(logit_bias={"5": -100, 7: 1.5, "9": False}).sampling["logit_bias"] == {
        5: -100.0,
        7: 1.5,
        9: -math.inf,
    }
    assert "logit_bias" not in completion(logit_bias={}).sampling


@pytest.mark.parametrize(("seed", "read"), [(1, 1), (-1, None), (2**63, 0), (2**32 + 7, 7), (None, None)])
def test_seeds(seed, read):
    assert completion(seed=seed).seed == read == chat(seed=seed).seed


def test_formats_of_a_reply():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert completion(response_format={"type": "text"}).sampling == {}
    assert completion(response_format={"type": "json_object"}).sampling["json_schema"] == {"type": "object"}
    assert completion(response_format=named).sampling["json_schema"] == schema
    assert chat(response_format={"type": "text"}).response_format is None
    assert chat(response_format={"type": "json_object"}).response_format == {"type": "json_object"}
    assert chat(response_format=named).response_format == named
    with_schema = chat(response_format={"type": "json_object", "schema": schema}).response_format
    assert with_schema == {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}


def test_thinking_and_the_template():
    assert chat(reasoning_effort="none").enable_thinking is False
    read = chat(reasoning_effort="high", chat_template_kwargs={"enable_thinking": True, "date": "x"})
    assert (read.enable_thinking, read.template_options) == (True, {"reasoning_effort": "high", "date": "x"})
    assert chat(enable_thinking=False, chat_template_kwargs={"enable_thinking": True}).enable_thinking is False
    assert chat(thinking_budget=0).thinking_budget == 0


def test_log_probabilities():
    assert (chat().logprobs, chat(logprobs=True).logprobs, chat(logprobs=True, top_logprobs=3).logprobs) == (None, 0, 3)
    assert [completion(logprobs=value).logprobs for value in (None, False, True, 0, 3)] == [None, None, 0, 0, 3]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_token": 3}, "'max_token'. did you mean 'max_tokens'"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"stop_sequences": "x"}, "there is no parameter 'stop_sequences'"),
        ({"max_tokens": -2}, "max_tokens=-2"),
        ({"max_tokens": 2.0}, "max_tokens=2.0"),
        ({"max_tokens": True}, "max_tokens=True"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "it differs from max_completion_tokens"),
        ({"n": 0}, "n=0"),
        ({"n": 1000}, "n=1000"),
        ({"n": "2"}, "n='2'"),
        ({"stop": 3}, "stop=3"),
        ({"stop": [""]}, "stop=['']"),
        ({"stop": [1]}, "stop=[1]"),
        ({"stop": ["a"] * 65}, "at most 64"),
        ({"stop": b"x"}, "stop="),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": "1"}, "seed='1'"),
        ({"stream": 1}, "stream=1"),
        ({"stream": "yes"}, "stream='yes'"),
        ({"stream_options": {"include_usage": True}}, "it is for stream=True"),
        ({"stream": True, "stream_options": {"other": True}}, "stream_options"),
        ({"stream": True, "stream_options": [1]}, "stream_options"),
        ({"logit_bias": [1]}, "logit_bias=[1]"),
        ({"logit_bias": {"a": 1}}, "'a' is no token id"),
        ({"logit_bias": {"-1": 1}}, "'-1' is no token id"),
        ({"logit_bias": {"1": "x"}}, "the bias of 1 is 'x'"),
        ({"logit_bias": {"1": True}}, "the bias of 1 is True"),
        ({"response_format": "json"}, "response_format='json'"),
        ({"response_format": {"type": "xml"}}, "response_format="),
        ({"response_format": {"type": "json_schema"}}, "response_format="),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}, "response_format="),
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "a grammar is given as well"),
        ({"grammar": 3}, "grammar=3"),
        ({"frequency_penalty": 1, "penalty_freq": 1}, "penalty_freq is given as well"),
        ({"model": 3}, "model=3"),
    ],
)
def test_what_is_wrong_is_said(parameters, words):
    for parse in (completion, chat):
        with pytest.raises(lc.InvalidArgumentError) as caught:
            parse(**parameters)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "parameters", "words"),
    [
        (completion, {"suffix": 3}, "suffix=3"),
        (completion, {"suffix": "x", "echo": True}, "it does not go with suffix"),
        (completion, {"suffix": "x", "prompt": [1]}, "prompts that are texts"),
        (completion, {"echo": "yes"}, "echo='yes'"),
        (completion, {"logprobs": -1}, "logprobs=-1"),
        (completion, {"logprobs": 5000}, "logprobs=5000"),
        (completion, {"messages": MESSAGES}, "'messages'"),
        (completion, {"tools": TOOLS}, "'tools'"),
        (chat, {"messages": []}, "messages=[]"),
        (chat, {"messages": "hi"}, "messages='hi'"),
        (chat, {"messages": MESSAGES[0]}, "messages={"),
        (chat, {"messages": None}, "messages=None"),
        (chat, {"tools": "f"}, "tools='f'"),
        (chat, {"tool_choice": "always", "tools": TOOLS}, "tool_choice='always'"),
        (chat, {"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice="),
        (chat, {"tool_choice": "required"}, "there are no tools"),
        (chat, {"parallel_tool_calls": 3}, "parallel_tool_calls=3"),
        (chat, {"top_logprobs": 3}, "it needs logprobs=True"),
        (chat, {"logprobs": 3}, "logprobs=3"),
        (chat, {"prompt": "x"}, "'prompt'"),
        (chat, {"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        (chat, {"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs"),
        (chat, {"thinking_budget": -1}, "thinking_budget=-1"),
        (chat, {"enable_thinking": 3}, "enable_thinking=3"),
    ],
)
def test_what_is_wrong_of_one_kind(parse, parameters, words):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        parse(**parameters)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "neutral", "hint"),
    [
        ("tfs_z", 0.9, 1.0, "use top_p"),
        ("stopping_criteria", [len], [], "stop="),
        ("logits_processor", [len], None, "logit_bias="),
        ("functions", TOOLS, None, "tools="),
        ("function_call", "auto", None, "tool_choice="),
    ],
)
def test_what_llama_cpp_python_had_and_we_have_not(name, value, neutral, hint):
    for parse in (completion, chat):
        with pytest.raises(lc.UnsupportedError) as caught:
            parse(**{name: value})
        assert hint in str(caught.value)
        parse(**{name: neutral})


def test_best_of_is_refused_unless_it_says_nothing():
    assert completion(n=2, best_of=2).n == 2
    with pytest.raises(lc.UnsupportedError, match="best_of"):
        completion(n=1, best_of=2)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"encoding_format": "hex"}, "encoding_format='hex'"),
        ({"dimensions": 0}, "dimensions=0"),
        ({"pooling": "mean"}, "'pooling'"),
        ({"model": 1}, "model=1"),
    ],
)
def test_embeddings(parameters, words):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        EmbeddingRequest.parse({"input": "x", **parameters})
    assert words in str(caught.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["prompt", "messages", "input", "n", "stop", "logit_bias", "response_format", "tools", "tool_choice", "stream",
     "stream_options", "logprobs", "top_logprobs", "seed", "max_tokens", "suffix", "grammar", "chat_template_kwargs",
     "functions", "tfs_z", "dimensions", "encoding_format", "x"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, JUNK, max_size=5))
def test_junk_is_refused_in_words(given_parameters):
    """Whatever a client sends: a request, or one of our errors."""
    for kind, needed in ((CompletionRequest, {"prompt": "a"}), (ChatRequest, {"messages": MESSAGES})):
        try:
            kind.parse({**needed, **given_parameters})
        except lc.LlamaCoreError as error:
            assert error.hint
