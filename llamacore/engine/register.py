"""The requests of an engine: who waits, who is being computed, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from .planner import Planner
from .prefix import PrefixCache
from .sample import Job, Sample
from .stats import EngineEvent, EventKind, Meter

if TYPE_CHECKING:
    from .records import FinishReason

_log = logging.getLogger("llamacore.engine")


class Register:
    """Keeps the books of an engine. For its thread alone.

    Args:
        planner: Is told when samples come or go.
        cache: Who has which sequence.
        on_event: Called for each event.
    """

    def __init__(self, planner: Planner, cache: PrefixCache, on_event: Callable[[EngineEvent], None] | None) -> None:
        self.waiting: list[Job] = []
        self.active: list[Sample] = []
        self.preempted: list[Sample] = []
        self.jobs: dict[int, Job] = {}  # all that have not ended
        self.cache = cache
        self.meter = Meter(planner.n_rows)
        self.cancelled = True  # somebody may have cancelled something since the last look
        self._planner = planner
        self._on_event = on_event
        self._timed = 0  # requests with a deadline or a time limit
        self._reserved = 0  # sequences that samples will need when their prompt is computed
        self._room_made = False

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.active or self.waiting or self.preempted)

    @property
    def has_room(self) -> bool:
        """Whether there is a sequence that nobody has, or is going to have."""
        return self.cache.n_idle > self._reserved

    def add(self, job: Job) -> None:
        """Take a request."""
        self.meter.requests += 1
        self.jobs[job.number] = job
        self._timed += job.is_timed
        self.waiting.append(job)
        self.waiting.sort(key=lambda job: job.order)
        self.tell("submitted", job)

    def tell(self, kind: EventKind, job: Job, sample: int = 0, tokens: int = 0, detail: str = "") -> None:
        """Call the event hook."""
        if self._on_event is not None:
            try:
                self._on_event(EngineEvent(kind, job.number, sample, tokens=tokens, detail=detail))
            except Exception:
                _log.exception("the event hook failed")

    def expire(self, now: float) -> None:
        """End what was cancelled or has run out of time."""
        for job in [job for job in self.waiting if job.mailbox.cancelled or job.is_late(now)]:
            self.waiting.remove(job)
            for sample in job.samples:
                self.end(sample, "cancelled" if job.mailbox.cancelled else "timeout")
        for sample in [*self.active, *self.preempted]:
            job, limit, first = sample.job, sample.job.params.time_limit, sample.first_token_at
            if sample.ended:
                continue
            if job.mailbox.cancelled:
                self.end_job(job, "cancelled")
            elif job.is_late(now):
                self.end_job(job, "timeout")
            elif limit is not None and first is not None and now - first >= limit:
                self.end(sample, "timeout")

    def end_job(self, job: Job, reason: FinishReason) -> None:
        """End what is left of a request."""
        for sample in job.samples:
            if not sample.ended:
                self.end(sample, reason)

    def end(self, sample: Sample, reason: FinishReason) -> None:
        """End a text, and its request if it was the last one."""
        job = sample.job
        self._leave(sample, keep=job.params.cache_prompt and not sample.shifted)
        completion = sample.end(reason)
        self.tell("finished", job, sample.index, len(completion.tokens), reason)
        job.left -= 1
        if not job.left:
            self.meter.finished += 1
            del self.jobs[job.number]
            self._timed -= job.is_timed
            job.mailbox.end()

    def fail(self, job: Job, error: BaseException, *, keep: bool = False) -> None:
        """End a request with an error; its neighbours are not affected."""
        if job in self.waiting:
            self.waiting.remove(job)
        for sample in job.samples:
            if not sample.ended:
                sample.ended = True
                self._leave(sample, keep=keep)
                sample.sampler.close()
        if self.jobs.pop(job.number, None) is not None:
            self._timed -= job.is_timed
            self.meter.failed += 1
            self.tell("failed", job, detail=str(error))
            job.mailbox.end(error)

    def fail_active(self, error: BaseException, *, waiting_too: bool = False) -> None:
        """End every request that is being computed, and those that wait if they may be the cause."""
        waiting = {*self.waiting, *(sample.job for sample in self.preempted)} if not waiting_too else set()
        for job in [job for job in self.jobs.values() if job not in waiting]:
            self.fail(job, error)

    def _leave(self, sample: Sample, *, keep: bool) -> None:
        """Give the sequence of a sample back."""
        self._planner.changed()
        job = sample.job
        if sample in self.active:
            self.active.remove(sample)
            self.unreserve(job)
        elif sample in self.preempted:
            self.preempted.remove(sample)
        text, sample.held = sample.held, None
        if text is not None:
            self._room_made = True
            self.cache.release(text, keep=keep)

    def unreserve(self, job: Job) -> None:
        """The samples of a request have their sequences by now, or will never need them."""
        self._reserved -= job.reserved
        job.reserved = 0
