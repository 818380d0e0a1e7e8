"""Tools that a model can call: made of Python functions, pydantic models or JSON schemas."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from ..core.grammar import json_schema_to_gbnf
from ..errors import GrammarError, InvalidArgumentError, ToolError
from . import docstrings, json_text
from .schema_check import violation
from .type_schema import Mismatch, TypeSchema, is_pydantic

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SIMPLE_PATTERN = re.compile(r"\^(?:[\w :/-]|\[[A-Za-z0-9_ -]+\]|\\\.|[()|+*?]|\{\d+(?:,\d*)?\})*\$", re.ASCII)
_HINT = "give a function, a pydantic model, a Tool, or a tool in the OpenAI API's form"


class Tool:
    """Something that a model can call.

    Args:
        name: What the model calls it: letters, digits, `_`, `-` and `.`.
        description: What it does, for the model.
        parameters: JSON schema of an object: its arguments.
        function: What is called with the arguments as keywords; None for a tool that the caller runs.
        converters: What makes a JSON value of an argument what the function takes.

    Raises:
        InvalidArgumentError: The name is none, or the parameters are no schema of an object.
        GrammarError: No grammar can be made of the parameters.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        parameters: Mapping[str, Any] | None = None,
        *,
        function: Callable[..., Any] | None = None,
        converters: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        if not _NAME.fullmatch(str(name)):
            raise InvalidArgumentError(f"a tool with the name {name!r}", hint="up to 64 letters, digits, _, - and .")
        if not isinstance(description, str):
            raise InvalidArgumentError(f"tool {name}: its description is a {type(description).__name__}")
        schema: Any = parameters or {"type": "object", "properties": {}}
        if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
            raise InvalidArgumentError(f"tool {name}: its parameters are no JSON schema of an object")
        if function is not None and not callable(function):
            raise InvalidArgumentError(f"tool {name}: its function is a {type(function).__name__}")
        self._told = _without_patterns(schema, 0)
        try:
            json_schema_to_gbnf(self._told)  # the model's calls follow a grammar that upstream makes of it
        except GrammarError as exc:
            raise GrammarError(f"tool {name}: {exc.message}", hint=exc.hint) from None
        self.name = name
        self.description = description
        self.parameters: Mapping[str, Any] = schema
        self.function = function
        self._converters = None if converters is None else dict(converters)

    @property
    def is_async(self) -> bool:
        """Whether its function is a coroutine function."""
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(
            getattr(self.function, "__call__", None)  # noqa: B004 - an object with an async __call__
        )

    @classmethod
    def from_function(
        cls, function: Callable[..., Any], *, name: str | None = None, description: str | None = None
    ) -> Tool:
        """Make a tool of a function, sync or async: its type hints are the schema, its docstring the descriptions.

        Args:
            function: The function. Arguments without hints may be anything.
            name: None for the function's own.
            description: None for the docstring's text before its sections.

        Raises:
            InvalidArgumentError: It has positional-only arguments, `*args` or `**kwargs`, or a type without a schema.
        """
        own_name = str(name or getattr(function, "__name__", type(function).__name__))
        try:
            signature = inspect.signature(function)
            target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
            hints = typing.get_type_hints(inspect.unwrap(target), include_extras=True)
        except (TypeError, ValueError, NameError) as exc:
            raise InvalidArgumentError(
                f"tool {own_name}: its arguments cannot be found: {exc}",
                hint="types that are named in strings are looked for in the function's module",
            ) from exc
        text, of_arguments = docstrings.parse(inspect.getdoc(function))
        properties: dict[str, Any] = {}
        required: list[str] = []
        kinds: dict[str, TypeSchema] = {}
        defs: dict[str, Any] = {}
        for argument in signature.parameters.values():
            if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
                raise InvalidArgumentError(
                    f"tool {own_name}: the argument {argument} cannot be given by name",
                    hint="tools take arguments that have names",
                )
            try:
                kind = kinds[argument.name] = TypeSchema(hints.get(argument.name, Any))
            except InvalidArgumentError as exc:
                raise InvalidArgumentError(f"tool {own_name}, argument {argument.name}: {exc.message}", hint=exc.hint) \
                    from None  # fmt: skip
            schema = {key: value for key, value in kind.schema.items() if key != "$defs"}
            _join(defs, kind.schema.get("$defs", {}), own_name)
            if argument.name in of_arguments and "description" not in schema:
                schema["description"] = of_arguments[argument.name]
            if argument.default is argument.empty:
                required.append(argument.name)
            elif _is_json(argument.default):
                schema["default"] = argument.default
            properties[argument.name] = schema
        parameters: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
        if defs:
            parameters["$defs"] = defs
        converters = {argument: kind.convert for argument, kind in kinds.items()}
        return cls(own_name, text if description is None else description, parameters, function=function,
                   converters=converters)  # fmt: skip

    @classmethod
    def from_model(cls, model: Any, *, name: str | None = None, description: str | None = None) -> Tool:
        """Make a tool of a pydantic model: calling it returns the validated instance.

        Raises:
            InvalidArgumentError: It is no pydantic model.
        """
        if not is_pydantic(model):
            raise InvalidArgumentError(f"{model!r} is no pydantic model", hint=_HINT)
        schema = dict(model.model_json_schema())
        own = schema.pop("description", "")
        schema.pop("title", None)
        tool = cls(name or model.__name__, own if description is None else description, schema)
        kind = TypeSchema(model)
        tool.function = lambda **arguments: kind.convert(arguments)
        return tool

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], function: Callable[..., Any] | None = None) -> Tool:
        """Read a tool in the OpenAI API's form, with or without its outer `{"type": "function", "function": ...}`.

        Raises:
            InvalidArgumentError: It has another form.
        """
        inner = data.get("function") if isinstance(data.get("function"), Mapping) else data
        if not isinstance(inner, Mapping) or "name" not in inner or data.get("type", "function") != "function":
            raise InvalidArgumentError(f"the tool {str(dict(data))[:80]} is no function with a name", hint=_HINT)
        return cls(inner["name"], inner.get("description") or "", inner.get("parameters"), function=function)

    def to_dict(self) -> dict[str, Any]:
        """Return the tool in the OpenAI API's form."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    def to_prompt(self) -> dict[str, Any]:
        """Return the tool as models get to see it: a pattern that upstream's grammars cannot keep to is described."""
        found = self.to_dict()
        found["function"]["parameters"] = self._told
        return found

    def arguments(self, text: str | Mapping[str, Any]) -> dict[str, Any]:
        """Check the arguments that a model wrote, and make of them what the function takes.

        Args:
            text: JSON text, or the object.

        Raises:
            ToolError: They are no JSON object, or do not keep to the parameters; the message says where.
        """
        value: Any = text
        if isinstance(text, str):
            try:
                value = json_text.loads(text or "{}")
            except ValueError as exc:
                raise ToolError(f"the arguments of {self.name} are no JSON: {exc}") from None
        if not isinstance(value, Mapping):
            raise ToolError(f"the arguments of {self.name} are no JSON object", hint='give {"name": value}')
        properties = self.parameters.get("properties", {})
        converters = self._converters or {}
        if self._converters is not None:
            for name in value:
                if name not in properties:
                    raise ToolError(
                        f"{self.name} has no argument {name!r}", hint="it has " + (", ".join(properties) or "none")
                    )
        found = violation(value, self.parameters)
        if found:
            raise ToolError(f"the arguments of {self.name}: {found}")
        converted = {}
        for name, item in value.items():
            try:
                converted[name] = converters[name](item) if name in converters else item
            except Mismatch as exc:
                raise ToolError(f"the argument {name!r} of {self.name}: {exc}") from None
        return converted

    def call(self, arguments: str | Mapping[str, Any]) -> Any:
        """Call the function with arguments that a model wrote. A coroutine function is run to its end.

        Raises:
            ToolError: The arguments are wrong, or the tool has no function.
        """
        result = self._function()(**self.arguments(arguments))
        return run_coroutine(result) if inspect.iscoroutine(result) else result

    async def acall(self, arguments: str | Mapping[str, Any]) -> Any:
        """Call the function; a sync function is run in a thread, so that the event loop goes on.

        Raises:
            ToolError: The arguments are wrong, or the tool has no function.
        """
        function, converted = self._function(), self.arguments(arguments)
        result = function(**converted) if self.is_async else await asyncio.to_thread(function, **converted)
        return await result if inspect.isawaitable(result) else result

    def _function(self) -> Callable[..., Any]:
        if self.function is None:
            raise ToolError(f"the tool {self.name} has no function", hint="run it yourself, or make it of a function")
        return self.function

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"


ToolLike = Tool | Callable[..., Any] | Mapping[str, Any]
"""A tool, or what one can be made of."""


def tools_of(given: Sequence[ToolLike] | None) -> list[Tool]:
    """Make tools of whatever was given.

    Raises:
        InvalidArgumentError: Something is no tool, or two have the same name.
    """
    if given is None:
        return []
    if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence):
        raise InvalidArgumentError(f"tools is a {type(given).__name__}", hint="give a list of tools")
    tools = [_tool(item) for item in given]
    for number, tool in enumerate(tools):
        if any(other.name == tool.name for other in tools[:number]):
            raise InvalidArgumentError(f"there are two tools with the name {tool.name!r}")
    return tools


def _tool(item: Any) -> Tool:
    if isinstance(item, Tool):
        return item
    if isinstance(item, Mapping):
        return Tool.from_dict(item)
    if is_pydantic(item):
        return Tool.from_model(item)
    if callable(item) and not isinstance(item, type):
        return Tool.from_function(item)
    raise InvalidArgumentError(f"{item!r:.80} is no tool", hint=_HINT)


def result_text(value: Any) -> str:
    """Write what a tool returned as the text of its message: texts as they are, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=_plain)


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end from sync code, even where an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((True, asyncio.run(coroutine)))
        except BaseException as exc:  # raised again in the thread that waits
            outcome.extend((False, exc))

    thread = threading.Thread(target=run, name="llamacore-tool")
    thread.start()
    thread.join()
    if not outcome[0]:
        raise outcome[1]
    return outcome[1]


def _without_patterns(schema: Any, level: int) -> Any:
    """A schema whose patterns are all ones that upstream reads right: of others it makes any text, and says so loudly.

    The arguments are checked against all of them before a call.
    """
    if level > json_text.MAX_NESTING:
        raise InvalidArgumentError("the parameters of a tool are nested too deep")
    if isinstance(schema, (list, tuple)):
        return [_without_patterns(part, level + 1) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            found[key] = {name: _without_patterns(part, level + 2) for name, part in value.items()}
        elif key in ("const", "enum", "default", "examples"):
            found[key] = value
        elif key != "pattern" or not isinstance(value, str) or _SIMPLE_PATTERN.fullmatch(value):
            found[key] = _without_patterns(value, level + 1)
    if "pattern" in schema and "pattern" not in found:
        found["description"] = f"{schema.get('description', '')} (matches {schema['pattern']})".strip()
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, (set, frozenset)):
        return list(value)
    return str(value)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _join(defs: dict[str, Any], more: Mapping[str, Any], name: str) -> None:
    for key, part in more.items():
        if defs.setdefault(key, part) != part:
            raise InvalidArgumentError(f"tool {name}: two different types are named {key!r}", hint="rename one of them")
