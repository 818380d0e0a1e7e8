"""Random schemas and expressions: what a grammar lets through keeps to what was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llamacore as lc
from llamacore.chat.control_tokens import unseen_bias
from llamacore.chat.regex import regex_to_gbnf
from llamacore.chat.schema import schema_to_gbnf
from llamacore.chat.schema_check import violation
from llamacore.errors import GrammarError

jsonschema = pytest.importorskip("jsonschema")


def examples(n: int) -> settings:
    """Settings of runs that are always the same, on machines of any speed."""
    return settings(
        max_examples=n, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )


@pytest.fixture(scope="module")
def llama(demo_path: Any) -> Iterator[lc.Llama]:
    with lc.Llama(demo_path, n_threads=1, n_ctx=512) as llama:
        yield llama


NAMES = st.sampled_from(["a", "b", "name", "x y", "long-name", "é", 'q"t', "char", "b\\s", "root", "a.b"])
TEXTS = st.text('abzé"\\ \n{}:,0', max_size=6)
NUMBERS = st.one_of(st.integers(-1000, 1000), st.sampled_from([0.5, -2.25, 1e-3, 99.75, 1e12, -3]))


@st.composite
def bounded(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    schema: dict[str, Any] = {"type": kind}
    if kind == "integer":
        low, high = int(low // 1), int(high // 1) + 2
    else:
        high += 0.25
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high
    return schema


@st.composite
def texts(draw: st.DrawFn) -> dict[str, Any]:
    what = draw(st.sampled_from(["plain", "lengths", "pattern", "format"]))
    schema: dict[str, Any] = {"type": "string"}
    if what == "lengths":
        least = draw(st.integers(0, 4))
        schema |= {"minLength": least, "maxLength": least + draw(st.integers(0, 8))}
    elif what == "pattern":
        schema["pattern"] = draw(
            st.sampled_from(["^[a-z]{2,5}$", r"^\d{3}-\d{4}$", "ab", "^x", "y$", r'^"[^"\\]{0,3}"$', "^(yes|no)$",
                             r"^\w{1,6}\s?\w{1,3}$"])
        )  # fmt: skip
    elif what == "format":
        schema["format"] = draw(st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "email", "hostname"]))
    return schema


def scalars() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        bounded("integer"),
        bounded("number"),
        texts(),
        st.sampled_from(
            [{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}, {"$ref": "#/$defs/leaf"}]
        ),
        st.lists(st.one_of(TEXTS, NUMBERS, st.booleans(), st.none()), min_size=1, max_size=4).map(
            lambda v: {"enum": v}
        ),
        st.one_of(TEXTS, NUMBERS, st.lists(NUMBERS, max_size=2), st.dictionaries(NAMES, TEXTS, max_size=2)).map(
            lambda v: {"const": v}
        ),
    )


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    more = draw(st.sampled_from(["absent", "closed", "typed"]))
    if more == "closed":
        schema["additionalProperties"] = False
    elif more == "typed" and all(re.fullmatch(r"[\w ]+", name) for name in properties):
        schema["additionalProperties"] = {"type": "integer"}
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    if draw(st.integers(0, 3)) == 0:
        return {"type": "array", "prefixItems": draw(st.lists(inner, min_size=1, max_size=3)), "items": False}
    least = draw(st.integers(0, 2))
    return {"type": "array", "items": draw(inner), "minItems": least, "maxItems": least + draw(st.integers(0, 2))}


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    trees = st.recursive(
        scalars(),
        lambda inner: st.one_of(
            objects(inner),
            arrays(inner),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
            st.tuples(objects(inner), objects(inner)).map(lambda parts: {"allOf": list(parts)}),
        ),
        max_leaves=6,
    )
    leaf = {
        "type": "object",
        "properties": {"value": {"type": "integer", "minimum": 0}, "next": {"$ref": "#/$defs/leaf"}},
        "required": ["value"],
    }
    return trees.map(lambda tree: {**tree, "$defs": {"leaf": leaf}})


def check_schema(llama: lc.Llama, schema: dict[str, Any], seed: int, counts: list[int]) -> None:
    try:
        grammar = schema_to_gbnf(schema)
    except GrammarError as exc:
        assert re.search(r"JSON schema, \$.*: ", exc.message), exc  # the path is named
        counts[2] += 1
        return
    only = unseen_bias(llama.model, grammar)
    completion = llama.generate("The value is ", grammar=grammar, logit_bias=only, max_tokens=220, temperature=1.3,
                                top_k=0, min_p=0.0, top_p=1.0, seed=seed)  # fmt: skip
    counts[0] += 1
    if completion.finish_reason == "length":
        return
    counts[1] += 1
    value = json.loads(completion.text)
    jsonschema.Draft202012Validator(schema).validate(value)
    assert violation(value, schema) is None


def run_schemas(llama: lc.Llama, n: int) -> None:
    counts = [0, 0, 0]

    @examples(n)
    @given(schema=schemas(), seed=st.integers(0, 2**31))
    def check(schema: dict[str, Any], seed: int) -> None:
        check_schema(llama, schema, seed, counts)

    check()
    made, finished, refused = counts
    print(f"{made} texts, {finished} finished, {refused} schemas refused")
    assert made >= n // 2
    assert finished >= made // 2


def test_random_schemas_hold(llama: lc.Llama) -> None:
    run_schemas(llama, 25)


@pytest.mark.slow
def test_two_hundred_random_schemas_hold(llama: lc.Llama) -> None:
    run_schemas(llama, 260)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    atoms = st.sampled_from(
        ["a", "b", "é", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", ".", "[a-f]", "[^a-f]", r"[\w-]", r"[^\s,]",
         r"\.", '"', r"\\", "[]x]", "世", r"\n", r"\x41", r"\u00e9", "(?i:k)", "(?i:[^s])", "[^\\d\\s]"]
    )  # fmt: skip
    groups = ("({})", "(?:{})", "(?P<g>{})")
    tails = st.sampled_from(["", "", "", "?", "*", "+", "{2}", "{1,3}", "{2,}", "*?", "{0,2}"])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        joined = st.lists(inner, min_size=1, max_size=3).map("".join)
        chosen = st.lists(inner, min_size=1, max_size=3).map("|".join)
        shapes = st.sampled_from(groups[:2])
        return st.builds(lambda body, shape, tail: shape.format(body) + tail, st.one_of(joined, chosen), shapes, tails)

    part = st.builds(lambda atom, tail: atom + tail, atoms, tails)
    body = draw(st.lists(st.recursive(part, grow, max_leaves=5), min_size=1, max_size=3).map("".join))
    return draw(st.sampled_from(["{}", "^{}$", "^(?:{})", "(?:{})$"])).format(body)


def run_expressions(llama: lc.Llama, n: int) -> None:
    counts = [0, 0]

    @examples(n)
    @given(pattern=expressions(), seed=st.integers(0, 2**31), in_json=st.booleans())
    def check(pattern: str, seed: int, in_json: bool) -> None:
        schema = {"type": "string", "pattern": pattern}
        grammar = schema_to_gbnf(schema) if in_json else regex_to_gbnf(pattern)
        only = unseen_bias(llama.model, grammar)
        completion = llama.generate("Text: ", grammar=grammar, logit_bias=only, max_tokens=60, temperature=1.5,
                                    top_k=0, min_p=0.0, top_p=1.0, seed=seed)  # fmt: skip
        counts[0] += 1
        if completion.finish_reason == "stop":
            counts[1] += 1
            if in_json:
                assert re.search(pattern, json.loads(completion.text)), (pattern, completion.text)
            else:
                assert re.fullmatch(pattern, completion.text), (pattern, completion.text)

    check()
    print(f"{counts[0]} texts, {counts[1]} finished")
    assert counts[1] >= counts[0] // 2


def test_random_expressions_hold(llama: lc.Llama) -> None:
    run_expressions(llama, 25)


@pytest.mark.slow
def test_a_hundred_random_expressions_hold(llama: lc.Llama) -> None:
    run_expressions(llama, 200)


KEYWORDS = re.findall(
    r"\S+",
    "type properties required additionalProperties items prefixItems additionalItems minItems maxItems uniqueItems "
    "contains minContains maxContains minLength maxLength pattern format minimum maximum exclusiveMinimum "
    "exclusiveMaximum multipleOf enum const anyOf oneOf allOf not $ref $defs dependentRequired propertyNames title",
)
GARBAGE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 5), st.floats(),
        st.sampled_from(["integer", "object", "array", "#", "a", "x", "#/$defs/a", "#/$defs/a/b", "#/properties/a",
                         "^a$", "(", ""]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


def run_garbage(demo_model: lc.Model, n: int) -> None:
    counts = [0, 0]

    @examples(n)
    @given(schema=st.dictionaries(st.sampled_from(KEYWORDS), GARBAGE, max_size=5), value=GARBAGE)
    def check(schema: dict[str, Any], value: Any) -> None:
        try:
            grammar = schema_to_gbnf(schema)
            counts[0] += 1
            lc.Sampler.grammar(demo_model, grammar).close()
            counts[1] += 1
        except GrammarError as exc:
            assert len(exc.message) > 10
        violation(value, schema)

    check()
    print(f"{n} schemas, {counts[0]} with a grammar, {counts[1]} of them usable")
    assert counts[0] > n // 20


def test_garbage_is_an_error_and_nothing_else(demo_model: lc.Model) -> None:
    run_garbage(demo_model, 200)


@pytest.mark.slow
def test_much_garbage_is_an_error_and_nothing_else(demo_model: lc.Model) -> None:
    run_garbage(demo_model, 5000)
