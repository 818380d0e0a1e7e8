"""A context that computes embeddings and grows with the texts, and the batch that it is fed with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...core import backend, bulk
from ...core.batch import Batch
from ...core.context import Context
from ...errors import AbortedError, DecodeError
from ..own_context import apart, grown
from .pooling import pooling_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...core.model import Model
    from ...params import ContextParams
    from ..exclusive import Turn

# Tokens that are worth computing together. More only makes the attention of each token longer: a CPU gains nothing by
# it, a device is not filled by less.
_TOKENS_ON_CPU, _TOKENS_ON_DEVICE = 256, 512


class Lane:
    """One context, made when it is first needed and made anew when a text does not fit.

    It has no pooling of its own ("none": the vectors of all tokens can be read), or ranks ("rank").

    Args:
        model: The model.
        params: What the context should be; sizes and outputs are chosen here.
        pooling_type: "none" or "rank".
        limit: Most tokens of a text.
    """

    def __init__(self, model: Model, params: ContextParams, pooling_type: Literal["none", "rank"], limit: int) -> None:
        self._model = model
        self._limit = limit
        self.n_tokens = params.n_batch or (_TOKENS_ON_DEVICE if model.devices else _TOKENS_ON_CPU)
        """Tokens that share a decode."""
        # upstream computes the sequences of a recurrent memory one after the other, and each costs a state
        alone = model.is_recurrent or model.is_hybrid
        most = backend.limits()["parallel_sequences"]
        self.n_texts = 1 if alone else self.n_tokens // -(-self.n_tokens // most)
        """Texts that share a decode."""
        own = (pooling_of(model) or "none") == pooling_type  # upstream warns even of a choice that changes nothing
        self._params = apart(
            params,
            n_seq_max=self.n_texts,
            embeddings=True,
            pooling_type=None if own else pooling_type,
            kv_unified=True,
        )
        self._in_one_piece = model.has_encoder
        self._context: Context | None = None
        self._batch: Batch | None = None

    def prepare(self, longest: int) -> None:
        """Make the context large enough for a text of `longest` tokens.

        Raises:
            ContextError: llama.cpp could not create it.
        """
        if self._context is not None and not self._context.closed and longest <= self._room(self._context):
            return
        self.close()
        size = max(self.n_tokens, grown(longest, self._limit))
        context = self._make(size)
        if not self._in_one_piece and not context.causal_attn:
            self._in_one_piece = True
            if longest > context.n_ubatch:
                context.close()
                context = self._make(size)
        self._context, self._batch = context, Batch(context.n_batch)

    def _make(self, size: int) -> Context:
        n_batch = size if self._in_one_piece else self.n_tokens
        n_batch += -n_batch % self.n_texts  # upstream plans for as many tokens of each text, and asserts on a remainder
        n_ubatch = n_batch if self._in_one_piece else self._params.n_ubatch or n_batch
        return self._model.context(self._params, n_ctx=max(size, n_batch), n_batch=n_batch, n_ubatch=n_ubatch)

    def _room(self, context: Context) -> int:
        return context.n_ubatch if self._in_one_piece else context.n_ctx_seq

    @property
    def capacity(self) -> int:
        """Most tokens of a decode as the context is now."""
        return self._context.n_batch if self._context is not None else 0

    def compute(self, turn: Turn, texts: Sequence[NDArray[np.int32]]) -> None:
        """Decode texts that fit into one batch, each as a sequence of its own, and forget what was there before.

        Raises:
            AbortedError: It was cancelled.
            DecodeError: It failed.
        """
        self._compute(turn, texts, 0)

    def compute_parts(self, turn: Turn, text: NDArray[np.int32]) -> Iterator[int]:
        """Decode a text that is longer than a batch in parts; yields the number of tokens of each once it is done."""
        step = self._context.n_batch if self._context is not None else len(text)
        for start in range(0, len(text), step):
            part = text[start : start + step]
            self._compute(turn, [part], start)
            yield len(part)

    def _compute(self, turn: Turn, texts: Sequence[NDArray[np.int32]], pos: int) -> None:
        assert self._context is not None
        assert self._batch is not None
        context, batch = self._context, self._batch
        turn.use(context)
        try:
            if pos == 0 and context.memory.present:
                context.memory.clear(data=False)
            bulk.fill(batch, texts, pos=pos)
            if self._model.has_encoder:
                context.encode(batch)
            else:
                context.decode(batch)
        except DecodeError as exc:
            if not isinstance(exc, AbortedError):
                self.close()  # whatever state it is in: the next call starts with a new one
            raise

    def rows(self, n_tokens: int) -> NDArray[np.float32]:
        """Return the vectors of the tokens of the last decode, float32 [n_tokens, n_embd_out]."""
        assert self._context is not None
        return bulk.embedding_rows(self._context, n_tokens)

    def scores(self, n_texts: int) -> NDArray[np.float32]:
        """Return what the classifier says of the texts of the last decode, float32 [n_texts, n_cls_out]."""
        assert self._context is not None
        return np.stack([self._context.embeddings_seq(seq_id) for seq_id in range(n_texts)])

    def close(self) -> None:
        """Free the context."""
        context, self._context = self._context, None
        if context is not None:
            context.close()
