"""Conversations, tools and replies in the formats of real models, for the tests of the chat layer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamacore.core.chat import ChatParser, ChatTemplates


def function(name: str, description: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """A tool definition."""
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = function(
    "get_weather",
    "Get the weather in a city, in °C.",
    {
        "city": {"type": "string", "description": "The city"},
        "days": {"type": "integer", "description": "Days ahead"},
        "unit": {"type": "string", "description": "Unit", "enum": ["c", "f"]},
    },
    "city",
)
NUMBERS = {"a": {"type": "number", "description": "First"}, "b": {"type": "number", "description": "Second"}}
ADD = function("add", "Add numbers.", NUMBERS, "a", "b")
USER = {"role": "user", "content": "How is the weather in Oslo?"}


def inputs(messages: list[dict[str, Any]] | None = None, **changed: Any) -> dict[str, Any]:
    """What `ChatTemplates.apply` takes."""
    return {
        "messages": messages or [USER],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "json_schema": None,
        "enable_thinking": True,
        "reasoning_format": "deepseek",
        "add_generation_prompt": True,
        "chat_template_kwargs": {},
        **changed,
    }


@dataclass(frozen=True)
class Case:
    """A reply as a model of a family writes it, and what it means."""

    template: str
    text: str
    content: str | None = None
    reasoning: str | None = None
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    tools: tuple[dict[str, Any], ...] = (WEATHER, ADD)
    options: dict[str, Any] = field(default_factory=dict)

    def parser(self, source: Path) -> ChatParser:
        """The parser that upstream derives."""
        template = (source / "models" / "templates" / f"{self.template}.jinja").read_text(encoding="utf-8")
        with ChatTemplates(template, "<s>", "</s>") as templates:
            return templates.apply(inputs(tools=list(self.tools), **self.options))[1]


OSLO = ("get_weather", {"city": "Oslo"})
OSLO_2 = ("get_weather", {"city": "Oslo", "days": 2})
SUM = ("add", {"a": 1.5, "b": -2})
HERMES = "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"
HERMES_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
HERMES_SUM = '<tool_call>\n{"name": "add", "arguments": {"a": 1.5, "b": -2}}\n</tool_call>'

CASES = [
    Case(HERMES, "Hello, 世界 😀!", "Hello, 世界 😀!"),
    Case(HERMES, HERMES_CALL, calls=(OSLO,)),
    Case(HERMES, "Let me see.\n" + HERMES_CALL + "\n" + HERMES_SUM, "Let me see.\n", calls=(OSLO, SUM)),
    Case("Qwen-Qwen3-0.6B", "<think>\nHm, 1 < 2.\n</think>\n\nHello.", "Hello.", "Hm, 1 < 2.\n"),
    Case("Qwen-Qwen3-0.6B", "<think>\nHm.\n</think>\n\n" + HERMES_CALL, None, "Hm.\n", (OSLO,)),
    # upstream counts the line feed of the prompt, "<think>\\n", in, and leaves the white space after the tag
    Case("Qwen-QwQ-32B", "I think.\n</think>\n\nHello.", "\n\nHello.", "\nI think.\n"),
    Case("meta-llama-Llama-3.1-8B-Instruct",
         '{"name": "get_weather", "parameters": {"city": "Oslo"}}', calls=(OSLO,)),
    Case("meta-llama-Llama-3.1-8B-Instruct", "Just text.", "Just text.", tools=()),
    Case("mistralai-Mistral-Nemo-Instruct-2407",
         '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "abcdef123"}]', calls=(OSLO,)),
    Case("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "I think.</think>Hello.", "Hello.", "\nI think."),
    Case("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
         "I think.</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
         '{"city": "Oslo"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', None, "\nI think.", (OSLO,)),
    Case("openai-gpt-oss-120b",
         "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>final<|message|>Hello.",
         "Hello.", "I think."),
    Case("openai-gpt-oss-120b",
         "<|channel|>analysis<|message|>I think.<|end|><|start|>assistant<|channel|>commentary "
         'to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}', None, "I think.", (OSLO,)),
    Case("Qwen3-Coder",
         "Let me see.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n"
         "</parameter>\n</function>\n</tool_call>", "Let me see.\n", calls=(OSLO_2,)),
    Case("google-gemma-4-31B-it", '<|channel>thought\nI think.\n<channel|>Hello.', "Hello.", "I think.\n"),
    Case("google-gemma-4-31B-it",
         '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:2}<tool_call|>', calls=(OSLO_2,)),
    Case("GLM-4.6",
         "<think>I think.</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
         "</tool_call>", None, "I think.", (OSLO,)),
    Case("Kimi-K2-Instruct",
         "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
         '{"city": "Oslo"}<|tool_call_end|><|tool_calls_section_end|>', calls=(OSLO,)),
    Case("LFM2-8B-A1B", '<|tool_call_start|>[get_weather(city="Oslo", days=2)]<|tool_call_end|>', calls=(OSLO_2,)),
    Case("CohereForAI-c4ai-command-r7b-12-2024-tool_use",
         "<|START_THINKING|>I think.<|END_THINKING|><|START_ACTION|>[\n"
         '{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}}\n]<|END_ACTION|>',
         None, "I think.", (OSLO,)),
    Case("MiniMax-M2",
         'I think.\n</think>\n\n<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo'
         "</parameter>\n</invoke>\n</minimax:tool_call>", None, "I think.\n", (OSLO,)),
    Case("mistralai-Ministral-3-14B-Reasoning-2512",
         '[THINK]I think.[/THINK][TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}', None, "I think.", (OSLO,)),
    Case("ibm-granite-granite-3.3-2B-Instruct", "Just text.", "Just text.", tools=()),
    Case(HERMES, '{"n": 3}', '{"n": 3}', tools=(), options={
        "json_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}),
]  # fmt: skip


def arguments_of(text: str) -> Any:
    """Arguments of a call, read."""
    return json.loads(text)
