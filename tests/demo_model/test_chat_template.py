"""The chat template in the file, rendered with Jinja as inference programs render it."""

from __future__ import annotations

import json
from typing import Any

import pytest

import llamacore as lc
from tools.corpus import CHAT_TEMPLATE, chat_renderer

USER = {"role": "user", "content": "Weather in Oslo?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def template(demo: lc.Model) -> Any:
    """The template of the bundled file, compiled."""
    source = demo.chat_template()
    assert source == CHAT_TEMPLATE
    return chat_renderer(source)


def call(arguments: object) -> dict[str, Any]:
    """A message that calls the weather tool."""
    function = {"name": "get_weather", "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def test_prompt_without_thinking(template: Any) -> None:
    """By default the answer starts after an empty thought."""
    expected = "<|im_start|>user\nWeather in Oslo?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert template.render(messages=[USER], add_generation_prompt=True) == expected
    assert template.render(messages=[USER], add_generation_prompt=True, enable_thinking=False) == expected


def test_prompt_with_thinking(template: Any) -> None:
    """With `enable_thinking` the model goes on inside the thought."""
    text = template.render(messages=[USER], add_generation_prompt=True, enable_thinking=True)
    assert text.endswith("<|im_start|>assistant\n<think>\n")


def test_system_message(template: Any) -> None:
    """The system message comes first; anywhere else it is refused."""
    system = {"role": "system", "content": " Be kind. "}
    text = template.render(messages=[system, USER])
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")
    with pytest.raises(ValueError, match="Only the first message"):
        template.render(messages=[USER, system])


def test_thoughts_of_earlier_turns_are_dropped(template: Any) -> None:
    """Only thoughts after the last question stay, given apart or inside the content."""
    first = {"role": "assistant", "content": "A.", "reasoning_content": "old thought"}
    last = {"role": "assistant", "content": "<think>\nnew thought\n</think>\n\nB."}
    text = template.render(messages=[USER, first, USER, last])
    assert "old thought" not in text
    assert "<|im_start|>assistant\nA.<|im_end|>\n" in text
    assert text.endswith("<|im_start|>assistant\n<think>\nnew thought\n</think>\n\nB.<|im_end|>\n")


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
def test_tools(arguments: object, template: Any) -> None:
    """Tools are listed one JSON object to a line, calls are in Hermes form, results come back in the user's turn."""
    result = {"role": "tool", "content": "sunny"}
    messages = [USER, call(arguments), result, result]
    text = template.render(messages=messages, tools=[WEATHER], add_generation_prompt=True)
    listed = text.split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(listed) == WEATHER
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n' in text
    assert (
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n" in text
    )


def test_text_parts(template: Any) -> None:
    """Content may be a list of text parts; other parts are refused."""
    parts = [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Oslo?"}]
    assert template.render(messages=[{"role": "user", "content": parts}]) == template.render(messages=[USER])
    with pytest.raises(ValueError, match="reads text only"):
        template.render(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])


def test_refusals(template: Any) -> None:
    """No messages and unknown roles are errors that say so."""
    with pytest.raises(ValueError, match="no messages"):
        template.render(messages=[])
    with pytest.raises(ValueError, match="unknown role"):
        template.render(messages=[USER, {"role": "critic", "content": "bad"}])
