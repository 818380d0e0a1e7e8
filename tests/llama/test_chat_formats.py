"""What holds an answer to its format in every chat format that upstream's templates have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llamacore as lc
from llamacore.chat.format import ChatFormat
from llamacore.chat.tools import Tool
from llamacore.errors import UnsupportedError
from llamacore.hub import demo_model_path
from llamacore.llama._chat_run import ChatRequest, ChatRun

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "number", "minimum": 0, "maximum": 3}},
    "required": ["a"],
    "additionalProperties": False,
}
# What formats have around an answer: a closed thought, markers of a channel, a fence.
BEFORE = (
    "", "</think>", "\n</think>\n\n", "<think>x</think>", "</think:opensource>", "<|START_TEXT|>", "final<|message|>",
    "<|channel|>final<|message|>", "<|message|>", "<|header_end|>", " to=user<|message|>", "<|content|>",
    "<think>x</think>\n\n", " to=user<|header_end|>", "[BEGIN FINAL RESPONSE]\n",
)  # fmt: skip
AROUND = (("", ""), ("```json", "```"), ("```json\n", "\n```"), ("", "<|END_TEXT|>"))
NO_CALLS = {
    "HuggingFaceTB-SmolLM3-3B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct", "llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct",
}  # fmt: skip
# Upstream has no grammar of an answer for these: the answer follows one of its own, after the thoughts.
PLAIN = {
    "GigaChat3-10B-A1.8B", "Kimi-K2-Instruct", "Kimi-K2-Thinking", "Kimi-K3", "inclusionai-ling-3.0-flash",
    "meetkai-functionary-medium-v3.2", "moonshotai-Kimi-K2",
}  # fmt: skip


def get_weather(city: str, days: int = 1) -> str:
    """Get the weather."""
    return city


@pytest.fixture(scope="module")
def model() -> Iterator[lc.Model]:
    with lc.Model.load(demo_model_path(), vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def formats(model: lc.Model, upstream_source: Path) -> dict[str, ChatFormat]:
    files = sorted((upstream_source / "models" / "templates").glob("*.jinja"))
    assert len(files) > 50
    return {file.stem: ChatFormat(model, file.read_text(encoding="utf-8")) for file in files}


def sampling(chat_format: ChatFormat, **request: Any) -> dict[str, Any]:
    run = ChatRun(chat_format, None, None, HELLO, ChatRequest(**request), {}, 4096, "model")  # type: ignore[arg-type]
    return run._composed(HELLO)[1]


def takes(model: lc.Model, grammar: str, text: str) -> bool:
    """Whether a grammar takes a text from its start to its end."""
    eos = model.vocab.eos
    assert eos is not None
    with lc.Sampler.grammar(model, grammar) as sampler:
        try:
            for token in [*model.vocab.tokenize(text, add_special=False), eos]:
                sampler.accept(token)
        except lc.SamplingError:
            return False
    return True


def answers(found: dict[str, Any], answer: str) -> Iterator[str]:
    opening = found["generation_prompt"] if found["grammar_type"] != "user" else ""
    for before in BEFORE:
        for left, right in AROUND:
            yield f"{opening}{before}{left}{answer}{right}"


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("kind", ["json", "text", "tools"])
def test_answers(model: lc.Model, formats: dict[str, ChatFormat], kind: str, thinking: bool) -> None:
    """The answer that was asked for is taken in a frame of the format, and another one is not."""
    wanted: dict[str, Any] = {
        "response_format": ["yes", "no"] if kind == "text" else SCHEMA,
        "enable_thinking": thinking,
    }
    if kind == "tools":
        wanted["tools"] = [get_weather]
    good, bad = ("yes", "maybe") if kind == "text" else ('{"a": 1.5}', '{"a": 7.5}')
    n_checked = 0
    for name, chat_format in formats.items():
        if kind == "tools" and name in NO_CALLS | PLAIN:
            with pytest.raises(UnsupportedError, match="go with a response format"):
                sampling(chat_format, **wanted)
            continue
        found = sampling(chat_format, **wanted)
        assert not found.get("grammar_lazy"), name
        assert (found["grammar_type"] == "user") == (name in PLAIN), name
        frames = zip(answers(found, good), answers(found, bad), strict=True)
        frame = next((texts for texts in frames if takes(model, found["grammar"], texts[0])), None)
        assert frame is not None, name
        assert not takes(model, found["grammar"], frame[1]), name
        n_checked += 1
    assert n_checked > 40


def test_neither_fences_nor_chatter(formats: dict[str, ChatFormat]) -> None:
    """What upstream lets stand around answers and before calls is found in its grammars, and taken out."""
    for name in ("Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct", "deepseek-ai-DeepSeek-V3.1"):
        own = formats[name].prepare(HELLO, json_schema=SCHEMA).sampling["grammar"]
        assert "```json" in own
        assert "```json" not in sampling(formats[name], response_format=SCHEMA)["grammar"]
        tool = Tool.from_function(get_weather).to_dict()
        own = formats[name].prepare(HELLO, tools=[tool], tool_choice="required").sampling["grammar"]
        chatter = re.compile(r"^root ::= .*until-\d+\? tool-calls?$", re.MULTILINE)
        assert chatter.search(own)
        assert not chatter.search(sampling(formats[name], tools=[get_weather], tool_choice="required")["grammar"])


def test_forced_calls(model: lc.Model, formats: dict[str, ChatFormat]) -> None:
    for name, chat_format in formats.items():
        if name in NO_CALLS:
            with pytest.raises(UnsupportedError, match="could be forced"):
                sampling(chat_format, tools=[get_weather], tool_choice="required")
            continue
        found = sampling(chat_format, tools=[get_weather], tool_choice="required")
        assert not found.get("grammar_lazy"), name
        lc.Sampler.grammar(model, found["grammar"]).close()
        assert "get_weather" in found["grammar"], name
