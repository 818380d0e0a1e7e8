"""One text being generated: its tokens, its characters, and what ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .cached_text import FEW_TOKENS
from .records import Activation, Chunk, Completion, FinishReason, Timings, TokenLogprob, Usage
from .text import PieceTable, TextAssembler

if TYPE_CHECKING:
    from ..core.sampler import Sampler
    from .cached_text import CachedText
    from .generation import Mailbox
    from .request import GenerationParams


_CHECKPOINT_EVERY = 1024
_NO_LIMIT = 2**31 - 1


class Job:
    """A request that the engine has taken.

    Args:
        number: Running number of the request.
        prompt: Token ids.
        params: What was asked.
        samplers: A sampler for each sample; closed at its end, or given back.
        give_back: Called for the sampler of the first sample at its end.
        mailbox: Where everything is delivered.
        pieces: Bytes of tokens.
        model_name: Name for the completions.
    """

    def __init__(
        self,
        number: int,
        prompt: list[int],
        params: GenerationParams,
        samplers: list[Sampler],
        give_back: Callable[[], None],
        mailbox: Mailbox,
        pieces: PieceTable,
        model_name: str,
    ) -> None:
        self.number = number
        self.params = params
        self.prompt = prompt
        self.give_back = give_back
        self.mailbox = mailbox
        self.model_name = model_name
        self.loras = frozenset(params.loras.items())  # the same in a batch
        self.steering = frozenset(params.steering.items())
        self.key = self.loras | self.steering  # what a state depends on
        self.order = (-params.priority, number)
        self.submitted = time.perf_counter()
        self.started: float | None = None
        self.is_timed = params.deadline is not None or params.time_limit is not None
        self.ends_at = None if params.deadline is None else self.submitted + params.deadline
        self.cached_tokens = 0
        self.reserved = 0  # sequences that its other samples will get when the prompt is computed
        self.checkpoints: frozenset[int] = frozenset()
        self.samples = [Sample(self, index, sampler, pieces) for index, sampler in enumerate(samplers)]
        self.left = len(self.samples)

    def is_late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.ends_at is not None and now >= self.ends_at

    def place_checkpoints(self, reused: int, parting: int) -> None:
        """Choose lengths of the prompt at which to keep the state, for a memory that cannot be cut.

        Args:
            reused: Tokens that need not be computed.
            parting: Where the prompt parts from a known text.
        """
        last = len(self.prompt) - (self.params.max_tokens != 0)  # the same prompt again needs its last token's logits
        points, before = set(), reused
        wanted = {parting, last, *self.params.checkpoints, *range(_CHECKPOINT_EVERY, last, _CHECKPOINT_EVERY)}
        for point in sorted(wanted):
            if before + FEW_TOKENS <= point <= last:
                points.add(point)
                before = point
        self.checkpoints = frozenset(points)


class Sample:
    """One of the texts that a request asked for.

    Attributes:
        context: Every token that the model is to see: the prompt and what was generated.
        held: The sequence that holds as much of it as is computed; None while it waits for one.
    """

    def __init__(self, job: Job, index: int, sampler: Sampler, pieces: PieceTable) -> None:
        params = job.params
        self.job = job
        self.index = index
        self.sampler = sampler
        self.context = list(job.prompt)
        self.held: CachedText | None = None
        self.tokens: list[int] = []
        self.shifted = 0
        self.ended = False
        self.first_token_at: float | None = None
        self._piece_of = pieces.special if params.special else pieces.plain
        self._special_piece = pieces.special
        self._assembler = TextAssembler(params.stop)
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._activations: list[Activation] = []
        self._n_sent = self._n_activations_sent = 0
        self._limit = params.max_tokens

    @property
    def seq(self) -> int:
        """The sequence that it has; -1 when it has none."""
        return -1 if self.held is None or self.held.seq is None else self.held.seq

    @property
    def remaining(self) -> int:
        """Tokens of the context that are not computed yet."""
        return len(self.context) - len(self.held.tokens) if self.held is not None else len(self.context)

    @property
    def draft_limit(self) -> int:
        """Most tokens that a draft for it may have."""
        most = self.job.params.draft_max
        left = _NO_LIMIT if self._limit is None else self._limit - len(self.tokens) - 1
        return left if most is None else min(most, left)

    def take(self, token: int, logprob: tuple[float, tuple[tuple[int, float], ...]] | None) -> FinishReason | None:
        """Take a token that was chosen; returns why it was the last one, if it was."""
        job = self.job
        params = job.params
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        piece, is_eog = self._special_piece(token) if token in params.shown_tokens else self._piece_of(token)
        if is_eog and not params.special:
            return "stop"
        self.tokens.append(token)
        self.context.append(token)
        if logprob is not None:
            text = self._special_piece(token)[0].decode("utf-8", "replace")
            self._logprobs.append(TokenLogprob(token, text, *logprob))
        text = self._assembler.push(piece)
        if text or len(self._activations) > self._n_activations_sent:
            self._text.append(text)
            if params.stream:
                job.mailbox.put(self._chunk(text))
        if is_eog or self._assembler.matched is not None:
            return "stop"
        if self._limit is not None and len(self.tokens) >= self._limit:
            return "length"
        return None

    def see(self, activations: Sequence[Activation]) -> None:
        """Take what was read at the place from which the next token was chosen."""
        self._activations += activations

    def _chunk(self, text: str, reason: FinishReason | None = None, result: Completion | None = None) -> Chunk:
        start, self._n_sent = self._n_sent, len(self.tokens)
        seen, self._n_activations_sent = self._n_activations_sent, len(self._activations)
        return Chunk(
            text,
            tuple(self.tokens[start:]),
            tuple(self._logprobs[start:]),
            reason,
            result,
            self.index,
            tuple(self._activations[seen:]),
        )

    def end(self, reason: FinishReason) -> Completion:
        """Deliver the last chunk and the completion."""
        self.ended = True
        job = self.job
        if self.index == 0:
            job.give_back()
        else:
            self.sampler.close()
        rest = self._assembler.finish()
        self._text.append(rest)
        completion = Completion(
            text="".join(self._text),
            tokens=tuple(self.tokens),
            finish_reason=reason,
            stop=self._assembler.matched,
            logprobs=tuple(self._logprobs),
            usage=Usage(len(job.prompt), len(self.tokens), job.cached_tokens),
            timings=self._timings(),
            model=job.model_name,
            index=self.index,
            shifted_tokens=self.shifted,
            activations=tuple(self._activations),
        )
        job.mailbox.completions[self.index] = completion
        if job.params.stream:
            job.mailbox.put(self._chunk(rest, reason, completion))
        return completion

    def _timings(self) -> Timings:
        job, now = self.job, time.perf_counter()
        started = job.started if job.started is not None else now
        first = self.first_token_at if self.first_token_at is not None else now
        prompt_ms, predicted_ms = (first - started) * 1000, (now - first) * 1000
        computed = len(job.prompt) - job.cached_tokens
        decoded = max(len(self.tokens) - 1, 0)  # the first token comes out of the prompt's last decode
        return Timings(
            prompt_ms,
            predicted_ms,
            computed / prompt_ms * 1000 if prompt_ms else 0.0,
            decoded / predicted_ms * 1000 if predicted_ms else 0.0,
            (started - job.submitted) * 1000,
        )
