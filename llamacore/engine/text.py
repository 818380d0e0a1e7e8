"""From the bytes of tokens to text that can be shown: whole characters only, and no part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    from ..core.vocab import Vocab


class PieceTable:
    """The bytes of tokens and whether they end a generation, asked of the vocabulary once each."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._plain: dict[int, tuple[bytes, bool]] = {}
        self._special: dict[int, tuple[bytes, bool]] = {}

    def plain(self, token: int) -> tuple[bytes, bool]:
        """Bytes of a token, none for control tokens; and whether it ends a generation."""
        entry = self._plain.get(token)
        if entry is None:
            entry = self._plain[token] = self._look_up(token, special=False)
        return entry

    def special(self, token: int) -> tuple[bytes, bool]:
        """Bytes of a token, the text of control tokens included; and whether it ends a generation."""
        entry = self._special.get(token)
        if entry is None:
            entry = self._special[token] = self._look_up(token, special=True)
        return entry

    def _look_up(self, token: int, *, special: bool) -> tuple[bytes, bool]:
        return self._vocab.token_to_piece(token, special=special), self._vocab.is_eog(token)


class StopMatcher:
    """Finds stop strings in a stream of text, however it is cut into pieces.

    The longest end of the text that could still become a stop string is held back, so that no part of one is emitted.

    Args:
        stops: Strings at which to stop; none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise InvalidArgumentError("a stop string is empty", hint="leave it out")
        self._stops = tuple(dict.fromkeys(stops))
        self._firsts = frozenset(stop[0] for stop in self._stops)
        self._held = ""
        self.matched: str | None = None
        """The stop string that was found."""

    def push(self, text: str) -> str:
        """Take more text and return what can be emitted; once a stop is found, only what comes before it."""
        if self.matched is not None:
            return ""
        if not self._held and self._firsts.isdisjoint(text):
            return text  # no stop string can begin in it, which is nearly always so
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)  # the one that is complete first; of two, the longer
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class TextAssembler:
    """Bytes of tokens in, text out: decodes UTF-8 across tokens and stops at stop strings.

    Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._split = False  # the decoder holds a part of a character
        self._matcher = StopMatcher(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._matcher.matched

    def push(self, piece: bytes) -> str:
        """Take the bytes of a token and return the text that is certain by now, which may be empty."""
        if not self._split and piece.isascii():
            return self._matcher.push(piece.decode("ascii"))
        text = self._decoder.decode(piece)
        self._split = bool(self._decoder.getstate()[0])
        return self._matcher.push(text)

    def finish(self) -> str:
        """Return the rest, at the end of the generation."""
        return self._matcher.push(self._decoder.decode(b"", final=True)) + self._matcher.finish()
