"""From the vectors of a text's tokens to the vector of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...core.model import Model

EmbeddingPooling = Literal["mean", "last", "first", "cls", "none"]
POOLINGS = ("mean", "last", "first", "cls", "none")
_OF_FILES = {"0": "none", "1": "mean", "2": "cls", "3": "last", "4": "rank"}  # enum llama_pooling_type


def pooling_of(model: Model) -> str | None:
    """Return the pooling that a model file asks for: none, mean, cls, last or rank; None where it says nothing."""
    return _OF_FILES.get(model.metadata.get(f"{model.arch}.pooling_type", ""))


def choose(model: Model, asked: str | None) -> str:
    """Return the pooling to use: what was asked for, else the model's own, else mean.

    Raises:
        InvalidArgumentError: There is no such pooling.
        UnsupportedError: The model is made for ranking, and nothing was asked for.
    """
    if asked == "rank":
        raise InvalidArgumentError("pooling='rank' gives scores, not embeddings", hint="call rerank()")
    if asked is not None:
        if asked not in POOLINGS:
            raise InvalidArgumentError(f"pooling={asked!r}", hint=f"use one of {', '.join(POOLINGS)}")
        return "first" if asked == "cls" else asked
    own = pooling_of(model)
    if own == "rank":
        raise UnsupportedError(
            "this model ranks texts and has no embeddings of its own",
            hint='call rerank(), or choose a pooling for its hidden states, such as pooling="cls"',
        )
    return {"cls": "first", "last": "last"}.get(own or "", "mean")  # by token is never a default: it is no vector


def pool(rows: NDArray[np.float32], lengths: Sequence[int], pooling: str) -> list[NDArray[np.float32]]:
    """Return the vector of each text.

    Args:
        rows: Vectors of the tokens of all texts, float32 [sum of lengths, n_embd_out].
        lengths: Tokens of each text, none of them 0.
        pooling: mean, first, last or none.

    Returns:
        float32 [n_embd_out] for each text; without pooling [n_tokens, n_embd_out].
    """
    sizes = np.asarray(lengths, dtype=np.intp)
    ends = np.cumsum(sizes)
    if pooling == "none":
        return np.split(rows, ends[:-1])
    if pooling == "last":
        return list(np.take(rows, ends - 1, axis=0))
    if pooling == "first":
        return list(np.take(rows, ends - sizes, axis=0))
    means: NDArray[np.float32] = np.add.reduceat(rows, ends - sizes, axis=0)
    means /= sizes.astype(np.float32)[:, None]
    return list(means)


class LongText:
    """Pools a text that is decoded in several parts, one part at a time, so that its rows need not all be kept.

    Args:
        pooling: mean, first, last or none.
        n_tokens: Length of the whole text.
    """

    def __init__(self, pooling: str, n_tokens: int) -> None:
        self._pooling = pooling
        self._n_tokens = n_tokens
        self._parts: list[NDArray[np.float32]] = []

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take the rows of the next part."""
        if self._pooling == "none":
            self._parts.append(rows)
        elif self._pooling == "last":
            self._parts = [rows[-1].copy()]
        elif self._pooling == "first":
            self._parts = self._parts or [rows[0].copy()]
        else:
            part = rows.sum(axis=0)
            self._parts = [self._parts[0] + part] if self._parts else [part]

    def result(self) -> NDArray[np.float32]:
        """float32 [n_embd_out], or [n_tokens, n_embd_out] without pooling."""
        if self._pooling == "none":
            return np.concatenate(self._parts)
        whole = self._parts[0]
        if self._pooling == "mean":
            whole = whole / np.float32(self._n_tokens)
        return whole


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors with L2 length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalised: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return normalised
