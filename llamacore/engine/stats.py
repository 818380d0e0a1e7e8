"""What an engine tells about itself: counters, rates and events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from .cached_text import CacheStats

EventKind = Literal["submitted", "started", "first_token", "finished", "failed", "preempted", "shifted"]

_SMOOTHING_SECONDS = 5.0


@dataclass(frozen=True)
class EngineEvent:
    """Something that happened to a request.

    Attributes:
        kind: "submitted"; "started": it got a sequence; "first_token"; "finished", "failed"; "preempted": it lost its
            sequence for want of memory and will go on later; "shifted": its oldest tokens were dropped.
        request: Running number of the request.
        sample: Which of its samples.
        time: `time.monotonic()` of the event.
        tokens: Started: those that the prefix cache had. Finished: those that were generated. Shifted: those dropped.
        detail: Finished: the finish reason. Failed: the error.
    """

    kind: EventKind
    request: int
    sample: int = 0
    time: float = field(default_factory=time.monotonic)
    tokens: int = 0
    detail: str = ""


@dataclass(frozen=True)
class SpeculationStats:
    """A look at the drafting of an engine.

    Attributes:
        types: Upstream's names of what drafts.
        active: Whether drafts are made now; the engine stops where they make it slower.
        gain: Tokens per second with drafts over those without, as measured lately; None while it is not known.
        drafts: Drafts that were made.
        drafted: Tokens that were drafted.
        accepted: Those of them that were right.
        positions: For each place of a draft, how many tokens were drafted there and how many accepted.
        failure: Why drafting has ended for good, if it has.
    """

    types: tuple[str, ...]
    active: bool
    gain: float | None
    drafts: int
    drafted: int
    accepted: int
    positions: tuple[tuple[int, int], ...]
    failure: str | None = None

    @property
    def acceptance(self) -> float | None:
        """Accepted tokens over drafted ones; None before the first."""
        return self.accepted / self.drafted if self.drafted else None


@dataclass(frozen=True)
class EngineStats:
    """A look at an engine.

    Attributes:
        waiting: Requests that wait for a sequence.
        running: Texts that are computed now.
        preempted: Texts that lost their sequence and wait for another.
        n_parallel: Texts that can be computed at a time.
        requests: Requests that were taken, ever.
        finished: Requests that ended by themselves, by their limits or by a cancel.
        failed: Requests that ended with an error.
        prompt_tokens: Prompt tokens of the requests that were started; `cache.reused_tokens` of them were not computed.
        completion_tokens: Tokens that were generated.
        tokens_per_second: Generated tokens per second lately.
        steps: Batches that were decoded.
        batch_fill: Mean number of tokens in a batch over the number that fits.
        cache: The prefix cache.
        speculation: The drafting; None for an engine that was made without.
    """

    waiting: int
    running: int
    preempted: int
    n_parallel: int
    requests: int
    finished: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float
    steps: int
    batch_fill: float
    cache: CacheStats
    speculation: SpeculationStats | None = None


class Meter:
    """Counts for an engine; written by its thread alone."""

    def __init__(self, n_rows: int) -> None:
        self.requests = self.finished = self.failed = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.steps = self.rows = 0
        self._n_rows = n_rows
        self._rate = 0.0
        self._since, self._tokens_then = time.monotonic(), 0

    def stepped(self, rows: int, now: float) -> None:
        """Count a batch."""
        self.steps += 1
        self.rows += rows
        if now - self._since >= 1.0:
            self._update(now)

    def _update(self, now: float) -> None:
        passed = now - self._since
        share = min(passed / _SMOOTHING_SECONDS, 1.0)
        latest = (self.completion_tokens - self._tokens_then) / passed
        self._rate += share * (latest - self._rate) if self._rate else latest
        self._since, self._tokens_then = now, self.completion_tokens

    def idle(self, now: float) -> None:
        """The engine has work again after a pause, which does not count."""
        self._since, self._tokens_then = now, self.completion_tokens

    def look(
        self,
        waiting: int,
        running: int,
        preempted: int,
        n_parallel: int,
        cache: CacheStats,
        speculation: SpeculationStats | None,
    ) -> EngineStats:
        """Everything as it is now."""
        return EngineStats(
            waiting=waiting,
            running=running,
            preempted=preempted,
            n_parallel=n_parallel,
            requests=self.requests,
            finished=self.finished,
            failed=self.failed,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            tokens_per_second=self._rate,
            steps=self.steps,
            batch_fill=self.rows / (self.steps * self._n_rows) if self.steps else 0.0,
            cache=cache,
            speculation=speculation,
        )
