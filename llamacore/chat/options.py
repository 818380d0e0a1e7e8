"""What a request to a chat model may ask for, checked and put into upstream's words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from ..core.grammar import Schema, checked_schema
from ..errors import GrammarError, InvalidArgumentError

ToolChoice = Literal["auto", "none", "required"] | Mapping[str, Any]
"""Whether tools are called; `{"type": "function", "function": {"name": ...}}` for a certain one."""


_RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now", "enable_thinking")


def choose(tools: list[dict[str, Any]], wanted: ToolChoice) -> tuple[list[dict[str, Any]], str]:
    """Return the tools that a reply may call, and upstream's word for whether it does."""
    choice: Any = wanted
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise InvalidArgumentError(
                f"tool_choice={choice!r}",
                hint='use "auto", "none", "required" or {"type": "function", "function": {"name": ...}}',
            )
        if choice == "required" and not tools:
            raise InvalidArgumentError("a tool call is required, but there are no tools", hint="give tools")
        return tools, choice
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        known = ", ".join(tool["function"]["name"] for tool in tools) or "none"
        raise InvalidArgumentError(f"tool_choice names no tool that is given: {choice!r}", hint=f"given are: {known}")
    return named, "required"


def answer_schema(schema: Schema | None, grammar: Any, choice: str) -> dict[str, Any] | None:
    """Return the schema that the answer must follow; it goes with no grammar, and neither goes with forced calls.

    Args:
        schema: The schema, if there is one.
        grammar: The grammar, if there is one.
        choice: What `choose` says; "none" where there are no tools.
    """
    if grammar is not None:
        if not isinstance(grammar, str) or not grammar.strip():
            raise GrammarError("the grammar is no text", hint="give GBNF with a rule root ::= ...")
        if schema is not None:
            raise InvalidArgumentError("there is both a grammar and a json_schema", hint="give one of them")
        if choice != "none":
            raise InvalidArgumentError(
                "a grammar does not go with tools: it would forbid to call them", hint='use tool_choice="none"'
            )
    if schema is None:
        return None
    if choice == "required":
        raise InvalidArgumentError("a json_schema for the answer does not go with a tool call that is required")
    return dict(checked_schema(schema)) or {"type": "object"}


def check_parameters(tool: Mapping[str, Any]) -> None:
    """Refuse a tool whose parameters upstream's recursive converter cannot take."""
    try:
        checked_schema(tool["function"]["parameters"])
    except GrammarError as exc:
        raise GrammarError(f"the tool {tool['function']['name']!r}: {exc.message}", hint=exc.hint) from None


def template_variables(given: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """Return further variables for a template, the date included."""
    if given is not None and not isinstance(given, Mapping):
        raise InvalidArgumentError(f"template_options is a {type(given).__name__}", hint="give a dict")
    options: dict[Any, Any] = dict(given or {})
    for name in options:
        if not isinstance(name, str) or name in _RESERVED:
            raise InvalidArgumentError(f"template_options has {name!r}", hint="that has an argument of its own")
    # upstream tells templates the date under these names
    return {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y"), **options}


def aliases(options: Mapping[str, Any]) -> dict[str, Any]:
    """Names under which templates of different families read the same option, as upstream gives them."""
    found: dict[str, Any] = {}
    if isinstance(options.get("reasoning_effort"), str):
        found["reasoning_strength"] = options["reasoning_effort"]
    keep = options.get("preserve_reasoning")
    if isinstance(keep, bool):
        found.update(preserve_thinking=keep, clear_thinking=not keep)
        found.update(truncate_history_thinking=not keep, drop_thinking=not keep)
    return {**found, **options}
