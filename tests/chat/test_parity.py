"""The prompt that jinja2 renders is the one that upstream's engine renders, for every template of the pinned source.

Where it is not, `parity_exceptions.json` says why; an exception that is not needed any more fails.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from chat_cases import ADD, USER, WEATHER, function, inputs

import llamacore as lc
from llamacore.chat.format import ChatFormat
from llamacore.chat.history import canonical_messages, canonical_tools, finish_prompt, for_template
from llamacore.chat.options import aliases
from llamacore.chat.template import ChatTemplate
from llamacore.core.chat import ChatTemplates
from llamacore.errors import TemplateError

NOW = datetime.datetime.now()
DATES = {"date_string": NOW.strftime("%d %b %Y"), "datetime": NOW.strftime("%b %d %Y")}
EXCEPTIONS = json.loads((Path(__file__).parent / "parity_exceptions.json").read_text(encoding="utf-8"))

Conversation = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def call(number: int, name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"abcdef12{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


ODD_USER = {"role": "user", "content": 'What is "x" <b> & é, {{ y }}?\n'}
SYSTEM = {"role": "system", "content": "Be kind."}
ANSWER = {"role": "assistant", "content": "It's sunny."}
THOUGHT = {**ANSWER, "reasoning_content": "The result says so."}
CALL = {"role": "assistant", "content": None, "tool_calls": [call(3, "get_weather", '{"city": "Oslo", "days": 1}')]}
CALL_THOUGHT = {**CALL, "reasoning_content": "I have to look it up."}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "get_weather", "content": '{"sunny": true}'}
LIST = function(
    "total", "", {"numbers": {"type": "array", "items": {"type": "number"}, "description": "All"}}, "numbers"
)
CALLS = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [call(3, "get_weather", '{"city": "Oslo"}'), call(4, "total", '{"numbers": [1.5, 2]}')],
}
VALUES = {
    "role": "assistant",
    "content": " ",
    "tool_calls": [
        call(
            3,
            "get_weather",
            '{"city": "Zürich \\"x\\" <b>\\n", "days": -2.50, "unit": null, "deep": {"on": true, "n": {}}}',
        )
    ],
}
RESULT_2 = {"role": "tool", "tool_call_id": "abcdef124", "name": "total", "content": "3.5"}
CONVERSATIONS: dict[str, Conversation] = {
    "user": ([ODD_USER], []),
    "system": ([SYSTEM, USER], []),
    "developer": ([{"role": "developer", "content": "Be kind."}, USER], []),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], []),
    "turns": ([SYSTEM, USER, ANSWER, ODD_USER], []),
    "tools": ([SYSTEM, USER], [WEATHER, ADD, LIST]),
    "call": ([USER, CALL, RESULT], [WEATHER, LIST]),
    "called": ([SYSTEM, USER, CALL, RESULT, ANSWER, USER], [WEATHER]),
    "parallel": ([USER, CALLS, RESULT, RESULT_2], [WEATHER, LIST]),
    "values": ([USER, VALUES, RESULT], [WEATHER]),
    "undefined-tools": ([USER, CALL, RESULT], []),
    "thought": ([USER, THOUGHT, USER], []),
    "thought-call": ([USER, CALL_THOUGHT, RESULT], [WEATHER]),
    "thought-called": ([USER, CALL_THOUGHT, RESULT, THOUGHT, USER], [WEATHER]),
}


def excepted(template: str, conversation: str, add_generation_prompt: bool) -> bool:
    """Whether a difference is on the list."""
    return any(
        item["template"] == template
        and conversation in item.get("conversations", [conversation])
        and item.get("add_generation_prompt", add_generation_prompt) == add_generation_prompt
        for item in EXCEPTIONS
    )


class Both:
    """One template in both engines."""

    def __init__(self, source: str) -> None:
        self.native = ChatTemplates(source, "<s>", "</s>")
        self.python = ChatTemplate(self.native.source, bos_token="<s>", eos_token="</s>")

    def upstream(
        self,
        conversation: Conversation,
        thinking: bool,
        opened: bool,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> str | None:
        """What upstream's engine renders; None when it refuses."""
        messages, tools = conversation
        given = inputs(
            canonical_messages(messages),
            tools=canonical_tools(tools),
            enable_thinking=thinking,
            add_generation_prompt=opened,
            chat_template_kwargs={**DATES, **options},
        )
        try:
            prompt: str = self.native.apply(given)[0]["prompt"]
        except TemplateError:
            return None
        return prompt

    def ours(
        self,
        conversation: Conversation,
        thinking: bool,
        opened: bool,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> str | None:
        """What jinja2 renders; None when it refuses."""
        messages, tools = conversation
        shown = for_template(canonical_messages(messages), self.native.source, self.native.caps)
        try:
            prompt = self.python.render(
                shown, tools=canonical_tools(tools), add_generation_prompt=opened, enable_thinking=thinking,
                variables=aliases({**DATES, **options}), now=NOW,
            )  # fmt: skip
        except TemplateError:
            return None
        return finish_prompt(prompt, self.native.source, add_generation_prompt=opened)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "template" in metafunc.fixturenames:
        metafunc.parametrize("template", list(template_names()))


def template_names() -> Iterator[str]:
    """Names of the templates, from the list beside this file: the source may have to be fetched first."""
    yield from (Path(__file__).parent / "templates.txt").read_text(encoding="utf-8").split()


@pytest.fixture
def source(upstream_source: Path, template: str) -> str:
    return (upstream_source / "models" / "templates" / f"{template}.jinja").read_text(encoding="utf-8")


def test_the_list_is_complete(upstream_source: Path) -> None:
    folder = upstream_source / "models" / "templates"
    assert sorted(path.stem for path in folder.glob("*.jinja")) == list(template_names())


def test_both_render_the_same(template: str, source: str) -> None:
    both = Both(source)
    rendered = 0
    for (name, conversation), thinking, opened in product(CONVERSATIONS.items(), (True, False), (True, False)):
        theirs, ours = both.upstream(conversation, thinking, opened), both.ours(conversation, thinking, opened)
        rendered += theirs is not None and ours is not None
        if excepted(template, name, opened):
            assert theirs != ours, f"the exception for {name} is not needed any more"
        else:
            assert theirs == ours, (name, thinking, opened)
    assert rendered > 20


@pytest.mark.parametrize(
    "options",
    [{"reasoning_effort": "low"}, {"preserve_reasoning": True}, {"preserve_reasoning": False}, {"odd": [1, None, "é"]}],
    ids=str,
)
def test_options_render_the_same(options: dict[str, Any], upstream_source: Path) -> None:
    rendered = 0
    for template in template_names():
        both = Both((upstream_source / "models" / "templates" / f"{template}.jinja").read_text(encoding="utf-8"))
        for name in ("turns", "thought-called"):
            if not excepted(template, name, True):
                theirs = both.upstream(CONVERSATIONS[name], True, True, options)
                assert theirs == both.ours(CONVERSATIONS[name], True, True, options), (template, name)
                rendered += theirs is not None
    assert rendered > 120


def test_exceptions_name_templates_and_reasons() -> None:
    for item in EXCEPTIONS:
        assert item["template"] in set(template_names())
        assert set(item.get("conversations", [])) <= set(CONVERSATIONS)
        assert len(item["reason"]) > 40


def test_a_format_renders_the_same(template: str, source: str, demo_model: lc.Model) -> None:
    """Through `ChatFormat`, with what it adds: protection, dates, thinking."""
    chat = ChatFormat(demo_model, source)
    # gemma 2 knows neither tools nor a system, and the other is on the list of exceptions with tools
    plain = template in ("google-gemma-2-2b-it", "CohereForAI-c4ai-command-r-plus-tool_use")
    messages, tools = CONVERSATIONS["user" if plain else "call"]
    for thinking in (True, False):
        prepared = chat.prepare(messages, tools=tools, enable_thinking=thinking, now=NOW)
        variant = chat._plain.native
        given = inputs(
            canonical_messages(messages), tools=canonical_tools(tools), enable_thinking=thinking,
            chat_template_kwargs=DATES,
        )  # fmt: skip
        assert prepared.prompt.replace("\ufdd0", "") == variant.apply(given)[0]["prompt"]
        assert demo_model.vocab.detokenize(prepared.tokens) == prepared.prompt.replace("\ufdd0", "")
