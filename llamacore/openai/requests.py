"""Requests in the OpenAI API's form, checked: what is to be done, free of the words it was asked in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UnsupportedError
from .options import Parameters, texts

MAX_CHOICES = 128
_DEFAULT_COMPLETION_TOKENS = 16  # the API's own
_MAX_LOGPROBS = 1000

Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class CompletionRequest:
    """A request for completions.

    Attributes:
        prompts: Texts or token ids; choice number is `prompt * n + sample`.
        suffix: Text that comes after the completion, which is then filled in between.
        max_tokens: Most tokens of each completion; None for as many as fit.
        n: Completions of each prompt.
        stop: Strings at which to stop.
        logprobs: How many alternatives to report for each token; None for no log-probabilities.
        echo: Put the prompt before the completion.
        stream: Answer in pieces.
        include_usage: Count tokens in a last piece.
        seed: None for a random one.
        sampling: Options of `SamplingParams`.
        scheduling: Options of a generation.
        model: Name to answer with; None for the model's own.
    """

    prompts: tuple[Prompt, ...]
    suffix: str | None = None
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    seed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    scheduling: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> CompletionRequest:
        """Read the parameters of a request.

        Raises:
            InvalidArgumentError: A parameter is unknown or wrong; the message names it.
            UnsupportedError: A parameter cannot be honoured.
        """
        read = Parameters("create_completion", given)
        stream = read.flag("stream")
        n = int(read.whole("n", 1, 1, MAX_CHOICES))
        if read.whole("best_of", n, 1) != n:
            raise UnsupportedError("create_completion: best_of is not supported", hint="ask for n= and choose yourself")
        sampling = read.sampling()
        constraint = _constraint(read, read.take("response_format"))
        if constraint is not None:
            if "grammar" in sampling:
                read.fail("response_format", "a grammar is given as well: give one of them")
            sampling["json_schema"] = constraint or {"type": "object"}
        logprobs = read.take("logprobs")
        request = cls(
            prompts=texts("prompt", read.take("prompt"), read.fail),
            suffix=read.text("suffix") or None,
            max_tokens=read.max_tokens(_DEFAULT_COMPLETION_TOKENS, "max_tokens", "max_completion_tokens"),
            n=n,
            stop=read.stop(),
            logprobs=None if logprobs is False else 0 if logprobs is True else _logprobs(read, "logprobs"),
            echo=read.flag("echo"),
            stream=stream,
            include_usage=read.include_usage(stream),
            seed=read.seed(),
            sampling=sampling,
            scheduling=read.scheduling(),
            model=read.text("model"),
        )
        read.finish()
        if request.suffix is not None and request.echo:
            read.fail("echo", "it does not go with suffix")
        if request.suffix is not None and not all(isinstance(prompt, str) for prompt in request.prompts):
            read.fail("suffix", "it needs prompts that are texts")
        return request


@dataclass(frozen=True)
class ChatRequest:
    """A request for replies.

    Attributes:
        messages: The conversation, as dicts or message objects.
        tools: Tools in the API's form.
        tool_choice: "auto", "none", "required", or the one to call.
        parallel_tool_calls: Whether several calls may be made at once; None for what the model does.
        response_format: What the reply must look like, in the API's form; None for any text.
        n: Replies.
        max_tokens: Most tokens of each; None for as many as fit.
        stop: Strings at which to stop.
        logprobs: How many alternatives to report for each token; None for no log-probabilities.
        stream: Answer in pieces.
        include_usage: Count tokens in a last piece.
        seed: None for a random one.
        enable_thinking: Whether the model thinks first; None for its template's default.
        thinking_budget: Most tokens of thinking; None for no limit.
        template_options: Further names for the template.
        sampling: Options of `SamplingParams`.
        scheduling: Options of a generation.
        model: Name to answer with; None for the model's own.
    """

    messages: tuple[Any, ...]
    tools: tuple[Any, ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False
    seed: int | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    scheduling: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ChatRequest:
        """Read the parameters of a request.

        Raises:
            InvalidArgumentError: A parameter is unknown or wrong; the message names it.
            UnsupportedError: A parameter cannot be honoured.
        """
        read = Parameters("create_chat_completion", given)
        stream = read.flag("stream")
        sampling = read.sampling()
        response_format = _response_format(read)
        if response_format is not None and "grammar" in sampling:
            read.fail("response_format", "a grammar is given as well: give one of them")
        template = dict(_mapping(read, "chat_template_kwargs"))
        effort = read.text("reasoning_effort")
        thinking = template.pop("enable_thinking", None)
        if effort is not None:
            template.setdefault("reasoning_effort", effort)
            thinking = thinking if thinking is not None else (False if effort == "none" else None)
        request = cls(
            messages=_messages(read),
            tools=_tools(read),
            tool_choice=_tool_choice(read),
            parallel_tool_calls=_optional_flag(read, "parallel_tool_calls"),
            response_format=response_format,
            n=int(read.whole("n", 1, 1, MAX_CHOICES)),
            max_tokens=read.max_tokens(None, "max_tokens", "max_completion_tokens"),
            stop=read.stop(),
            logprobs=_chat_logprobs(read),
            stream=stream,
            include_usage=read.include_usage(stream),
            seed=read.seed(),
            enable_thinking=_thinking(read, thinking),
            thinking_budget=read.whole("thinking_budget", None, 0),
            template_options=template,
            sampling=sampling,
            scheduling=read.scheduling(),
            model=read.text("model"),
        )
        read.finish()
        if request.tool_choice not in (None, "none", "auto") and not request.tools:
            read.fail("tool_choice", "there are no tools to choose from: give tools=")
        return request


@dataclass(frozen=True)
class EmbeddingRequest:
    """A request for embeddings.

    Attributes:
        inputs: Texts or token ids.
        encoding: "float" or "base64".
        dimensions: Keep this many numbers of each, normalised anew; None for all.
        model: Name to answer with; None for the model's own.
    """

    inputs: tuple[Prompt, ...]
    encoding: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    model: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> EmbeddingRequest:
        """Read the parameters of a request.

        Raises:
            InvalidArgumentError: A parameter is unknown or wrong; the message names it.
        """
        read = Parameters("create_embedding", given)
        encoding = read.take("encoding_format", "float")
        if encoding not in ("float", "base64"):
            read.fail("encoding_format", 'give "float" or "base64"')
        request = cls(
            inputs=texts("input", read.take("input"), read.fail),
            encoding=encoding,
            dimensions=read.whole("dimensions", None, 1),
            model=read.text("model"),
        )
        read.finish()
        return request


def _logprobs(read: Parameters, name: str) -> int | None:
    return read.whole(name, None, 0, _MAX_LOGPROBS)


def _chat_logprobs(read: Parameters) -> int | None:
    wanted = read.flag("logprobs")
    top = read.whole("top_logprobs", None, 0, _MAX_LOGPROBS)
    if top is not None and not wanted:
        read.fail("top_logprobs", "it needs logprobs=True")
    return (top or 0) if wanted else None


def _optional_flag(read: Parameters, name: str) -> bool | None:
    return None if read.take(name) is None else read.flag(name)


def _thinking(read: Parameters, from_template: Any) -> bool | None:
    own = _optional_flag(read, "enable_thinking")
    if from_template is not None and not isinstance(from_template, bool):
        read.fail("chat_template_kwargs", "enable_thinking in it is True or False")
    return own if own is not None else from_template


def _mapping(read: Parameters, name: str) -> Mapping[str, Any]:
    value = read.take(name, {})
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        read.fail(name, "give a mapping with texts as keys")
    return value


def _messages(read: Parameters) -> tuple[Any, ...]:
    value = read.take("messages")
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence) or not value:
        read.fail("messages", 'give a list with at least one {"role": ..., "content": ...}')
    return tuple(value)


def _tools(read: Parameters) -> tuple[Any, ...]:
    value = read.take("tools", ())
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        read.fail("tools", "give a list of tools")
    return tuple(value)


def _tool_choice(read: Parameters) -> str | Mapping[str, Any] | None:
    value = read.take("tool_choice")
    if value is None or value in ("auto", "none", "required"):
        return value if value is None else str(value)
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        read.fail("tool_choice", 'give "auto", "none", "required" or {"type": "function", "function": {"name": ...}}')
    return dict(value)


def _response_format(read: Parameters) -> Mapping[str, Any] | None:
    value = read.take("response_format")
    schema = _constraint(read, value)
    if schema is None:
        return None
    if value["type"] == "json_schema":
        return dict(value)
    if not schema:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}


def _constraint(read: Parameters, value: Any) -> Mapping[str, Any] | None:
    """The JSON Schema that a `response_format` stands for, an empty one for any object; None for any text."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("schema")
        schema = {} if schema is None else schema
    elif kind == "json_schema":
        named = value.get("json_schema")
        schema = named.get("schema") if isinstance(named, Mapping) else None
    else:
        schema = None
    if not isinstance(schema, Mapping):
        read.fail(
            "response_format",
            'give {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": ...}}',
        )
    return schema
