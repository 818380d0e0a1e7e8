"""The text of a tool like `say`, read out of its call while the model is still writing it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*\{\s*"([^"\\]*)"\s*:\s*"')
_MAX_HEAD = 300
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class ArgumentText:
    """Reads the body of one call, character by character.

    It knows the form that models write, `{"name": "say", "arguments": {"text": "...`; of any other it reads nothing.

    Args:
        keys: Names of the arguments that are texts, by tool.
    """

    def __init__(self, keys: Mapping[str, Sequence[str]]) -> None:
        self.tool = ""
        """The tool whose text it reads; empty as long as that is not known."""
        self._keys = keys
        self._head = ""
        self._escape = ""
        self._high = 0  # the first half of a surrogate pair
        self._over = not keys

    def push(self, char: str) -> str:
        """Take a character, and return what is new of the text."""
        if self._over:
            return ""
        if not self.tool:
            self._begin(char)
            return ""
        if self._escape:
            return self._escaped(char)
        if char == "\\":
            self._escape = char
            return ""
        self._over = char == '"'
        return self._lone() + ("" if self._over else char)

    def _begin(self, char: str) -> None:
        self._head += char
        if char == '"':
            found = _HEAD.fullmatch(self._head)
            if found is not None:
                self._over = found[2] not in self._keys.get(found[1], ())
                self.tool = "" if self._over else found[1]
        self._over = self._over or len(self._head) > _MAX_HEAD

    def _escaped(self, char: str) -> str:
        self._escape += char
        if self._escape[1] != "u":
            self._escape = ""
            return self._lone() + _ESCAPES.get(char, char)
        if len(self._escape) < 6:
            return ""
        digits, self._escape = self._escape[2:], ""
        code = int(digits, 16) if re.fullmatch("[0-9A-Fa-f]{4}", digits) else 0xFFFD
        if 0xDC00 <= code < 0xE000 and self._high:
            code, self._high = 0x10000 + ((self._high - 0xD800) << 10) + code - 0xDC00, 0
            return chr(code)
        before = self._lone()
        if 0xD800 <= code < 0xDC00:
            self._high = code
            return before
        return before + ("\ufffd" if 0xDC00 <= code < 0xE000 else chr(code))

    def _lone(self) -> str:
        high, self._high = self._high, 0
        return "\ufffd" if high else ""
