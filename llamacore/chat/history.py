"""Messages and tools in the one form that templates get to see, which is the form upstream's `common_chat` gives them.

Model authors write for the OpenAI API's form, but each reads it in a way of its own: some want the arguments of a call
as an object, some as text, some have no system role, some call the thoughts "thinking". What upstream does about that
before it renders a template is done here in the same way, so that both render the same prompt.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InvalidArgumentError
from .message import MessageLike, message_dict

Messages = list[dict[str, Any]]
_FOREIGN = ("user", "tool")
_READ = ("role", "content", "reasoning_content", "name", "tool_call_id", "tool_calls")


def canonical_messages(messages: Sequence[MessageLike]) -> Messages:
    """Return messages with the fields of the OpenAI API in upstream's order, others after them.

    Raises:
        InvalidArgumentError: One is no message, or a field has the wrong type.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidArgumentError(
            f"the messages are a {type(messages).__name__}", hint='give a list such as [{"role": "user", "content": …}]'
        )
    if not messages:
        raise InvalidArgumentError("there are no messages", hint="give at least one")
    return [_canonical(message_dict(message)) for message in messages]


def _canonical(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": given.pop("role"), "content": _content(given.pop("content", None))}
    for key in ("reasoning_content", "name", "tool_call_id"):
        value = given.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise InvalidArgumentError(f"the {key} of a message is a {type(value).__name__}", hint="give a str")
        if value:
            found[key] = value
    calls = given.pop("tool_calls", None)
    if calls:
        if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
            raise InvalidArgumentError(f"the tool_calls of a message are a {type(calls).__name__}", hint="give a list")
        found["tool_calls"] = [_call(call) for call in calls]
    found.update(given)
    return found


def _content(content: Any) -> str | list[dict[str, Any]]:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise InvalidArgumentError(
            f"the content of a message is a {type(content).__name__}", hint="give a str or a list of parts"
        )
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise InvalidArgumentError(f"a part of a message has no type: {str(part)[:80]}")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise InvalidArgumentError("a part of type text has no text")
    return [dict(part) for part in content] or ""


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidArgumentError(
            f"the tool call {str(call)[:80]} names no function",
            hint='give {"type": "function", "function": {"name": ..., "arguments": ...}}',
        )
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        try:
            arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidArgumentError(f"the arguments of a tool call are no JSON: {exc}") from exc
    found: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if call.get("id"):
        found["id"] = str(call["id"])
    return found


def canonical_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return tool definitions with the fields that upstream passes on, in its order.

    Raises:
        InvalidArgumentError: One is no definition of a function.
    """
    if tools is None:
        return []
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise InvalidArgumentError(f"the tools are a {type(tools).__name__}", hint="give a list of definitions")
    found: list[dict[str, Any]] = []
    listed: Sequence[Any] = tools
    for tool in listed:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidArgumentError(
                f"the tool {str(tool)[:80]} defines no function",
                hint='give {"type": "function", "function": {"name": ..., "parameters": ...}}',
            )
        parameters, description = function.get("parameters"), function.get("description")
        if not isinstance(parameters, (Mapping, type(None))) or not isinstance(description, (str, type(None))):
            raise InvalidArgumentError(
                f"the tool {function['name']!r} has a wrong definition",
                hint="parameters is a JSON schema, description a str",
            )
        inner = {"name": function["name"], "description": description or "", "parameters": dict(parameters or {})}
        found.append({"type": "function", "function": inner})
    names = [tool["function"]["name"] for tool in found]
    if len(set(names)) != len(names):
        raise InvalidArgumentError("two tools have the same name", hint="rename one of them")
    return found


def for_template(
    messages: Messages, source: str, caps: Mapping[str, bool], safe: Callable[[Any], Any] | None = None
) -> Messages:
    """Change canonical messages in the ways that upstream changes them for a template.

    Args:
        messages: From `canonical_messages`; not changed.
        source: The template.
        caps: What upstream found out about it.
        safe: Applied to what users and tools wrote.

    Raises:
        InvalidArgumentError: A message has parts that the template cannot show.
    """
    found = [safe(m) if safe is not None and m["role"] in _FOREIGN else dict(m) for m in messages]
    if "You have access to the following functions in JSONSchema format" in source:
        found = [_trimmed(message) for message in found]  # left-over white space makes these models think in circles
    only_string = caps["supports_string_content"] and not caps["supports_typed_content"]
    only_typed = caps["supports_typed_content"] and not caps["supports_string_content"]
    for message in found:
        if only_string and not isinstance(message["content"], str):
            message["content"] = _joined(message["content"])
        elif only_typed and isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        if message["role"] == "developer" and "<|channel|>" not in source:
            message["role"] = "system"
    if not caps["supports_system_role"] and found and found[0]["role"] == "system":
        found = _without_system(found)
    if caps["supports_object_arguments"]:
        for message in found:
            if "tool_calls" in message:
                message["tool_calls"] = [_with_object(call) for call in message["tool_calls"]]
    change = _special_form(source)
    return change(found) if change is not None else found


def finish_prompt(prompt: str, source: str, *, add_generation_prompt: bool) -> str:
    """Mend a rendered prompt as upstream's own handlers of two families of templates do."""
    if _special_form(source) is _gpt_oss and not add_generation_prompt:
        before, found, after = prompt.rpartition("<|return|>")  # the token that ends a reply, not one that is over
        return before + "<|end|>" + after if found else prompt
    if "'<|tool_call>call:'" in source and add_generation_prompt and prompt.endswith("<turn|>\n"):
        return prompt + "<|turn>model\n"  # left out where an assistant said something and called tools
    return prompt


def _trimmed(message: dict[str, Any]) -> dict[str, Any]:
    found = dict(message)
    if isinstance(found["content"], str):
        found["content"] = found["content"].strip(_SPACE)
    else:
        found["content"] = [
            {**part, "text": part["text"].strip(_SPACE)} if part["type"] == "text" else part
            for part in found["content"]
        ]
    if "reasoning_content" in found:
        found["reasoning_content"] = found["reasoning_content"].strip(_SPACE)
        if not found["reasoning_content"]:
            del found["reasoning_content"]
    return found


_SPACE = " \t\n\r\v\f"


def _joined(parts: list[dict[str, Any]]) -> str:
    text, after_marker = "", False
    for part in parts:
        if part["type"] == "media_marker":
            text += part.get("text", "")
            after_marker = True
        elif part["type"] == "text":
            text += ("\n" if text and not after_marker else "") + part["text"]
            after_marker = False
        else:
            raise InvalidArgumentError(
                f"this model's template cannot show a part of type {part['type']!r}", hint="give parts of type text"
            )
    return text


def _without_system(messages: Messages) -> Messages:
    if len(messages) == 1:
        return []
    second = dict(messages[1])
    texts = [_joined(m["content"]) if isinstance(m["content"], list) else m["content"] for m in messages[:2]]
    second["content"] = "\n".join(texts)
    return [second, *messages[2:]]


def _arguments(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return {"arguments": text}  # a call that was wrong: the model is shown what it wrote


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _arguments(function["arguments"])}}


def for_parser(messages: Messages) -> Messages:
    """Return canonical messages as upstream's reader takes them: text alone, and arguments that are JSON.

    What is left out does not change how a reply to them is read.
    """
    found = []
    for message in messages:
        shown = {key: message[key] for key in _READ if key in message}
        if not isinstance(shown["content"], str):
            texts = [{"type": "text", "text": part["text"]} for part in shown["content"] if part["type"] == "text"]
            shown["content"] = texts or ""
        if "tool_calls" in shown:
            calls = [_with_object(call) for call in shown["tool_calls"]]
            for call in calls:
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
            shown["tool_calls"] = calls
        found.append(shown)
    return found


def _special_form(source: str) -> Callable[[Messages], Messages] | None:
    """The change that upstream's own handler for a family of templates makes; it knows them by the same texts."""
    if all(text in source for text in ("[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[ARGS]")) and "[CALL_ID]" not in source:
        return _ministral
    if "<|channel|>" in source:
        return _gpt_oss
    if "<|tool_list_start|>" in source or "List of tools: [" in source:
        return _lfm2
    if "dsml_token" in source and "DSML" in source:
        return _deepseek_v4 if "function_calls" not in source else None
    if "'<|tool_call>call:'" in source and "{#- OpenAI Chat Completions:" not in source:
        return _gemma4
    return None


def _ministral(messages: Messages) -> Messages:
    found = []
    for message in messages:
        if message["role"] in ("system", "assistant"):
            message = dict(message)
            blocks: list[Any] = []
            if "reasoning_content" in message:
                blocks.append({"type": "thinking", "thinking": message.pop("reasoning_content")})
            content = message["content"]
            message["content"] = blocks + ([{"type": "text", "text": content}] if isinstance(content, str) else content)
        found.append(message)
    return found


def _gpt_oss(messages: Messages) -> Messages:
    found = []
    for message in messages:
        if "reasoning_content" in message:
            message = {**message, "thinking": message["reasoning_content"]}
            if message.get("tool_calls"):
                del message["content"]
        found.append(message)
    return found


def _lfm2(messages: Messages) -> Messages:
    return [
        {**message, "thinking": message["reasoning_content"]} if "reasoning_content" in message else message
        for message in messages
    ]


def _deepseek_v4(messages: Messages) -> Messages:
    """Put the results of tools in the order of the calls they answer."""
    found, order, start = list(messages), dict[str, int](), 0
    while start < len(found):
        message = found[start]
        if message["role"] == "assistant" and message.get("tool_calls"):
            order = {call["id"]: number for number, call in enumerate(message["tool_calls"]) if "id" in call}
        if message["role"] not in ("user", "tool"):
            start += 1
            continue
        end = start
        while end < len(found) and found[end]["role"] in ("user", "tool"):
            end += 1
        places = [place for place in range(start, end) if found[place]["role"] == "tool"]
        if order:
            results = sorted((found[p] for p in places), key=lambda m: order.get(m.get("tool_call_id", ""), 0))
            for place, result in zip(places, results, strict=True):
                found[place] = result
        start = end
    return found


def _gemma4(messages: Messages) -> Messages:
    """Make one message of a turn: the calls, what they returned, and the answer."""
    found: Messages = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        if message["role"] != "assistant" or not message.get("tool_calls"):
            found.append(message)
            continue
        turn: dict[str, Any] = {"role": "assistant", "tool_calls": message["tool_calls"]}
        responses: list[dict[str, Any]] = []
        while place < len(messages) and messages[place]["role"] == "tool":
            responses.append(_gemma4_response(messages[place], message["tool_calls"], len(responses)))
            place += 1
        if responses:
            turn["tool_responses"] = responses
        following = messages[place] if place < len(messages) else {}
        if following.get("role") == "assistant" and not following.get("tool_calls") and following["content"]:
            turn["content"] = following["content"]
            place += 1
        if "reasoning_content" in message:
            turn["reasoning_content"] = message["reasoning_content"]
        found.append(turn)
    return found


def _gemma4_response(message: dict[str, Any], calls: list[dict[str, Any]], number: int) -> dict[str, Any]:
    response = message["content"]
    if isinstance(response, str):
        with contextlib.suppress(ValueError, RecursionError):
            response = json.loads(response)
    name = calls[number]["function"]["name"] if number < len(calls) else ""
    return {"name": name or message.get("tool_call_id", ""), "response": response}
