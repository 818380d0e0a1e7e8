"""Texts to tokens, with what a context cannot take refused or cut as asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...errors import InvalidArgumentError
from ..token_ids import token_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...core.vocab import Vocab

Text = str | bytes | Sequence[int]
Texts = Text | Iterable[Text]
Truncate = Literal[False, "end", "start"]
_SHOWN = 40  # characters of a text in a message


def as_list(texts: Texts) -> list[Text]:
    """Return the texts as a list: one text, or token ids of one, count as a list of one.

    Raises:
        InvalidArgumentError: It is neither.
    """
    if isinstance(texts, (str, bytes)):
        return [texts]
    if not isinstance(texts, Iterable):
        raise InvalidArgumentError(f"{type(texts).__name__} is no text", hint="give a string, or a list of strings")
    found = list(texts)
    if found and all(hasattr(item, "__index__") for item in found):
        return [found]  # type: ignore[list-item]
    return found  # type: ignore[return-value]


def shown(text: Text) -> str:
    """The beginning of a text, for a message."""
    if not isinstance(text, (str, bytes)):
        return f"{len(text)} token ids"
    return repr(text) if len(text) <= _SHOWN else repr(text[:_SHOWN]) + "…"


def to_tokens(vocab: Vocab, text: Text, which: str, *, parse_special: bool = False) -> NDArray[np.int32]:
    """Return the tokens of a text, int32 [n], with those that the model wants around it; token ids are taken as given.

    Args:
        vocab: The vocabulary.
        text: The text.
        which: What a message calls it ("text 3").
        parse_special: Read control tokens that are written in it as such.

    Raises:
        InvalidArgumentError: It is no text, or has no tokens.
        OutOfRangeError: A token is not in the vocabulary.
    """
    if isinstance(text, (str, bytes)):
        tokens = np.asarray(vocab.tokenize(text, add_special=True, parse_special=parse_special), dtype=np.int32)
    else:
        tokens = token_ids(text, which, len(vocab))
    if not tokens.size:
        raise InvalidArgumentError(f"{which} has no tokens", hint="leave empty texts out")
    return tokens


def fit(
    tokens: NDArray[np.int32], limit: int, truncate: Truncate, which: str, text: Text, vocab: Vocab
) -> NDArray[np.int32]:
    """Return the tokens of a text if there are at most `limit`, else cut them as asked.

    Tokens that the model itself puts around a text stay where they are.

    Args:
        tokens: int32 [n].
        limit: Most tokens.
        truncate: False refuses; "end" cuts the end off, "start" the start.
        which: What a message calls it.
        text: What it was made from.
        vocab: The vocabulary.

    Raises:
        InvalidArgumentError: It is longer, and is not to be cut.
    """
    if len(tokens) <= limit:
        return tokens
    if not truncate:
        raise InvalidArgumentError(
            f"{which} ({shown(text)}) has {len(tokens)} tokens, the limit is {limit}",
            hint='split it, or cut it with truncate="end" or "start"; a larger n_ctx helps where the model allows it',
        )
    head = tail = 0
    if isinstance(text, (str, bytes)):
        head = int(vocab.add_bos and int(tokens[0]) == vocab.bos)
        tail = int((vocab.add_eos or vocab.add_sep) and int(tokens[-1]) in (vocab.eos, vocab.sep))
    room = max(limit - head - tail, 0)
    inner = tokens[head : len(tokens) - tail]
    kept = inner[:room] if truncate == "end" else inner[len(inner) - room :]
    return np.concatenate([tokens[:head], kept, tokens[len(tokens) - tail :]])[:limit]


def require_truncate(truncate: object) -> None:
    """Refuse what is no way to cut a text."""
    if truncate not in (False, "end", "start"):
        raise InvalidArgumentError(f"truncate={truncate!r}", hint='give False, "end" or "start"')
