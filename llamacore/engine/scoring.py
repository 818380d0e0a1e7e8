"""`Scorer`: how likely a model finds a text, token by token, without ever holding its logits in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..core import bulk
from ..core.batch import Batch
from ..errors import AbortedError, DecodeError, InvalidArgumentError, OutOfRangeError, UnsupportedError
from .exclusive import Exclusive, Turn
from .own_context import apart, grown, settings
from .token_ids import token_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.adapters import LoraAdapter
    from ..core.context import Context
    from ..core.model import Model
    from ..params import ContextParams

Progress = Callable[[int, int], "bool | None"]
_LOGITS_BYTES = 128 * 2**20  # of one decode, which llama.cpp keeps twice
_LEAST_BATCH, _MOST_BATCH = 32, 512


@dataclass(frozen=True, eq=False)
class Score:
    """How likely a text is, in natural logarithms.

    Attributes:
        tokens: All tokens, those of the prefix included.
        first: Place of the first token that is scored: the number of tokens of the prefix, at least 1, since nothing
            comes before the first token of all.
        logprobs: Log-probability of each token from `first` on, given those before it, float32 [n_logprobs].
        top_tokens: The most likely tokens at each of those places, best first, int32 [n_logprobs, top_k].
        top_logprobs: Their log-probabilities, float32 [n_logprobs, top_k].
    """

    tokens: tuple[int, ...]
    first: int
    logprobs: NDArray[np.float32]
    top_tokens: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    @property
    def n_tokens(self) -> int:
        """Number of all tokens."""
        return len(self.tokens)

    @property
    def n_logprobs(self) -> int:
        """Number of tokens that are scored."""
        return len(self.logprobs)

    @property
    def total_logprob(self) -> float:
        """Log-probability of all that is scored."""
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative log-probability; infinite where that is too large for a number."""
        try:
            return math.exp(-self.total_logprob / self.n_logprobs)
        except OverflowError:
            return math.inf

    @property
    def top(self) -> list[list[tuple[int, float]]]:
        """(token, log-probability) of the most likely tokens at each scored place, best first."""
        pairs = zip(self.top_tokens.tolist(), self.top_logprobs.tolist(), strict=True)
        return [list(zip(tokens, logprobs, strict=True)) for tokens, logprobs in pairs]


class Scorer(Exclusive):
    """Scores texts with one model, from any thread: calls wait for their turn.

    Its context is its own: made when it is first needed, made larger when a text does not fit, freed by `close()` or
    with the model.

    Args:
        model: The model, which stays the caller's to close.
        n_ctx: Most tokens that are seen at a time; None for what the model was trained with. Memory is taken only for
            texts that come.
        n_batch: Tokens that are computed at a time; None for as many as have 128 MiB of logits, 32 to 512.
        n_threads: Threads; None for the number of physical cores.
        context_params: Everything else about the context.

    Raises:
        InvalidArgumentError: A number is out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_threads: int | None = None,
        context_params: ContextParams | None = None,
    ) -> None:
        super().__init__(model)
        params = settings(context_params, n_ctx=n_ctx, n_batch=n_batch, n_ubatch=None, n_threads=n_threads)
        fitting = _LOGITS_BYTES // (4 * max(model.n_vocab, 1)) // 32 * 32
        self._n_batch = params.n_batch or min(max(fitting, _LEAST_BATCH), _MOST_BATCH)
        self._limit = params.n_ctx or model.n_ctx_train
        self._params = apart(params, n_batch=self._n_batch, n_seq_max=1, embeddings=False, pooling_type=None)
        self._context: Context | None = None

    @property
    def n_ctx(self) -> int:
        """Most tokens that are seen at a time."""
        return self._limit

    def score(
        self,
        text: str | bytes | Sequence[int],
        *,
        prefix: str | bytes | Sequence[int] = "",
        top_k: int = 0,
        stride: int | None = None,
        add_special: bool = True,
        parse_special: bool = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """Return the log-probability of each token of a text, given those before it.

        Args:
            text: Text, or token ids that are used as they are.
            prefix: What stands before the text and is not scored itself, as text or token ids.
            top_k: How many of the most likely tokens to report for each place.
            stride: For a text longer than `n_ctx`: it is seen through a window of `n_ctx` tokens that moves on by this
                many, and each token is scored in the first window that reaches it. Every token but those of the first
                window has between `n_ctx - stride` and `n_ctx` tokens before it in sight. None refuses such a text.
            add_special: Let the model's own BOS and EOS be added to a text.
            parse_special: Read control tokens written in a text as such.
            loras: LoRA adapters of the model with their scales, for this call.
            progress: Called after each decode with the number of tokens that are scored and of all to be; returning
                False cancels. What it raises is raised here.

        Raises:
            InvalidArgumentError: There is nothing to score, the text is too long, or an option is wrong.
            OutOfRangeError: A token or `top_k` is out of range.
            UnsupportedError: The model predicts no next token.
            AbortedError: It was cancelled.
            AdapterError: An adapter does not fit the model.
            DecodeError: It failed, or a log-probability came out as no number.
            ClosedError: The scorer or the model is closed.
        """
        return self._score(text, prefix, top_k, stride, add_special, parse_special, progress, Turn(loras))

    async def ascore(
        self,
        text: str | bytes | Sequence[int],
        *,
        prefix: str | bytes | Sequence[int] = "",
        top_k: int = 0,
        stride: int | None = None,
        add_special: bool = True,
        parse_special: bool = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """`score` for an event loop: computed in a thread, cancelled with the task that awaits it."""
        options = (text, prefix, top_k, stride, add_special, parse_special, progress)
        return await self._in_thread(partial(self._score, *options), Turn(loras))

    def _score(
        self,
        text: str | bytes | Sequence[int],
        prefix: str | bytes | Sequence[int],
        top_k: int,
        stride: int | None,
        add_special: bool,
        parse_special: bool,
        progress: Progress | None,
        turn: Turn,
    ) -> Score:
        self._require_open()
        if not (hasattr(top_k, "__index__") and 0 <= top_k <= self.model.n_vocab):
            raise OutOfRangeError(f"top_k={top_k!r}", hint=f"give 0 to {self.model.n_vocab}")
        if stride is not None and not (hasattr(stride, "__index__") and 1 <= stride <= self._limit):
            raise InvalidArgumentError(f"stride={stride!r}", hint=f"give 1 to n_ctx={self._limit}")
        before = self._tokens(prefix, "the prefix", add_special, parse_special)
        if len(before) and isinstance(prefix, (str, bytes)) and self.model.vocab.add_eos:
            before = before[:-1]  # the text goes on
        own = self._tokens(text, "the text", add_special and not len(before), parse_special)
        tokens = np.concatenate([before, own])
        first = max(len(before), 1)
        if len(tokens) <= first:
            raise InvalidArgumentError(
                "there is no token to score: the first one has nothing before it", hint="give more text, or a prefix"
            )
        if len(tokens) - 1 > self._limit and stride is None:
            raise InvalidArgumentError(
                f"the text has {len(tokens)} tokens, and {self._limit} are seen at a time",
                hint="give a stride, or split it; a larger n_ctx helps where the model allows it",
            )
        with self._turn(turn):
            return self._run(turn, tokens, first, top_k, stride or 1, progress)

    def _tokens(
        self, text: str | bytes | Sequence[int], which: str, add_special: bool, parse_special: bool
    ) -> NDArray[np.int32]:
        vocab = self.model.vocab
        if isinstance(text, (str, bytes)):
            if not text:
                return np.empty(0, dtype=np.int32)
            found = vocab.tokenize(text, add_special=add_special, parse_special=parse_special)
            return np.asarray(found, dtype=np.int32)
        return token_ids(text, which, vocab.n_tokens)

    def _run(
        self, turn: Turn, tokens: NDArray[np.int32], first: int, top_k: int, stride: int, progress: Progress | None
    ) -> Score:
        n_inputs = len(tokens) - 1  # the last token is predicted, not read
        context = self._context_for(min(n_inputs, self._limit))
        batch = Batch(context.n_batch)
        logprobs = np.empty(len(tokens) - first, dtype=np.float32)
        top_tokens = np.empty((len(logprobs), top_k), dtype=np.int32)
        top_logprobs = np.empty((len(logprobs), top_k), dtype=np.float32)
        done = 0  # tokens that have their log-probability
        try:
            for start in range(0, n_inputs, stride):
                context.memory.clear(data=False)
                end = min(start + self._limit, n_inputs)
                for at in range(start, end, context.n_batch):
                    stop = min(at + context.n_batch, end)
                    fresh = max(stop - max(first - 1 + done, at), 0)  # rows that predict what is not scored yet
                    turn.use(context)
                    bulk.fill(batch, [tokens[at:stop]], pos=at - start, outputs=fresh)
                    context.decode(batch)
                    if not fresh:
                        continue
                    rows = np.arange(stop - at - fresh, stop - at, dtype=np.int32)
                    part = slice(done, done + fresh)
                    targets = tokens[stop - fresh + 1 : stop + 1]
                    logprobs[part], top_tokens[part], top_logprobs[part] = bulk.score_rows(
                        context, rows, targets, top_k
                    )
                    if not np.isfinite(logprobs[part]).all():
                        raise DecodeError(
                            f"the model computed no number for the tokens {at} to {stop}",
                            hint="check the model file, or use another data type or device",
                        )
                    done += fresh
                    if progress is not None and progress(done, len(logprobs)) is False:
                        raise AbortedError("cancelled by the progress callback", hint="what was computed is lost")
                if end == n_inputs:
                    break
        except DecodeError as exc:
            if not isinstance(exc, AbortedError):
                self._free()
            raise
        return Score(tuple(tokens.tolist()), first, logprobs, top_tokens, top_logprobs)

    def _context_for(self, n_tokens: int) -> Context:
        context = self._context
        if context is not None and not context.closed and n_tokens <= context.n_ctx_seq:
            return context
        self._free()
        if self.model.has_encoder:
            raise UnsupportedError("this model has an encoder: it predicts no next token of a plain text")
        context = self.model.context(self._params, n_ctx=grown(n_tokens, self._limit))
        if not context.causal_attn or not context.memory.present:
            context.close()
            raise UnsupportedError("this model sees a whole text at once: it predicts no next token")
        self._context = context
        return context

    def _free(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.close()
