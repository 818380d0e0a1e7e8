"""Chat templates in jinja2: what model authors expect is there, what must not be is not, errors name the line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from llamacore.chat.template import ChatTemplate, protect
from llamacore.errors import InvalidArgumentError, TemplateError

USER = {"role": "user", "content": "<é> & \"q\" 'x'"}


def render(source: str, messages: list[dict[str, Any]] | None = None, **options: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages or [USER], **options)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s><é> & \"q\" 'x'</s>"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<é> & \\"q\\" \'x\'"}'),
        ("{{ {'b': 1, 'a': [1, 2]} | tojson(indent=2) }}", '{\n  "b": 1,\n  "a": [\n    1,\n    2\n  ]\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{{ messages | map(attribute='role') | tojson }}", '["user"]'),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% for i in range(4) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "023"),
        ("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("a{% generation %}b{{ 1 }}{% endgeneration %}c", "ab1c"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2031-02-03"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ '<b>' | safe + '\"' + {'a': '<'} | tojson }}", '<b>"{"a": "<"}'),
        ("{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}{{ l.pop(0) }}{{ l }}", "[1, 2]1[2]"),
        ("{{ 'a' + nothing }}{{ nothing + 'b' }}{{ messages[0].nothing + 'c' }}", "abc"),
        (
            "{{ tools is none }}{{ tools is defined }}{% for t in tools %}x{% endfor %}{{ tools == none }}",
            "TrueFalseTrue",
        ),
        ("{{ nothing is none }}{{ nothing is defined }}{{ none is none }}", "FalseFalseTrue"),
        ("{{ add_generation_prompt }}{{ enable_thinking is defined }}", "TrueFalse"),
    ],
)
def test_what_templates_use(source: str, expected: str) -> None:
    assert render(source, now=datetime(2031, 2, 3)) == expected


def test_options_are_passed() -> None:
    source = "{{ add_generation_prompt }} {{ enable_thinking }} {{ mood }} {{ tools[0].x }}"
    rendered = render(
        source, add_generation_prompt=False, enable_thinking=True, variables={"mood": "good"}, tools=[{"x": 1}]
    )
    assert rendered == "False True good 1"


def test_what_was_given_is_not_changed() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    tools = [{"x": [1]}]
    render(
        "{% set _ = messages[0].content.append(1) %}{% set _ = tools[0].x.pop() %}{% set _ = messages.append(2) %}",
        [message],
        tools=tools,
    )
    assert message == {"role": "user", "content": [{"type": "text", "text": "a"}]}
    assert tools == [{"x": [1]}]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{{ strftime_now.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ 1 // 0 }}",
        "{{ 'a' | int + [] }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ strftime_now(3) }}",
        "{{ messages | tojson(nonsense=1) }}",
        "{{ messages[0].content.encode('latin-1', 'x').decode('utf-8') }}",
    ],
)
def test_what_must_not_work_is_an_error_or_nothing(source: str) -> None:
    try:
        assert render(source) in ("", "1")
    except TemplateError as error:
        assert "line 1" in str(error)


def test_an_error_names_its_line_and_shows_it() -> None:
    with pytest.raises(TemplateError, match=r"line 3 \(\{\{ messages\[9\]\.content\.x \}\}\)"):
        render("a\nb\n  {{ messages[9].content.x }}\nc")
    with pytest.raises(
        TemplateError, match=r"refuses the conversation: no\. \(line 2: \{\{ raise_exception\('no\.'\) \}\}"
    ):
        render("a\n{{ raise_exception('no.') }}")
    with pytest.raises(TemplateError, match=r"line 2 \(\{% if %\}\): "):
        ChatTemplate("a\n{% if %}")
    with pytest.raises(TemplateError, match="line 4"):
        render("{% macro m(x) %}\n{% if x %}\n\n{{ x.y.z }}\n{% endif %}{% endmacro %}\n\n{{ m(1) }}")


def test_a_long_line_is_cut() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{ 1 // 0 }}" + "x" * 10_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("depth", [50, 300, 5000, 100_000])
@pytest.mark.parametrize(
    "parts",
    [("{{ ", "(", "1", ")", " }}"), ("{{ ", "-", "1", "", " }}"), ("{{ ", "1+", "1", "", " }}"),
     ("", "{% if 1 %}", "1", "{% endif %}", ""), ("", "{% for i in [1] %}", "1", "{% endfor %}", "")],
)  # fmt: skip
def test_deep_templates_are_rendered_or_refused(parts: tuple[str, ...], depth: int) -> None:
    before, opening, inner, closing, after = parts
    try:
        assert render(before + opening * depth + inner + closing * depth + after)
    except TemplateError:
        assert depth > 10


@pytest.mark.parametrize("source", [None, 3, b"x", ["x"]])
def test_a_template_that_is_no_text(source: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        ChatTemplate(source)


def test_protection_breaks_control_texts_everywhere() -> None:
    value = {"content": ["a<|x|>b", {"text": "<|x|><|x|>"}], "n": 3}
    assert protect(value, ["<|x|>"]) == {"content": ["a<\ufdd0|x|>b", {"text": "<\ufdd0|x|><\ufdd0|x|>"}], "n": 3}
    assert protect("a\ufdd0b", ["<|x|>"]) == "ab"
