"""Upstream's engine behind the shim: what would end the process is an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_cases import USER, WEATHER, inputs

from llamacore.core._native import lib
from llamacore.core.chat import ChatTemplates
from llamacore.core.chat_macros import bounded, unbounded
from llamacore.errors import ClosedError, InvalidArgumentError, LlamaCoreError, TemplateError

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def test_what_is_known_of_a_template() -> None:
    with ChatTemplates(CHATML, "<s>", "</s>") as templates:
        assert templates.source == CHATML
        assert templates.caps["supports_system_role"] is True
        params, parser = templates.apply(inputs())
        assert params["prompt"] == "<|im_start|>user\nHow is the weather in Oslo?<|im_end|>\n"
        assert set(params) == {
            "format", "prompt", "grammar", "grammar_lazy", "grammar_triggers", "preserved_tokens", "additional_stops",
            "generation_prompt", "supports_thinking", "thinking_start_tag", "thinking_end_tags",
        }  # fmt: skip
        assert parser.reply().push(b"Hello") == (0, [{"content": "Hello"}])


def test_closed() -> None:
    templates = ChatTemplates(CHATML)
    _, parser = templates.apply(inputs())
    templates.close()
    templates.close()
    with pytest.raises(ClosedError):
        templates.apply(inputs())
    reply = parser.reply()
    parser.close()
    with pytest.raises(ClosedError):
        parser.reply()
    assert reply.push(b"a")[1] == [{"content": "a"}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "has 0 bytes"),
        ("x" * (256 * 1024 + 1), "has 262145 bytes"),
        ("{% if %}", "cannot be used"),
        ("{{ 'a", "cannot be used"),
        ("{% endfor %}", "cannot be used"),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}{{ llamacore_open_macros }}", "uses the name"),
        ("{% macro f() %}{{ " + "(" * 3000 + "f()" + ")" * 3000 + " }}{% endmacro %}", "too long or nest too deeply"),
        (3, "is a int"),
        (None, "is a NoneType"),
    ],
)
def test_a_source_that_cannot_be_used(source: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ChatTemplates(source)


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": None},
        {"messages": [{}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": 3, "content": "a"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        {"tools": 3},
        {"tools": [{}]},
        {"tools": [{"function": {"name": 3}}]},
        {"tools": [{"function": {"name": "f", "parameters": 3}}]},
        {"tool_choice": "sometimes"},
        {"tool_choice": None},
        {"parallel_tool_calls": 3},
        {"json_schema": {"type": "nonsense"}},
        {"enable_thinking": "yes"},
        {"reasoning_format": "none of these"},
        {"chat_template_kwargs": []},
        {"chat_template_kwargs": {"x": float("nan")}},
        {"chat_template_kwargs": {"x": object()}},
        {"messages": "a", "tools": {}},
    ],
)
def test_inputs_that_cannot_be_used(changed: dict[str, Any], upstream_source: Path) -> None:
    templates = upstream_source / "models" / "templates"
    for name in ("Qwen-Qwen3-0.6B", "openai-gpt-oss-120b", "google-gemma-4-31B-it"):
        with ChatTemplates((templates / f"{name}.jinja").read_text(encoding="utf-8")) as native:
            try:
                native.apply({**inputs(tools=[WEATHER]), **changed})
            except LlamaCoreError as error:
                assert isinstance(error, InvalidArgumentError)
            except KeyError:
                raise AssertionError("no error of ours") from None
            assert native.apply(inputs())[0]["prompt"]


@pytest.mark.parametrize("missing", sorted(inputs()))
def test_inputs_are_complete(missing: str) -> None:
    given = inputs()
    del given[missing]
    with ChatTemplates(CHATML) as native, pytest.raises(InvalidArgumentError):
        native.apply(given)


def test_deep_inputs() -> None:
    deep: Any = "x"
    for _ in range(600):
        deep = [deep]
    with ChatTemplates(CHATML) as native:
        for depth_of in ("chat_template_kwargs", "json_schema"):
            with pytest.raises(InvalidArgumentError, match="nested deeper"):
                native.apply(inputs(**{depth_of: {"x": deep}}))
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(InvalidArgumentError):
            native.apply(inputs(chat_template_kwargs={"x": deep}))


def test_macros_are_counted_without_a_trace(upstream_source: Path) -> None:
    with_macros = 0
    for path in (upstream_source / "models" / "templates").glob("*.jinja"):
        source = path.read_text(encoding="utf-8")
        changed = bounded(source)
        assert unbounded(changed) == source
        assert (changed != source) == ("endmacro" in source)
        with_macros += changed != source
    assert with_macros > 20
    source = (
        "{# {% macro c() %} #}{%- macro f(a='%}', b=\"{% macro x %}\") -%}\n {{ a }}\n {%- endmacro -%} {{ f('}}') }}"
    )
    assert unbounded(bounded(source)) == source
    with ChatTemplates(source) as native:
        assert native.apply(inputs())[0]["prompt"] == "}}"


RECURSIVE = [
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}",
    "{% set n = namespace(f=0) %}{% macro f() %}{{ n.f() }}{% endmacro %}{% set n.f = f %}{{ f() }}",
    "{% macro f() %}{{ " + "(" * 400 + "f()" + ")" * 400 + " }}{% endmacro %}{{ f() }}",
    "{% macro f() %}" + "{% for i in [1] %}" * 50 + "{{ f() }}" + "{% endfor %}" * 50 + "{% endmacro %}{{ f() }}",
    "{% macro f() %}{% if 0 %}" + "{% elif 0 %}" * 60 + "{% else %}{{ f() }}{% endif %}{% endmacro %}{{ f() }}",
]
DEEP = [
    *("{{ " + "(" * n + "1" + ")" * n + " }}" for n in (1000, 50_000)),
    *("{{ " + "1+" * n + "1 }}" for n in (1000, 50_000)),
    *("{{ " + "not " * n + "1 }}" for n in (1000, 30_000)),
    *("{{ " + "-" * n + "1 }}" for n in (1000, 100_000)),
    *("{{ " + "[" * n + "]" * n + " }}" for n in (1000, 50_000)),
    *("{{ (" + "{'a':" * n + "1" + "}" * n + ") | tojson }}" for n in (1000, 20_000)),
    *("{{ a" + "[1" * n + "]" * n + " }}" for n in (1000, 30_000)),
    *("{{ a" + ".a" * n + " }}" for n in (1000, 50_000)),
    *("{{ 1" + "|string" * n + " }}" for n in (1000, 30_000)),
    *("{% if 1 %}" * n + "x" + "{% endif %}" * n for n in (1000, 6_000)),
    *("{% for i in [1] %}" * n + "x" + "{% endfor %}" * n for n in (1000, 5_000)),
    "{% if 0 %}" + "{% elif 0 %}" * 10_000 + "{% endif %}",
]


@pytest.mark.slow
@pytest.mark.parametrize("group", ["RECURSIVE", "DEEP"])
def test_templates_that_recurse(group: str, run_child: Callable[..., str]) -> None:
    code = f"""
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_format_native import {group}, attempt
        for source in {group}:
            print(len(source), attempt(source), flush=True)
    """
    lines = run_child(code, timeout=300).splitlines()
    assert len(lines) == len(globals()[group])
    if group == "RECURSIVE":
        assert all("100 levels deep" in line for line in lines)


def attempt(source: str) -> str:
    """What becomes of a template, on a thread with little stack of its own."""
    found: list[str] = []

    def run() -> None:
        try:
            with ChatTemplates(source) as native:
                found.append(native.apply(inputs())[0]["prompt"][:10])
        except TemplateError as error:
            found.append(str(error)[-60:].replace("\n", " "))

    threading.stack_size(256 * 1024)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (only,) = found
    return repr(only)


def test_a_macro_may_call_itself_within_reason() -> None:
    source = "{% macro f(n) %}{{ n }}{% if n < 40 %}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}|{{ f(38) }}"
    with ChatTemplates(source) as native:
        assert native.apply(inputs())[0]["prompt"].endswith("|383940")


def test_an_error_of_the_engine_is_one_line() -> None:
    source = (
        "{{ 'é' * 0 }}"
        "{# " + "ü" * 2000 + " #}\n{% if messages | length == 1 %}{{ raise_exception('only one') }}{% endif %}"
    )
    with ChatTemplates(source) as native, pytest.raises(TemplateError) as caught:
        native.apply(inputs())
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("only one")
    assert len(str(caught.value)) < 450


def test_several_threads() -> None:
    wrong: list[object] = []
    with ChatTemplates(CHATML) as native:

        def work(number: int) -> None:
            for _ in range(20):
                given = inputs([{"role": "user", "content": str(number)}])
                if native.apply(given)[0]["prompt"] != f"<|im_start|>user\n{number}<|im_end|>\n":
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_bound_is_the_shims() -> None:
    assert lib.LLC_CHAT_MAX_MACROS == 100
    assert USER["role"] == "user"
