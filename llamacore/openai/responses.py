"""What all responses share: who answers, token counts, finish reasons and log-probabilities."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .types import ChatLogprobs, CompletionLogprobs, CompletionUsage, FinishReason

if TYPE_CHECKING:
    from ..engine.records import TokenLogprob, Usage
    from ..engine.text import PieceTable


@dataclass(frozen=True)
class Stamp:
    """What all parts of one response carry.

    Attributes:
        id: A new one for each response.
        model: Name of the model.
        created: Seconds since 1970.
    """

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def new(cls, prefix: str, model: str) -> Stamp:
        """Make the stamp of a new response."""
        return cls(f"{prefix}-{uuid.uuid4()}", model)


def finish_reason(reason: str) -> FinishReason:
    """Turn the engine's reason into one that the API has: what was cut off in any way ended by "length"."""
    return "stop" if reason == "stop" else "tool_calls" if reason == "tool_calls" else "length"


def usage(of_prompts: Sequence[Usage]) -> CompletionUsage:
    """Add up the tokens of a response.

    Args:
        of_prompts: One for each choice. Choices of the same prompt must say so: only the first has prompt tokens.
    """
    prompt = sum(item.prompt_tokens for item in of_prompts)
    completion = sum(item.completion_tokens for item in of_prompts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(item.cached_tokens for item in of_prompts)},
    }


class LogprobWriter:
    """Writes log-probabilities of one choice as they come, with the place of each token in the text.

    Args:
        pieces: Bytes of tokens.
        offset: Characters before the first token.
    """

    def __init__(self, pieces: PieceTable, offset: int = 0) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = offset

    def write(
        self, entries: Sequence[TokenLogprob | None], *, tokens: Sequence[int] = (), end: int | None = None
    ) -> CompletionLogprobs:
        """Return the next ones.

        Args:
            entries: One for each token; None for a token that has none, which `tokens` then names.
            tokens: Token ids; needed only where an entry is None.
            end: Where the text ends, when it ended at a stop string: tokens from there on are not part of it.
        """
        found: CompletionLogprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for number, entry in enumerate(entries):
            if end is not None and self._offset >= end:
                break
            token = entry.token if entry is not None else tokens[number]
            text = entry.text if entry is not None else self._text(token)
            found["tokens"].append(text)
            found["token_logprobs"].append(entry.logprob if entry is not None else None)
            found["top_logprobs"].append(self._top(entry, text) if entry is not None else None)
            found["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(self._pieces.plain(token)[0]))
        return found

    def _top(self, entry: TokenLogprob, text: str) -> dict[str, float] | None:
        if not entry.top:
            return None
        top: dict[str, float] = {}
        for token, logprob in entry.top:
            top.setdefault(self._text(token), logprob)  # parts of characters look alike: the likeliest stays
        top.setdefault(text, entry.logprob)
        return top

    def _text(self, token: int) -> str:
        return self._pieces.special(token)[0].decode("utf-8", "replace")


def chat_logprobs(entries: Sequence[TokenLogprob], pieces: PieceTable) -> ChatLogprobs:
    """Write log-probabilities in the form of chat responses."""

    def bytes_of(token: int) -> bytes:
        return pieces.special(token)[0]

    return {
        "content": [
            {
                "token": entry.text,
                "logprob": entry.logprob,
                "bytes": list(bytes_of(entry.token)),
                "top_logprobs": [
                    {
                        "token": bytes_of(token).decode("utf-8", "replace"),
                        "logprob": logprob,
                        "bytes": list(bytes_of(token)),
                    }
                    for token, logprob in entry.top
                ],
            }
            for entry in entries
        ]
    }
