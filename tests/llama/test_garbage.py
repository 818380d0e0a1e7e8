"""Whatever is given to `Llama`: an error of ours or Python's own TypeError, and the engine goes on."""

from __future__ import annotations

import pytest

import llamacore as lc
from llamacore.llama._options import _KNOWN

GARBAGE = [
    None, 0, -1, 2**31, 10**30, -0.5, float("nan"), float("inf"), "", "x", b"y", [], [1], ["a"], {}, {"a": 1}, {1: 2.0},
    {2**40: 1.0}, object(), True, ("a", "b"), len, frozenset({"a"}), [None], "\ud800", "root ::= root", [2**40],
]  # fmt: skip

CALLS = {
    "stream": lambda llm, value: llm.stream(value, max_tokens=2).result(20),
    "samples": lambda llm, value: llm.samples("a", value, max_tokens=1),
    "chat": lambda llm, value: llm.chat(value, max_tokens=2),
    "content": lambda llm, value: llm.chat([{"role": "user", "content": value}], max_tokens=2),
    "tools": lambda llm, value: llm.chat("hi", tools=value, max_tokens=2),
    "tool_choice": lambda llm, value: llm.chat("hi", tool_choice=value, max_tokens=2),
    "response_format": lambda llm, value: llm.chat("hi", response_format=value, max_tokens=2),
    "embed": lambda llm, value: llm.embed(value),
    "rerank": lambda llm, value: llm.rerank("query", value),
    "score": lambda llm, value: llm.score(value),
    "infill": lambda llm, value: llm.infill(value, "b", max_tokens=2),
    "create_completion": lambda llm, value: llm.create_completion(value, max_tokens=2),
    "create_chat_completion": lambda llm, value: llm.create_chat_completion(value, max_tokens=2),
    "create_embedding": lambda llm, value: llm.create_embedding(value),
    "state_from_bytes": lambda llm, value: llm.state_from_bytes(value),
    "load_state": lambda llm, value: llm.load_state(value),
    "set_lora": lambda llm, value: llm.set_lora(value),
    "load_lora": lambda llm, value: llm.load_lora(value),
}


@pytest.fixture(scope="module")
def llm(demo_path):
    with lc.Llama(demo_path, n_ctx=256, n_threads=1, n_parallel=2) as llm:
        yield llm


def still_works(llm):
    llm.set_lora({})
    assert len(llm.generate("Once upon a time", max_tokens=5, ignore_eos=True).tokens) == 5
    assert not llm.engine.stats().running


@pytest.mark.parametrize("name", sorted(_KNOWN))
def test_any_option(llm, name):
    for value in GARBAGE:
        options = {"max_tokens": 3, "time_limit": 0.5, name: value}
        try:
            generation = llm.stream("Once upon", **options)
        except (lc.LlamaCoreError, TypeError):
            continue
        try:
            generation.result(20)
        except lc.LlamaCoreError:
            pass
        finally:
            generation.cancel()
    still_works(llm)


@pytest.mark.parametrize("name", CALLS)
def test_any_argument(llm, name):
    for value in GARBAGE:
        try:
            CALLS[name](llm, value)
        except (lc.LlamaCoreError, TypeError):
            continue
    still_works(llm)
