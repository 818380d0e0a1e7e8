"""Upstream's `common_chat`: what a template means for the grammar and for reading replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgumentError, NativeError, TemplateError
from . import backend, sampler_checks
from ._handle import Handle, SharedHandle
from ._native import ffi, lib
from ._status import raise_status
from .chat_macros import bounded, unbounded

MAX_REPLY_BYTES = int(lib.LLC_CHAT_MAX_REPLY)
CONTENT, REASONING = 1, 2
"""What all of a pushed text is, where `ChatReply.push` says so at once."""


def _take_json(pointer: Any) -> Any:
    """Read JSON that the shim wrote, and free it; None for nothing."""
    if pointer == ffi.NULL:
        return None
    try:
        return json.loads(ffi.string(pointer))
    finally:
        lib.llc_string_free(pointer)


class ChatTemplates(SharedHandle):
    """A chat template as upstream's engine understands it. Several threads may use it at once.

    Args:
        source: The template.
        bos_token: What `bos_token` stands for in it.
        eos_token: What `eos_token` stands for in it.

    Raises:
        TemplateError: Upstream's engine cannot read it.
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "") -> None:
        if not isinstance(source, str):
            raise InvalidArgumentError(f"the chat template is a {type(source).__name__}", hint="give its source")
        backend.init()
        out = ffi.new("struct llc_chat_templates **")
        texts = {"the chat template": bounded(source), "bos_token": bos_token, "eos_token": eos_token}
        raw = [ffi.new("char[]", sampler_checks.utf8(what, value)) for what, value in texts.items()]
        status = lib.llc_chat_templates_new(*raw, out)
        if status != lib.LLC_OK:
            raise_status(status, "the chat template cannot be used", TemplateError)
        super().__init__(out[0], lib.llc_chat_templates_free)
        described = ffi.new("char **")
        status = lib.llc_chat_templates_describe(out[0], described)
        if status != lib.LLC_OK:
            self.close()
            raise_status(status, "describing the chat template", NativeError)
        found = _take_json(described[0])
        self.source: str = unbounded(found["source"])
        """The template as upstream renders it: it mends two known ones."""
        self.caps: Mapping[str, bool] = found["caps"]
        """What upstream found out about it by trying (`supports_tools`, ...)."""

    def apply(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], ChatParser]:
        """Derive grammar, triggers and parser for a request (upstream: `common_chat_templates_apply`).

        Args:
            inputs: All of messages, tools, tool_choice, parallel_tool_calls, json_schema, enable_thinking,
                reasoning_format, add_generation_prompt and chat_template_kwargs.

        Returns:
            The fields of `common_chat_params`, and the parser for replies.

        Raises:
            TemplateError: The template refuses the conversation or fails.
            InvalidArgumentError: The inputs are no JSON, or nested too deeply.
        """
        try:
            raw = json.dumps(inputs, allow_nan=False).encode("ascii")
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidArgumentError(f"the conversation cannot be written as JSON: {exc}") from exc
        params = ffi.new("char **")
        parser = ffi.new("struct llc_chat_parser **")
        ptr = self._enter()
        try:
            status = lib.llc_chat_apply(ptr, ffi.new("char[]", raw), params, parser)
        finally:
            self._exit()
        if status != lib.LLC_OK:
            raise_status(status, "the chat template refuses the conversation", TemplateError)
        return _take_json(params[0]), ChatParser(parser[0])


class ChatParser(SharedHandle):
    """How replies to one kind of request are read. It never changes; several threads may use it at once."""

    def __init__(self, ptr: Any) -> None:
        super().__init__(ptr, lib.llc_chat_parser_free)

    def reply(self) -> ChatReply:
        """Start reading a reply."""
        out = ffi.new("struct llc_chat_reply **")
        ptr = self._enter()
        try:
            status = lib.llc_chat_reply_new(ptr, out)
        finally:
            self._exit()
        if status != lib.LLC_OK:
            raise_status(status, "reading a reply", NativeError)
        return ChatReply(out[0])


class ChatReply(Handle):
    """A reply that is being read, by one thread at a time. It does not need its parser any more."""

    def __init__(self, ptr: Any) -> None:
        super().__init__(ptr, lib.llc_chat_reply_free)
        self._kind = ffi.new("int32_t *")
        self._pieces = ffi.new("char **")

    def push(self, raw: bytes, *, last: bool = False) -> tuple[int, list[dict[str, Any]]]:
        """Take more of the reply.

        Returns:
            `CONTENT` or `REASONING` when all of it is just that; else 0 and the pieces that are new.

        Raises:
            InvalidArgumentError: The reply is longer than 16 MiB.
        """
        ptr = self._enter()
        try:
            status = lib.llc_chat_reply_push(ptr, raw, len(raw), last, self._kind, self._pieces)
            if status != lib.LLC_OK:
                raise_status(status, "reading a reply", NativeError)
            pieces = _take_json(self._pieces[0])
            return int(self._kind[0]), pieces or []
        finally:
            self._exit()

    def message(self) -> dict[str, Any]:
        """Return what the pieces so far add up to: content, reasoning_content and tool_calls."""
        out = ffi.new("char **")
        ptr = self._enter()
        try:
            status = lib.llc_chat_reply_message(ptr, out)
            if status != lib.LLC_OK:
                raise_status(status, "reading a reply", NativeError)
            found: dict[str, Any] = _take_json(out[0])
            return found
        finally:
            self._exit()
