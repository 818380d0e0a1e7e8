"""One sequence: prefill a prompt, then sample token by token."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..core.batch import Batch
from ..errors import AbortedError, ClosedError, InvalidArgumentError, OutOfRangeError
from .text import PieceTable, TextAssembler

if TYPE_CHECKING:
    from ..core.context import Context
    from ..core.sampler import Sampler

FinishReason = Literal["stop", "length", "cancelled"]

_MAX_LOGPROBS = 1000


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probability of a generated token under the model, before sampling changed the distribution.

    Attributes:
        token: Token id.
        text: Its text; U+FFFD where it is a part of a character.
        logprob: Natural logarithm of its probability.
        top: The most likely tokens at its place with theirs, best first, as many as were asked for.
    """

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, in the OpenAI API's words."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Wall-clock times of a request in milliseconds; the first token's sampling counts as prompt time."""

    prompt_ms: float
    predicted_ms: float
    prompt_per_second: float
    predicted_per_second: float


@dataclass(frozen=True)
class Chunk:
    """A piece of a running generation.

    Attributes:
        text: New text, whole characters; never a part of a stop string.
        tokens: Tokens generated since the chunk before; their text may still be held back.
        logprobs: One entry per token when log-probabilities were asked for.
        finish_reason: Set on the last chunk only.
        result: The whole completion, on the last chunk only.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    result: Completion | None = None


@dataclass(frozen=True)
class Completion:
    """A finished generation.

    Attributes:
        text: All text.
        tokens: All generated tokens, the end-of-generation token left out.
        finish_reason: "stop" (end of generation or a stop string), "length" (max_tokens or the context is full) or
            "cancelled".
        stop: The stop string that ended it, which is not in the text.
        logprobs: One entry per token when log-probabilities were asked for.
        usage: Counts of tokens.
        timings: Times and rates.
        model: Name of the model.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stop: str | None
    logprobs: tuple[TokenLogprob, ...]
    usage: Usage
    timings: Timings
    model: str


@dataclass(frozen=True)
class GenerationParams:
    """What ends a generation and what is reported of it.

    Attributes:
        max_tokens: Most tokens to generate; None for as many as fit into the context.
        stop: Strings at which to stop.
        logprobs: None for no log-probabilities; else how many alternatives to report for each token (0 for none).
        special: Write control tokens as text instead of leaving them out.
    """

    max_tokens: int | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    special: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if self.max_tokens is not None and self.max_tokens < 0:
            raise InvalidArgumentError(f"max_tokens={self.max_tokens}", hint="give 0 or more, or None for no limit")
        if self.logprobs is not None and not 0 <= self.logprobs <= _MAX_LOGPROBS:
            raise InvalidArgumentError(f"logprobs={self.logprobs}", hint=f"give 0 to {_MAX_LOGPROBS}, or None")


@dataclass
class _Progress:
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class Generation:
    """A running generation: iterate it (or iterate it asynchronously) for `Chunk`s, or ask for its `result()`.

    It uses its context until it is exhausted, closed or dropped. `cancel()` may be called from any thread.
    """

    def __init__(self, sequence: SingleSequence) -> None:
        self._sequence = sequence
        self._chunks = sequence.run()  # refers to the sequence, not to this object: dropping this one ends it at once

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        import asyncio

        chunk = await asyncio.to_thread(next, self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def cancel(self) -> None:
        """End the generation as soon as possible, from any thread; what was generated is kept."""
        self._sequence.cancel()

    def result(self) -> Completion:
        """Run to the end, if it has not ended yet, and return the completion.

        Raises:
            DecodeError: A decode failed.
            ClosedError: It was closed before its end.
        """
        for _ in self:
            pass
        if self._sequence.result is None:
            raise ClosedError("this generation was closed before its end", hint="start another one")
        return self._sequence.result

    def close(self) -> None:
        """Give the context back. Text that was not read is lost. Calling it again does nothing."""
        self._chunks.close()
        self._sequence.end()


class SingleSequence:
    """Prefills a prompt and samples from it, on a context of its own while it runs.

    Args:
        context: The context; sequence 0 of it is overwritten.
        sampler: How tokens are chosen; closed at the end.
        prompt: Token ids.
        params: What ends it and what is reported.
        model_name: Name for the completion.
        pieces: Bytes of tokens.
        on_end: Called once, when the context is free again.
    """

    def __init__(
        self,
        context: Context,
        sampler: Sampler,
        prompt: Sequence[int],
        params: GenerationParams,
        *,
        model_name: str,
        pieces: PieceTable,
        on_end: Callable[[], None],
    ) -> None:
        n_vocab = context.model.n_vocab
        if not prompt:
            raise InvalidArgumentError("the prompt has no tokens", hint="give some text")
        if len(prompt) > context.n_ctx_seq:
            raise InvalidArgumentError(
                f"the prompt has {len(prompt)} tokens, the context takes {context.n_ctx_seq}",
                hint="shorten it, or use a larger n_ctx",
            )
        for token in prompt:
            if not 0 <= token < n_vocab:
                raise OutOfRangeError(f"prompt token {token!r}", hint=f"tokens are 0 to {n_vocab - 1}")
        self.result: Completion | None = None
        self._context = context
        self._sampler = sampler
        self._prompt = list(prompt)
        self._params = params
        self._model_name = model_name
        self._pieces = pieces
        self._on_end = on_end
        self._ended = False
        self._cancelled = False
        self._done = _Progress()
        self._assembler = TextAssembler(params.stop)

    def cancel(self) -> None:
        """Ask it to end, from any thread."""
        self._cancelled = True
        if not self._ended:
            self._context.cancel()

    def end(self) -> None:
        """Give the context back; once."""
        if not self._ended:
            self._ended = True
            self._sampler.close()
            self._on_end()

    def _prefill(self) -> None:
        context, prompt = self._context, self._prompt
        context.memory.clear(data=False)
        step = min(context.n_batch, context.n_ubatch)  # between steps a cancel takes effect on every back end
        batch = Batch(min(step, len(prompt)))
        for start in range(0, len(prompt), step):
            if self._cancelled:
                raise AbortedError("cancelled")
            batch.clear()
            part = prompt[start : start + step]
            batch.add_tokens(part, start, outputs="last" if start + step >= len(prompt) else "none")
            context.decode(batch)
        self._sampler.accept_prompt(prompt)

    def run(self) -> Generator[Chunk, None, None]:
        """Generate; the last chunk carries the result."""
        started = time.perf_counter()
        done = self._done
        finish: FinishReason = "cancelled"
        try:
            try:
                if self._params.max_tokens == 0:
                    finish = "length"
                else:
                    self._prefill()
                    finish = yield from self._tokens(started)
            except AbortedError:
                if not self._cancelled:
                    raise
            rest = self._assembler.finish()
            done.text.append(rest)
            self.result = self._complete(finish)
            yield Chunk(rest, finish_reason=finish, result=self.result)
        finally:
            self.end()

    def _tokens(self, started: float) -> Generator[Chunk, None, FinishReason]:
        context, sampler, params, done = self._context, self._sampler, self._params, self._done
        piece_of = self._pieces.special if params.special else self._pieces.plain
        n_past = len(self._prompt)
        limit = min(params.max_tokens or context.n_ctx_seq, context.n_ctx_seq - n_past + 1)
        batch, assembler = Batch(1), self._assembler
        batch.add(0, n_past, output=True)
        token = sampler.sample(context, -1)
        now = time.perf_counter()
        done.prompt_ms = (now - started) * 1000
        generation_started = now
        pending: list[int] = []
        pending_logprobs: list[TokenLogprob] = []
        try:
            while True:
                piece, is_eog = piece_of(token)
                if is_eog and not params.special:
                    return "stop"
                done.tokens.append(token)
                pending.append(token)
                if params.logprobs is not None:
                    entry = self._logprob(token, params.logprobs)
                    done.logprobs.append(entry)
                    pending_logprobs.append(entry)
                text = assembler.push(piece)
                if text:
                    done.text.append(text)
                    yield Chunk(text, tuple(pending), tuple(pending_logprobs))
                    pending, pending_logprobs = [], []
                if is_eog or assembler.matched is not None:
                    return "stop"
                if len(done.tokens) >= limit:
                    return "length"
                if self._cancelled:
                    return "cancelled"
                batch.set_token(token, n_past)
                context.decode(batch)
                n_past += 1
                token = sampler.sample(context, -1)
        finally:
            done.predicted_ms = (time.perf_counter() - generation_started) * 1000

    def _logprob(self, token: int, n_top: int) -> TokenLogprob:
        logprob, top = self._context.logprobs(-1, token=token, n_top=n_top)
        text = self._pieces.special(token)[0].decode("utf-8", "replace")
        return TokenLogprob(token, text, logprob, tuple(top))

    def _complete(self, finish: FinishReason) -> Completion:
        done = self._done
        usage = Usage(len(self._prompt), len(done.tokens))
        decoded = max(usage.completion_tokens - 1, 0)  # the first token comes out of the prompt's last decode
        timings = Timings(
            done.prompt_ms,
            done.predicted_ms,
            usage.prompt_tokens / done.prompt_ms * 1000 if done.prompt_ms else 0.0,
            decoded / done.predicted_ms * 1000 if done.predicted_ms else 0.0,
        )
        return Completion(
            text="".join(done.text),
            tokens=tuple(done.tokens),
            finish_reason=finish,
            stop=self._assembler.matched,
            logprobs=tuple(done.logprobs),
            usage=usage,
            timings=timings,
            model=self._model_name,
        )
