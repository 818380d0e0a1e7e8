from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import random
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, TypedDict

import pytest
from fitting import fits

import llamacore as lc
from llamacore.chat import gbnf, numbers
from llamacore.chat.schema import ANNOTATIONS, CHECKED, REFUSED, schema_to_gbnf
from llamacore.chat.schema_check import same, violation
from llamacore.chat.string_formats import STRING_FORMATS
from llamacore.chat.structured import output_format
from llamacore.chat.type_schema import TypeSchema
from llamacore.errors import GrammarError, IncompleteOutputError, InvalidArgumentError, StructuredOutputError

# schemas

TREE = {
    "$ref": "#/$defs/a.b",
    "$defs": {
        "a.b": {"type": "object", "properties": {"n": {"$ref": "#/$defs/a-b"}}, "required": ["n"]},
        "a-b": {"type": "array", "items": {"$ref": "#/$defs/a.b"}, "maxItems": 2},
    },
}
BASE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SCHEMAS: list[tuple[Any, list[str], list[str]]] = [
    (True, ["1", '"x"', "[{}]"], ["x"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, ["0.5", "1"], ["0", "1.1", "-1", "2"]),
    ({"type": "number", "minimum": -0.5}, ["-0.5", "-0.25", "7.5"], ["-0.6", "-1"]),
    ({"type": "number"}, ["1e5", "-0.1"], ["1e999", "01"]),
    ({"type": "integer", "maximum": -5}, ["-5", "-50"], ["-4", "-05", "5"]),
    ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 4}, ["2", "3"], ["1", "4"]),
    ({"type": "integer", "minimum": 1.5}, ["2"], ["1"]),
    ({"type": "string", "pattern": r"\d"}, ['"a1b"', '"1"'], ['"ab"']),
    ({"type": "string", "pattern": '^a"$'}, [r'"a\""'], ['"a""']),
    ({"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"']),
    ({"type": "string", "minLength": 1, "maxLength": 2}, ['"é"', r'"\n"', '"ab"'], ['""', '"abc"']),
    ({"type": "string"}, [r'"\u00e9"'], [r'"\ud800"', '"\n"']),
    ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2023-04-30"'], ['"2023-02-29"', '"2023-04-31"']),
    ({"type": "string", "format": "unknown"}, ['"x"'], ["1"]),
    ({"const": {"a": [1, None]}}, ['{"a": [1, null]}'], ['{"a": [1]}']),
    ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ["2"]),
    ({"enum": [1, 2, 30], "minimum": 2, "maximum": 9}, ["2"], ["1", "30"]),
    ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    ({"type": ["integer", "null"], "minimum": 3}, ["3", "null"], ["2"]),
    ({"anyOf": [{"minimum": 5}, {"maximum": 1}], "type": "integer"}, ["6", "0"], ["3"]),
    ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ['"x"', "null"], ["1"]),
    (
        {"allOf": [BASE, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]},
        ['{"a": 1, "b": null}'],
        ['{"a": 1}'],
    ),
    ({"allOf": [{"type": "integer", "minimum": 1}, {"type": "number", "maximum": 3}]}, ["2"], ["0", "4", "1.5"]),
    ({"$ref": "#/$defs/x", "maximum": 3, "$defs": {"x": {"type": "integer", "minimum": 1}}}, ["3"], ["0", "4"]),
    ({"allOf": [{"$ref": "#/$defs/x"}], "description": "d", "$defs": {"x": {"type": "null"}}}, ["null"], ["1"]),
    (TREE, ['{"n": [{"n": []}]}'], ['{"n": [1]}', "{}"]),
    ({**BASE, "additionalProperties": {"type": "null"}}, ['{"a": 1, "b": null}'], ['{"a": 1, "b": 2}', '{"b": null}']),
    ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, ["{}", '{"x": 1}'], ['{"x": "y"}']),
    ({"type": "object", "required": ["z"]}, ['{"z": [1]}'], ["{}"]),
    ({"properties": {"a": False, "b": {"type": "null"}}}, ["{}", '{"b": null}'], ['{"a": 1}']),
    ({"properties": {'q"\\': {"const": 1}}, "required": ['q"\\']}, [r'{"q\"\\": 1}'], ["{}"]),
    ({"prefixItems": [{"const": 1}, {"const": 2}]}, ["[1, 2]"], ["[1]", "[2, 1]"]),
    ({"prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, ["[1, 2, 2]"], ["[1]", "[1, 2]"]),
    ({"items": [{"const": 1}, {"const": 2}], "additionalItems": False}, ["[1, 2]"], ["[1, 2, 3]"]),
    (
        {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
        ["[null]"],
        ["[]", "[null,null,null]"],
    ),
    ({"type": "array", "items": False}, ["[]"], ["[1]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    ({"type": "string", "maxLength": 100_000}, ['"long"'], ["1"]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS, ids=lambda value: json.dumps(value)[:60])
def test_schemas(demo_model: lc.Model, schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = schema_to_gbnf(schema)
    for text in good:
        assert fits(demo_model, grammar, text), text
        assert violation(json.loads(text), schema) is None, text
    for text in bad:
        assert not fits(demo_model, grammar, text), text


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"patternProperties": {}}}}, "$.properties.a.patternProperties"),
        ({"if": {}}, "$.if"),
        ({"items": {"unevaluatedItems": False}}, "$.items.unevaluatedItems"),
        ({"properties": {"age": {"minimum": "a"}}}, "$.properties.age.minimum"),
        ({"properties": {"age": {"minimum": True}}}, "$.properties.age.minimum"),
        ({"properties": {"age": {"maximum": 1e308}}}, "$.properties.age.maximum"),
        ({"properties": {"a b": {"type": "string", "pattern": "(?=x)"}}}, '$.properties["a b"].pattern'),
        ({"items": {"type": "string", "pattern": "("}}, "$.items.pattern"),
        ({"type": "string", "minLength": -1}, "$.minLength"),
        ({"type": "string", "minLength": 1.5}, "$.minLength"),
        ({"type": "string", "minLength": 5000}, "$.minLength"),
        ({"type": "array", "minItems": 5000}, "$.minItems"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "$: minLength is above"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "$: an array of at least 3"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "$: there is no number"),
        ({"type": "number", "exclusiveMinimum": 3, "maximum": 3}, "$: there is no number"),
        ({"anyOf": [{"type": "strin"}]}, "$.anyOf[0].type"),
        ({"anyOf": []}, "$.anyOf"),
        ({"enum": []}, "$.enum"),
        ({"enum": 5}, "$.enum"),
        ({"const": 1, "type": "string"}, "$.const"),
        ({"items": {"$ref": "#/$defs/none"}}, "$.items.$ref"),
        ({"$ref": "https://example.com/schema"}, "$.$ref"),
        ({"$ref": 5}, "$.$ref"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "$.type"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "$.pattern"),
        ({"allOf": [{"$ref": "#"}]}, "$: nested deeper"),
        ({"enum": None, "const": None, "anyOf": [{}]}, "$.anyOf[0].enum"),
        ({"allOf": [{"properties": None}, {"additionalProperties": False, "properties": {"a": {}}}]}, "$.properties"),
        ({"allOf": [{"anyOf": None}, {"oneOf": [{}]}]}, "$.anyOf"),
        ({"properties": 5}, "$.properties"),
        ({"properties": {"a": 5}}, "$.properties.a"),
        ({"properties": {"*": {}}}, '$.properties["*"]'),
        ({"required": "a"}, "$.required"),
        ({"required": ["a"], "additionalProperties": False}, "$.required"),
        ({"properties": {"a-b": {}}, "additionalProperties": True}, "$.additionalProperties"),
        ({"prefixItems": 5}, "$.prefixItems"),
        ({"properties": {"a": False}, "required": ["a"]}, "$.properties.a"),
        (False, "$"),
        ({"anyOf": [{"anyOf": [{}] * 10}] * 10, "allOf": [{"anyOf": [{}] * 10}]}, "$: too many alternatives"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_errors_name_the_path(schema: Any, path: str) -> None:
    with pytest.raises(GrammarError) as caught:
        schema_to_gbnf(schema)
    assert f"JSON schema, {path}" in caught.value.message


def test_deep_schemas_are_refused(run_child: Callable[..., str]) -> None:
    code = """
    import threading
    from llamacore.chat.schema import schema_to_gbnf
    def deep(make, n):
        schema = {"type": "null"}
        for _ in range(n):
            schema = make(schema)
        return schema
    makers = [lambda s: {"type": "array", "items": s}, lambda s: {"allOf": [s]}, lambda s: {"anyOf": [s, {}]},
              lambda s: {"properties": {"a": s}}, lambda s: {"not": s}]
    def main():
        for make in makers:
            for n in (60, 300, 900, 10_000):
                try:
                    schema_to_gbnf(deep(make, n))
                    print(n, "taken")
                except lc.GrammarError as error:
                    print(n, error)
    threading.stack_size(1024 * 1024)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    """
    lines = run_child(code).splitlines()
    assert len(lines) == 20
    assert [line for line in lines if line.startswith("60 ")] == ["60 taken"] * 5
    assert all("nested" in line for line in lines if line.startswith(("300 ", "900 ", "10000 ")))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    # upstream writes to stderr, and accepts any string, where it cannot read a pattern
    schema_to_gbnf({"type": "string", "pattern": r"^\w+ \S$"})
    assert capfd.readouterr() == ("", "")


def test_grammars_are_remembered() -> None:
    schema = {"type": "object", "properties": {"once": {"type": "string"}}}
    assert (
        schema_to_gbnf(schema) is schema_to_gbnf(json.loads(json.dumps(schema))) is schema_to_gbnf(json.dumps(schema))
    )


def test_every_keyword_has_its_place() -> None:
    assert not CHECKED & REFUSED
    assert not ANNOTATIONS & (CHECKED | REFUSED)


@pytest.mark.parametrize(
    ("schema", "value", "path"),
    [
        ({"uniqueItems": True}, [1, 2, 1.0], "$.uniqueItems"),
        ({"multipleOf": 0.1}, 0.25, "$.multipleOf"),
        ({"minProperties": 1}, {}, "$.minProperties"),
        ({"maxProperties": 1}, {"a": 1, "b": 2}, "$.maxProperties"),
        ({"propertyNames": {"pattern": "^a"}}, {"b": 1}, "$.propertyNames.pattern"),
        ({"contains": {"const": 1}}, [2], "$.minContains"),
        ({"contains": {"const": 1}, "maxContains": 1}, [1, 1], "$.maxContains"),
        ({"not": {"type": "string"}}, "a", "$.not"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "$.dependentRequired"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, "$.oneOf"),
        ({"type": "string", "maxLength": 3000}, "x" * 3001, "$.maxLength"),
    ],
)
def test_what_no_grammar_keeps_to_is_checked(schema: dict[str, Any], value: Any, path: str) -> None:
    wanted = output_format({"type": "json_schema", "schema": schema})
    assert wanted is not None
    text = json.dumps(value)
    with pytest.raises(StructuredOutputError, match=re.escape(path)) as caught:
        wanted.parse(text)
    assert caught.value.text == text


@pytest.mark.parametrize("name", sorted(STRING_FORMATS))
def test_formats_of_strings(demo_model: lc.Model, name: str) -> None:
    good = {
        "date": "2024-02-29", "time": "10:20:30.5Z", "date-time": "2024-12-31T23:59:59+01:00", "duration": "P3DT4H5M",
        "uuid": str(uuid.UUID(int=7)), "email": "a_b@example.com", "hostname": "a-b.example.com",
        "ipv4": "192.168.0.255", "uri": "https://example.com/a/b",
    }.get(name, f"00000000-0000-{name[-1]}000-8000-000000000000")  # fmt: skip
    grammar = schema_to_gbnf({"type": "string", "format": name})
    assert fits(demo_model, grammar, json.dumps(good))
    assert not fits(demo_model, grammar, json.dumps(good + "!"))
    assert not fits(demo_model, grammar, '""')


def as_expression(written: str) -> re.Pattern[str]:
    """An expression of a grammar for numbers as one of Python."""
    return re.compile(re.sub(r'"([^"]*)"', lambda match: f"(?:{re.escape(match[1])})", written).replace(" ", ""))


def test_bounds_of_integers() -> None:
    rng = random.Random(0)
    for _ in range(400):
        low, high = (rng.choice([None, rng.randint(-1200, 1200)]) for _ in range(2))
        written = numbers.integer(low, high)
        if written is None:
            assert low is not None
            assert high is not None
            assert low > high
            continue
        expression = as_expression(written)
        for value in [rng.randint(-1500, 1500) for _ in range(30)] + [n for n in (low, high) if n is not None]:
            inside = (low is None or value >= low) and (high is None or value <= high)
            assert bool(expression.fullmatch(str(value))) == inside, (low, high, value)


def test_bounds_of_decimals() -> None:
    rng = random.Random(1)
    values = [0, 1, -1, 0.5, -0.5, 2.25, -3.125, 10, 99.9, -7, 1e-3, 123.456, 0.1, 0.3, 1e20, -1e20]
    for _ in range(500):
        low, high = (rng.choice([None, (rng.choice(values), rng.random() < 0.5)]) for _ in range(2))
        written = numbers.decimal(*(None if limit is None else numbers.bound(*limit) for limit in (low, high)))
        expression = as_expression(written) if written else None
        for _ in range(40):
            base = rng.choice([limit[0] for limit in (low, high) if limit is not None] + [0, rng.uniform(-130, 130)])
            value = round(base + rng.choice([0, 0.1, -0.1, 0.01, -0.001, 0.5, -1, 3]), rng.randint(0, 4)) + 0.0
            if abs(value) >= 1e14 or value == 0:
                continue
            above = low is None or value > low[0] or (not low[1] and value == low[0])
            below = high is None or value < high[0] or (not high[1] and value == high[0])
            text = repr(value).removesuffix(".0")
            if "e" not in text:
                taken = expression is not None and expression.fullmatch(text) is not None
                assert taken == (above and below), (low, high, text)


def test_numbers_are_always_finite() -> None:
    number = as_expression(numbers.NUMBER)
    assert number.fullmatch("9" * 15 + "." + "9" * 15 + "e99")
    assert not number.fullmatch("1e100")
    assert math.isfinite(float("9" * 15 + "e99"))


def test_what_is_the_same() -> None:
    assert same(1, 1.0)
    assert not same(1, True)
    assert not same(0, False)
    assert same({"a": [1, {"b": None}]}, {"a": [1.0, {"b": None}]})
    assert not same([1], [1, 2])
    assert not same({"a": 1}, {"b": 1})


# response formats


class Mood(enum.Enum):
    HAPPY = "happy"
    SAD = "sad"


@dataclasses.dataclass
class Person:
    """Somebody."""

    name: str
    born: datetime.date
    mood: Mood = Mood.HAPPY
    tags: set[str] = dataclasses.field(default_factory=set)
    boss: Optional[Person] = None  # noqa: UP045 - both spellings are read


class Point(TypedDict):
    x: Annotated[int, "to the right"]
    y: int | None


def parsed(wanted: Any, text: str) -> Any:
    found = output_format(wanted)
    assert found is not None
    return found.parse(text)


@pytest.mark.parametrize(
    ("wanted", "text", "value"),
    [
        ("json", '{"a": 1}', {"a": 1}),
        ({"type": "json_object"}, "{}", {}),
        ({"type": "json_object", "schema": BASE}, '{"a": 1}', {"a": 1}),
        ({"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": BASE}}, '{"a": 1}', {"a": 1}),
        ({"type": "json_schema", "schema": BASE}, '{"a": 1}', {"a": 1}),
        (BASE, '{"a": 1}', {"a": 1}),
        ({"enum": [1, 2]}, "2", 2),
        (int, "7", 7),
        (float, "7", 7.0),
        (bool, "true", True),
        (list[int], "[1, 2]", [1, 2]),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (set[int], "[1]", {1}),
        (dict[str, float], '{"a": 1}', {"a": 1.0}),
        (int | None, "null", None),
        (int | bool, "true", True),
        (int | str, '"a"', "a"),
        (Mood, "sad", Mood.SAD),
        (Literal["a", "b"], "b", "b"),
        (Literal["a", 1], "1", 1),
        (["yes", "no"], "yes", "yes"),
        ([1, None], "null", None),
        ({"type": "choice", "choices": ["x"]}, "x", "x"),
        (re.compile(r"\d+"), "42", "42"),
        ({"type": "regex", "pattern": "a+"}, "aa", "aa"),
        ({"type": "grammar", "grammar": 'root ::= "x"'}, "x", "x"),
        (Point, '{"x": 1, "y": null}', {"x": 1, "y": None}),
        (datetime.date, '"2024-05-06"', datetime.date(2024, 5, 6)),
        (
            datetime.datetime,
            '"2024-05-06T07:08:09Z"',
            datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc),
        ),
        (uuid.UUID, f'"{uuid.UUID(int=5)}"', uuid.UUID(int=5)),
        (Decimal, "0.1", Decimal("0.1")),
        (
            Person,
            '{"name": "A", "born": "2000-01-02", "mood": "sad", "boss": {"name": "B", "born": "1990-01-01"}}',
            Person("A", datetime.date(2000, 1, 2), Mood.SAD, set(), Person("B", datetime.date(1990, 1, 1))),
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_response_formats(demo_model: lc.Model, wanted: Any, text: str, value: Any) -> None:
    found = output_format(wanted)
    assert found is not None
    assert fits(demo_model, found.grammar, text)
    result = found.parse(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("wanted", [None, "text", {"type": "text"}])
def test_no_response_format(wanted: Any) -> None:
    assert output_format(wanted) is None


def test_pydantic_models(demo_model: lc.Model) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):
        name: Annotated[str, pydantic.Field(min_length=1, max_length=5)]
        price: Annotated[float, pydantic.Field(gt=0, lt=10)]
        kind: Literal["a", "b"] = "a"

        @pydantic.field_validator("name")
        @classmethod
        def lower(cls, value: str) -> str:
            if value != value.lower():
                raise ValueError("only small letters")
            return value

    class Order(pydantic.BaseModel):
        """What is wanted."""

        items: list[Item]
        note: str | None = None

    found = output_format(Order)
    assert found is not None
    text = '{"items": [{"name": "x", "price": 9.5}], "note": null}'
    assert fits(demo_model, found.grammar, text)
    assert not fits(demo_model, found.grammar, text.replace("9.5", "10.5"))
    assert found.parse(text) == Order(items=[Item(name="x", price=9.5)])
    with pytest.raises(StructuredOutputError, match="only small letters"):
        found.parse(text.replace('"x"', '"X"'))
    assert output_format(list[Item]).parse('[{"name": "x", "price": 1}]') == [Item(name="x", price=1)]  # type: ignore[union-attr]


def test_models_that_hold_themselves_and_limits_beside_types(demo_model: lc.Model) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Node(pydantic.BaseModel):
        value: int
        children: list[Node] = pydantic.Field(default_factory=list)

    Node.model_rebuild(_types_namespace={"Node": Node})
    assert parsed(Node, '{"value": 1, "children": [{"value": 2}]}').children[0].value == 2
    limited = list[Annotated[int, pydantic.Field(ge=1, lt=4, description="few")]]
    assert TypeSchema(limited).schema["items"] == {
        "type": "integer", "minimum": 1, "exclusiveMaximum": 4, "description": "few"
    }  # fmt: skip
    assert TypeSchema(Annotated[list[str], pydantic.Field(min_length=2)]).schema["minItems"] == 2
    found = output_format(limited)
    assert found is not None
    assert fits(demo_model, found.grammar, "[1, 3]")
    assert not fits(demo_model, found.grammar, "[4]")


def test_pydantic_is_not_imported(run_child: Callable[..., str]) -> None:
    run_child(
        """
        from llamacore.chat.structured import output_format
        output_format(dict[str, int]), output_format({"type": "object"}), output_format(["a"])
        assert not {"pydantic", "numpy"} & set(sys.modules)
        """
    )


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("xml", "response_format='xml'"),
        (5, "is a int"),
        (object(), "is a object"),
        ([], "no choices"),
        ({"type": "json_schema"}, "has no schema"),
        ({"type": "json_schema", "schema": 5}, "is a int"),
        ({"type": "regex"}, "needs 'pattern'"),
        ({"type": "regex", "pattern": "a", "flags": 1}, "has no 'flags'"),
        ({"type": "regex", "pattern": "(?=a)"}, "lookaround"),
        ({"type": "grammar", "grammar": "x ::= y"}, "root"),
        ({"type": "choice", "choices": "ab"}, "needs 'choices'"),
        ({"type": "unknown"}, "no type 'unknown'"),
        ([object()], "no JSON values"),
        (complex, "no JSON schema for the type"),
        (dict[int, str], "keys"),
        (list[complex], "no JSON schema for the type"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_response_formats_that_are_refused(wanted: Any, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        output_format(wanted)


@pytest.mark.parametrize(
    ("wanted", "text", "why"),
    [
        ("json", "no", "no JSON"),
        ("json", "[]", r"\$\.type"),
        (BASE, '{"a": "x"}', r"at \$\.a"),
        (["yes"], "no", "none of"),
        (re.compile("a"), "b", "does not match"),
        (Point, '{"x": 1}', "'y' is missing"),
        (datetime.date, '"2024-13-01"', "month"),
        (Person, '{"name": 1, "born": "2000-01-01"}', r"\$\.name"),
    ],
)
def test_replies_that_are_not_what_was_asked(wanted: Any, text: str, why: str) -> None:
    with pytest.raises(StructuredOutputError, match=why) as caught:
        parsed(wanted, text)
    assert caught.value.text == text
    assert not isinstance(caught.value, IncompleteOutputError)


def test_a_reply_that_was_cut_off() -> None:
    found = output_format(BASE)
    assert found is not None
    with pytest.raises(IncompleteOutputError, match=r"cut off \(length\)") as caught:
        found.check('{"a": ', "length")
    assert caught.value.text == '{"a": '
    assert found.check('{"a": 1}', "length") == {"a": 1}  # it was complete all the same
    with pytest.raises(StructuredOutputError) as other:
        found.check("{}", "stop")
    assert not isinstance(other.value, IncompleteOutputError)


def test_white_space_and_fences_around_an_answer() -> None:
    assert parsed(BASE, '```json\n{"a": 1}\n```') == {"a": 1}
    assert parsed(["yes"], "\n yes") == "yes"
    assert parsed(re.compile(r"\s*a"), "  a") == "  a"


def test_types_that_cannot_be_told_apart_by_name() -> None:
    def make(kind: Any) -> Any:
        return dataclasses.make_dataclass("Same", [("value", kind)])

    both = TypeSchema(tuple[make(int), make(str)])  # type: ignore[misc]
    first, second = both.convert([{"value": 1}, {"value": "a"}])
    assert (first.value, second.value) == (1, "a")


# grammars in grammars


def test_grammars_are_put_together(demo_model: lc.Model) -> None:
    inner = 'root ::= item{2} # root\nitem ::= [a-z"root"] | "root \\" root"'
    outer = 'root ::= "<" thing ">"\nthing ::= "@"'
    whole = gbnf.inserted(outer, '"@"', inner)
    assert fits(demo_model, whole, "<ab>")
    assert fits(demo_model, whole, '<aroot " root>')
    assert not fits(demo_model, whole, "<@>")
    both = gbnf.either(outer, inner)
    assert fits(demo_model, both, "<@>")
    assert fits(demo_model, both, "ab")
    assert not fits(demo_model, both, "<ab>")
    with pytest.raises(GrammarError, match="no place"):
        gbnf.inserted(outer, '"$"', inner)
