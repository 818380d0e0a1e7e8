from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import json
import threading
from typing import Annotated, Any, Literal

import pytest

from llamacore.chat import docstrings
from llamacore.chat.tools import Tool, result_text, run_coroutine, tools_of
from llamacore.errors import GrammarError, InvalidArgumentError, ToolError


class Unit(enum.Enum):
    C = "c"
    F = "f"


@dataclasses.dataclass
class Place:
    """A place on the map."""

    city: str
    zip: int | None = None


def weather(
    place: Place,
    unit: Unit = Unit.C,
    days: Annotated[int, "How many days"] = 1,
    tags: list[Literal["wind", "rain"]] | None = None,
    *,
    start: datetime.date | None = None,
    more: dict[str, float] | None = None,
) -> str:
    """Get the weather.

    It is made up.

    Args:
        place: Where to look,
            on the map.
        unit (Unit): Which unit: celsius
            or fahrenheit.
        tags: What to tell.

    Returns:
        A text.
    """
    return f"{place} {unit} {days} {tags} {start} {more}"


def test_a_tool_from_a_function() -> None:
    tool = Tool.from_function(weather)
    assert tool.name == "weather"
    assert tool.description == "Get the weather.\n\nIt is made up."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "Where to look, on the map."},
            "unit": {"enum": ["c", "f"], "description": "Which unit: celsius or fahrenheit."},
            "days": {"type": "integer", "description": "How many days", "default": 1},
            "tags": {
                "anyOf": [{"type": "array", "items": {"enum": ["wind", "rain"]}}, {"type": "null"}],
                "default": None,
                "description": "What to tell.",
            },
            "start": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
            "more": {
                "anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}],
                "default": None,
            },
        },
        "required": ["place"],
        "$defs": {
            "Place": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "zip": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
                "required": ["city"],
                "additionalProperties": False,
                "description": "A place on the map.",
            }
        },
    }
    assert Tool.from_dict(tool.to_dict()).to_dict() == tool.to_dict()


def test_arguments_are_converted() -> None:
    tool = Tool.from_function(weather)
    text = '{"place": {"city": "Oslo"}, "unit": "f", "tags": ["wind"], "start": "2024-05-06", "more": {"x": 1}}'
    assert tool.arguments(text) == {
        "place": Place("Oslo"), "unit": Unit.F, "tags": ["wind"], "start": datetime.date(2024, 5, 6), "more": {"x": 1.0}
    }  # fmt: skip
    assert tool.call(text) == weather(
        Place("Oslo"), Unit.F, 1, ["wind"], start=datetime.date(2024, 5, 6), more={"x": 1.0}
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no JSON object"),
        ("5", "no JSON object"),
        ("{}", "'place' is missing"),
        ('{"place": {}}', r"'city' is missing at \$\.place"),
        ('{"place": {"city": 5}}', r"5 is no string at \$\.place\.city"),
        ('{"place": {"city": "x"}, "unit": "k"}', r"at \$\.unit"),
        ('{"place": {"city": "x"}, "days": true}', r"at \$\.days"),
        ('{"place": {"city": "x"}, "start": "tomorrow"}', "argument 'start'"),
        ('{"place": {"city": "x"}, "when": 1}', "no argument 'when'.*it has place, unit"),
    ],
    ids=lambda value: value[:40],
)
def test_arguments_that_are_wrong(arguments: str, why: str) -> None:
    with pytest.raises(ToolError, match=why):
        Tool.from_function(weather).call(arguments)


def test_a_function_without_hints_or_docstring() -> None:
    def anything(a, b=NotImplemented):  # type: ignore[no-untyped-def]
        return a

    tool = Tool.from_function(anything)
    assert tool.parameters == {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]}
    assert tool.call('{"a": [1]}') == [1]
    nothing = Tool.from_function(lambda: 5, name="nothing")
    assert nothing.call("") == 5
    with pytest.raises(ToolError, match=r"no argument 'x'.*it has none"):
        nothing.call('{"x": 1}')


def test_methods_partials_and_objects() -> None:
    class Shop:
        def price(self, item: str) -> int:
            """Tell a price."""
            return len(item)

        def __call__(self, item: str) -> int:
            """Sell something."""
            return -len(item)

    def both(a: int, b: int) -> int:
        return a - b

    assert Tool.from_function(Shop().price).call('{"item": "abc"}') == 3
    assert Tool.from_function(Shop()).call('{"item": "abc"}') == -3
    assert Tool.from_function(Shop()).name == "Shop"
    part = Tool.from_function(functools.partial(both, b=1), name="minus_one")
    assert part.call('{"a": 5}') == 4


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda *args: 0, "cannot be given by name"),
        (lambda **options: 0, "cannot be given by name"),
        (lambda a, /: 0, "cannot be given by name"),
    ],
)
def test_functions_that_are_no_tools(function: Any, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        Tool.from_function(function, name="f")


def test_types_that_are_no_arguments() -> None:
    def odd(x: complex) -> None: ...
    def lost(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidArgumentError, match="tool odd, argument x: there is no JSON schema"):
        Tool.from_function(odd)
    with pytest.raises(InvalidArgumentError, match="tool lost: its arguments cannot be found"):
        Tool.from_function(lost)


def test_a_tool_from_a_pydantic_model() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Search(pydantic.BaseModel):
        """Search for something."""

        query: str
        limit: Annotated[int, pydantic.Field(ge=1, le=10, description="How many")] = 3

    (tool,) = tools_of([Search])
    assert (tool.name, tool.description) == ("Search", "Search for something.")
    assert tool.parameters["properties"]["limit"]["description"] == "How many"
    assert tool.call('{"query": "x"}') == Search(query="x")
    with pytest.raises(ToolError, match=r"\$\.limit"):
        tool.call('{"query": "x", "limit": 11}')
    with pytest.raises(InvalidArgumentError, match="no pydantic model"):
        Tool.from_model(int)

    def find(search: Any, others: Any) -> Any:
        return [search, *others]

    find.__annotations__ = {"search": Search, "others": list[Search]}

    assert Tool.from_function(find).call('{"search": {"query": "a"}, "others": [{"query": "b"}]}') == [
        Search(query="a"), Search(query="b")
    ]  # fmt: skip


def test_a_tool_from_json_schema() -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    inner = {"name": "count", "description": "Count.", "parameters": parameters}
    for data in (inner, {"type": "function", "function": inner}):
        tool = Tool.from_dict(data, lambda n: n + 1)
        assert tool.to_dict() == {"type": "function", "function": inner}
        assert tool.call({"n": 1}) == 2
        with pytest.raises(ToolError, match=r"0 is less than 1 at \$\.n"):
            tool.call({"n": 0})
    with pytest.raises(ToolError, match="no function"):
        Tool.from_dict(inner).call('{"n": 1}')


def test_patterns_that_upstream_cannot_read(capfd: pytest.CaptureFixture[str]) -> None:
    properties = {
        "a": {"type": "string", "pattern": r"^\d+$", "description": "Digits"},
        "b": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "pattern": {"anyOf": [{"type": "string", "pattern": "x"}], "default": {"pattern": 1}},
    }
    tool = Tool("f", parameters={"type": "object", "properties": properties})
    assert capfd.readouterr() == ("", "")
    assert tool.to_dict()["function"]["parameters"]["properties"] == properties
    assert tool.to_prompt()["function"]["parameters"]["properties"] == {
        "a": {"type": "string", "description": r"Digits (matches ^\d+$)"},
        "b": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "pattern": {"anyOf": [{"type": "string", "description": "(matches x)"}], "default": {"pattern": 1}},
    }
    with pytest.raises(ToolError, match=r"does not match.*\$\.properties\.a\.pattern"):
        tool.arguments('{"a": "x"}')


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda: Tool("a b"), InvalidArgumentError, "name 'a b'"),
        (lambda: Tool(""), InvalidArgumentError, "name ''"),
        (lambda: Tool("x" * 65), InvalidArgumentError, "name"),
        (lambda: Tool("x", 5), InvalidArgumentError, "description"),  # type: ignore[arg-type]
        (lambda: Tool("x", parameters={"type": "string"}), InvalidArgumentError, "no JSON schema of an object"),
        (lambda: Tool("x", parameters=[1]), InvalidArgumentError, "no JSON schema of an object"),  # type: ignore[arg-type]
        (lambda: Tool("x", parameters={"properties": {"a": {"type": "?"}}}), GrammarError, "tool x: "),
        (lambda: Tool("x", function=5), InvalidArgumentError, "function is a int"),  # type: ignore[arg-type]
        (lambda: Tool.from_dict({}), InvalidArgumentError, "no function with a name"),
        (lambda: Tool.from_dict({"type": "web_search", "name": "x"}), InvalidArgumentError, "no function with a name"),
        (lambda: tools_of("ab"), InvalidArgumentError, "tools is a str"),
        (lambda: tools_of({"name": "x"}), InvalidArgumentError, "tools is a dict"),  # type: ignore[arg-type]
        (lambda: tools_of([5]), InvalidArgumentError, "5 is no tool"),  # type: ignore[list-item]
        (lambda: tools_of([int]), InvalidArgumentError, "is no tool"),
        (lambda: tools_of([weather, weather]), InvalidArgumentError, "two tools with the name 'weather'"),
    ],
)
def test_what_is_no_tool(make: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        make()


def test_async_tools_from_sync_code() -> None:
    async def slow(n: int) -> tuple[int, bool]:
        await asyncio.sleep(0)
        return n, threading.current_thread() is threading.main_thread()

    tool = Tool.from_function(slow)
    assert tool.is_async
    assert tool.call('{"n": 1}') == (1, True)

    async def inside() -> Any:  # where a loop runs already, another thread has to do it
        return tool.call('{"n": 2}')

    assert asyncio.run(inside()) == (2, False)


def test_a_coroutine_that_fails_or_is_cancelled() -> None:
    async def fails() -> None:
        raise KeyError("x")

    async def inside() -> None:
        with pytest.raises(KeyError):
            run_coroutine(fails())

    asyncio.run(inside())
    with pytest.raises(KeyError):
        run_coroutine(fails())


def test_tools_in_an_event_loop() -> None:
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def awhere() -> bool:
        return where()

    async def run() -> tuple[Any, Any]:
        return await Tool.from_function(where).acall("{}"), await Tool.from_function(awhere).acall("{}")

    assert asyncio.run(run()) == (False, True)


def test_texts_of_results() -> None:
    assert result_text("as it is") == "as it is"
    assert result_text(None) == "null"
    assert json.loads(result_text({"a": Place("Oslo"), "b": {1}, "c": datetime.date(2024, 1, 2), "d": "é"})) == {
        "a": {"city": "Oslo", "zip": None}, "b": [1], "c": "2024-01-02", "d": "é"
    }  # fmt: skip


# docstrings


@pytest.mark.parametrize(
    "docstring",
    [
        """Do it.

        Args:
            a (int): The first,
                goes on.
            *rest: Others.

        Raises:
            ValueError: b: no argument.
        """,
        """Do it.

        Parameters
        ----------
        a : int, optional
            The first,
            goes on.
        *rest
            Others.

        Returns
        -------
        int
            b
        """,
        """Do it.

        :param int a: The first,
            goes on.
        :type a: int
        :param rest: Others.
        :returns: Something
            long: b.
        """,
    ],
    ids=["google", "numpy", "rest"],
)
def test_docstrings(docstring: str) -> None:
    assert docstrings.parse(docstring) == ("Do it.", {"a": "The first, goes on.", "rest": "Others."})


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        (None, ""),
        ("", ""),
        ("One line.", "One line."),
        ("Note: this is text.\n\nMore: text.", "Note: this is text.\n\nMore: text."),
    ],
)
def test_docstrings_without_arguments(docstring: str | None, text: str) -> None:
    assert docstrings.parse(docstring) == (text, {})
