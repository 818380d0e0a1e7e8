"""Which tokens go into the next batch, and what becomes of those that come out of it. For the engine's thread alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..core.batch import Batch
from ..core.sample_rows import RowSampler
from ..errors import AbortedError, BusyError, ClosedError, ContextFullError, LlamaCoreError, NoKvSlotError
from .cached_text import Adapters
from .prefix import PrefixCache
from .sample import Job, Sample
from .stats import EngineEvent, EventKind, Meter

if TYPE_CHECKING:
    from ..core.adapters import LoraAdapter
    from ..core.context import Context
    from .records import FinishReason

_log = logging.getLogger("llamacore.engine")

Plan = list[tuple[Sample, list[int], int]]
"""A sample, the tokens of it that are in the batch, and the row of the last of them."""


class Scheduler:
    """Packs prompts and single tokens of many samples into batches.

    Every sample has a context of tokens, of which its sequence holds a part. A step computes one more token of each
    sample that lacks just one, shares the rest of the batch among the prompts, and samples every context that is
    complete. A sample that lost its sequence for want of memory is one whose context must be computed again.

    Args:
        context: All of it.
        cache: Who has which sequence.
        in_flight: Called with the samples of a batch before it is decoded, and with none afterwards.
        on_event: Called for each event.
    """

    def __init__(
        self,
        context: Context,
        cache: PrefixCache,
        in_flight: Callable[[Iterable[Sample]], None],
        on_event: Callable[[EngineEvent], None] | None,
    ) -> None:
        self.waiting: list[Job] = []
        self.active: list[Sample] = []
        self.preempted: list[Sample] = []
        self.jobs: dict[int, Job] = {}  # all that have not ended
        self.cache = cache
        self.n_rows = min(context.n_batch, context.n_ubatch)  # a cancel takes effect between steps
        self.meter = Meter(self.n_rows)
        self._context = context
        self._in_flight = in_flight
        self._on_event = on_event
        self._batch = Batch(self.n_rows)
        self._sampler = RowSampler(max(context.n_seq_max, 1))
        self.cancelled = True  # somebody may have cancelled something since the last look
        self._timed = 0  # requests with a deadline or a time limit
        self._steady: list[tuple[Sample, int]] = []  # rows of the batch, when the next step can have the same
        self._reserved = 0  # sequences that samples will need when their prompt is computed
        self._key: Adapters = frozenset()
        self._room_made = False

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.active or self.waiting or self.preempted)

    @property
    def has_room(self) -> bool:
        """Whether there is a sequence that nobody has, or is going to have."""
        return self.cache.n_idle > self._reserved

    def release_lora(self, adapter: LoraAdapter) -> None:
        """Take an adapter out of the context and forget the texts that were computed with it.

        Raises:
            BusyError: A request uses it.
        """
        for job in self.jobs.values():
            if adapter in job.params.loras:
                raise BusyError(f"request {job.number} uses {adapter!r}", hint="wait for its end, or cancel it")
        if any(adapter is used for used, _ in self._key):
            self._context.set_lora({})
            self._key = frozenset()
        self.cache.forget_adapter(adapter)

    # requests come and go

    def add(self, job: Job) -> None:
        """Take a request."""
        self.meter.requests += 1
        self.jobs[job.number] = job
        self._timed += job.is_timed
        self.waiting.append(job)
        self.waiting.sort(key=lambda job: job.order)
        self._tell("submitted", job)

    def _tell(self, kind: EventKind, job: Job, sample: int = 0, tokens: int = 0, detail: str = "") -> None:
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
                self._end(sample, "cancelled" if job.mailbox.cancelled else "timeout")
        for sample in [*self.active, *self.preempted]:
            job, limit, first = sample.job, sample.job.params.time_limit, sample.first_token_at
            if sample.ended:
                continue
            if job.mailbox.cancelled:
                self._end_job(job, "cancelled")
            elif job.is_late(now):
                self._end_job(job, "timeout")
            elif limit is not None and first is not None and now - first >= limit:
                self._end(sample, "timeout")

    def _end_job(self, job: Job, reason: FinishReason) -> None:
        for sample in job.samples:
            if not sample.ended:
                self._end(sample, reason)

    def _end(self, sample: Sample, reason: FinishReason) -> None:
        job = sample.job
        self._leave(sample, keep=job.params.cache_prompt and not sample.shifted)
        completion = sample.end(reason)
        self._tell("finished", job, sample.index, len(completion.tokens), reason)
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
            self._tell("failed", job, detail=str(error))
            job.mailbox.end(error)

    def fail_active(self, error: BaseException, *, waiting_too: bool = False) -> None:
        """End every request that is being computed, and those that wait if they may be the cause."""
        waiting = {*self.waiting, *(sample.job for sample in self.preempted)} if not waiting_too else set()
        for job in [job for job in self.jobs.values() if job not in waiting]:
            self.fail(job, error)

    def _leave(self, sample: Sample, *, keep: bool) -> None:
        """Give the sequence of a sample back."""
        self._steady = []
        job = sample.job
        if sample in self.active:
            self.active.remove(sample)
            self._unreserve(job)
        elif sample in self.preempted:
            self.preempted.remove(sample)
        text, sample.held = sample.held, None
        if text is not None:
            self._room_made = True
            self.cache.release(text, keep=keep)

    def _unreserve(self, job: Job) -> None:
        """The samples of a request have their sequences by now, or will never need them."""
        self._reserved -= job.reserved
        job.reserved = 0

    # a step

    def step(self) -> bool:
        """Decode one batch; False when there was nothing to decode."""
        now = time.perf_counter()
        if self.cancelled or self._timed:
            self.cancelled = False
            self.expire(now)
        if self.waiting or self.preempted:
            self._admit(now)
        while self.active:
            plan = self._plan()
            if not plan or not self._decode(plan):
                continue
            self.meter.stepped(len(self._batch), time.monotonic())
            self._advance(plan)
            return True
        return False

    def _admit(self, now: float) -> None:
        """Give sequences to those who wait, as long as there are any."""
        while self.preempted and (self._room_made or not self.active) and self.has_room:
            self._start(self.preempted.pop(0), now)
        if self.preempted:
            return  # for want of memory; newcomers would only take more of it
        while self.waiting and self.cache.n_idle - self._reserved >= len(self.waiting[0].samples):
            job = self.waiting.pop(0)
            job.reserved = len(job.samples) - 1
            self._reserved += job.reserved
            self._start(job.samples[0], now)

    def _start(self, sample: Sample, now: float) -> None:
        job, first = sample.job, sample.job.started is None
        self._room_made = False
        sample.held, parting = self.cache.acquire(sample.context, job.key, look_up=job.params.cache_prompt)
        self.active.append(sample)
        reused = len(sample.held.tokens)
        if first:
            job.started = now
            job.cached_tokens = reused
            self.meter.prompt_tokens += len(job.prompt)
            if self.cache.needs_checkpoints and job.params.cache_prompt:
                job.place_checkpoints(reused, parting)
            self._tell("started", job, tokens=reused)

    def _plan(self) -> Plan:
        """Fill the batch."""
        batch = self._batch
        steady = self._steady
        if len(steady) == len(self.active):
            # nothing came or went: each of the same texts has one token more
            tokens = [sample.context[-1] for sample, _ in steady]
            batch.advance(tokens)
            return [(sample, [token], row) for (sample, row), token in zip(steady, tokens, strict=True)]
        # separate caches are computed side by side only where sequences follow each other in the batch
        samples = sorted(self._group(), key=lambda sample: sample.seq)
        batch.clear()
        plan: Plan = []
        prompts: list[Sample] = []
        for sample in samples:
            if sample.remaining == 1:
                text = sample.held
                assert text is not None and text.seq is not None
                token = sample.context[-1]
                row = batch.add(token, len(text.tokens), (text.seq,), True)
                plan.append((sample, [token], row))
            else:
                prompts.append(sample)
        room = self.n_rows - len(batch)
        prompts.sort(key=lambda sample: sample.job.order)
        for number, sample in enumerate(prompts):
            if room <= 0:
                break
            peers = sum(other.job.params.priority == sample.job.params.priority for other in prompts[number:])
            taken = self._add_prompt(sample, -(-room // peers), plan)
            room -= taken
        self._steady = [] if prompts or len(plan) < len(self.active) else [(sample, row) for sample, _, row in plan]
        return plan

    def _group(self) -> list[Sample]:
        """The samples that can be in one batch, because they are computed with the same adapters."""
        keys = {sample.job.key: None for sample in self.active}
        key = next(iter(keys))
        if len(keys) > 1 and key == self._key:
            key = list(keys)[1]
            # those of the first key queue up behind the others
            self.active.sort(key=lambda sample: sample.job.key == self._key)
        if key != self._key:
            try:
                self._context.set_lora(dict(key))
            except LlamaCoreError as error:  # an adapter was closed meanwhile
                for job in {sample.job for sample in self.active if sample.job.key == key}:
                    self.fail(job, error)
                return []
            self._key = key
        return self.active if len(keys) == 1 else [sample for sample in self.active if sample.job.key == key]

    def _add_prompt(self, sample: Sample, room: int, plan: Plan) -> int:
        text, context = sample.held, sample.context
        assert text is not None and text.seq is not None
        done = len(text.tokens)
        end = min(done + room, len(context))
        points = [point for point in sample.job.checkpoints if done < point < end]
        end = min(points, default=end)
        part = context[done:end]
        wanted = end == len(context) and sample.job.params.max_tokens != 0
        rows = self._batch.add_tokens(part, done, text.seq, "last" if wanted else "none")
        plan.append((sample, part, rows[-1]))
        return len(part)

    def _decode(self, plan: Plan) -> bool:
        """Decode the batch; False when it has to be planned anew."""
        samples = [sample for sample, _, _ in plan]
        self._in_flight(samples)
        try:
            self._context.decode(self._batch)
            return True
        except NoKvSlotError as error:
            self._steady = []
            self._make_room(plan, error)
        except AbortedError as error:
            self._steady = []
            if not all(sample.job.mailbox.cancelled for sample in samples):
                raise ClosedError("the context was closed") from error  # nothing else stops a batch
            for sample in samples:
                self._drop_state(sample)
                self._end_job(sample.job, "cancelled")
        except LlamaCoreError as error:
            self._steady = []
            for sample in samples:
                self.fail(sample.job, error)
        finally:
            self._in_flight(())
        return False

    def _drop_state(self, sample: Sample) -> None:
        """Forget what a sequence holds, because it is not known how much of a batch was computed."""
        text, sample.held = sample.held, None
        if text is not None:
            self.cache.release(text, keep=False)

    def _make_room(self, plan: Plan, error: NoKvSlotError) -> None:
        if self.cache.evict_idle():
            return
        if len(self.active) > 1:
            victim = max(self.active, key=lambda sample: sample.job.order)
            text, victim.held = victim.held, None
            self.active.remove(victim)
            if text is not None:
                self.cache.release(text, keep=not victim.shifted)
                if not victim.shifted:
                    self.cache.evict(text)
            if victim.job.reserved:
                self._unreserve(victim.job)
                self.waiting.insert(0, victim.job)  # it will be admitted as a whole again
            else:
                self.preempted.append(victim)
            self._room_made = False
            self._tell("preempted", victim.job, victim.index, len(victim.context))
        else:
            self._overflow(plan[0][0], error)

    def _overflow(self, sample: Sample, error: NoKvSlotError | None = None) -> None:
        """The context has no room for one more token of a sample."""
        params = sample.job.params
        n_ctx = self._context.n_ctx_seq
        if params.overflow == "stop" and sample.first_token_at is not None:
            self._end(sample, "length")
            return
        if params.overflow == "shift":
            try:
                if self._shift(sample):
                    return
            except LlamaCoreError as failure:
                self.fail(sample.job, failure)
                return
        if not sample.ended:
            full = f"the context of {n_ctx} tokens is full after {len(sample.tokens)} generated ones"
            hint = 'shorten the prompt, use a larger n_ctx, or set overflow to "stop" or "shift"'
            self.fail(sample.job, ContextFullError(full, hint=hint) if error is None else error, keep=True)

    def _shift(self, sample: Sample) -> bool:
        """Drop the older half of what follows the kept tokens; False when nothing could be dropped."""
        text = sample.held
        assert text is not None and text.seq is not None
        keep = min(sample.job.params.n_keep, len(text.tokens))
        drop = (len(text.tokens) - keep) // 2
        memory = self._context.memory
        if drop < 1 or not memory.can_shift or self.cache.needs_checkpoints:
            return False
        self._steady = []
        self.cache.make_private(text)
        memory.seq_rm(text.seq, keep, keep + drop)
        memory.seq_add(text.seq, keep + drop, -1, -drop)
        del text.tokens[keep : keep + drop]
        del sample.context[keep : keep + drop]
        sample.shifted += drop
        self.cache.hide(text)  # what is left was computed with the dropped tokens in view
        self._tell("shifted", sample.job, sample.index, drop)
        return True

    # after a step

    def _advance(self, plan: Plan) -> None:
        """Note what was computed, and choose the next tokens."""
        complete: list[Sample] = []
        rows: list[int] = []
        for sample, tokens, row in plan:
            text = sample.held
            assert text is not None
            if len(tokens) == 1 and sample.first_token_at is not None:
                text.tokens += tokens
            else:
                self.cache.grow(text, tokens)
                if len(text.tokens) in sample.job.checkpoints:
                    self.cache.checkpoint(text)
            if len(text.tokens) < len(sample.context):
                continue
            if sample.job.params.max_tokens == 0:
                self._end_job(sample.job, "length")
                continue
            for other in self._fork(sample) if sample.job.reserved else (sample,):
                if sample.first_token_at is None and not sample.tokens:
                    other.sampler.accept_prompt(sample.context)
                complete.append(other)
                rows.append(row)
        if complete:
            self._choose(complete, rows)

    def _fork(self, first: Sample) -> list[Sample]:
        """Sequences for the other samples of a request, whose prompt is computed now."""
        assert first.held is not None
        others = [sample for sample in first.job.samples if not sample.ended]
        self._unreserve(first.job)
        for sample in others:
            if sample is not first:
                sample.held = self.cache.fork(first.held)
                self.active.append(sample)
        return others

    def _choose(self, samples: list[Sample], rows: list[int]) -> None:
        context = self._context
        chosen = self._sampler.sample(context, rows, [sample.sampler for sample in samples])
        n_ctx = context.n_ctx_seq
        for sample, row, token in zip(samples, rows, chosen, strict=True):
            if sample.ended:
                continue  # another sample of its request failed
            if not isinstance(token, int):
                self.fail(sample.job, token)
                continue
            self.meter.completion_tokens += 1
            if sample.first_token_at is None:
                self._tell("first_token", sample.job, sample.index)
            n_top, logprob = sample.job.params.logprobs, None
            if n_top is not None:
                value, top = context.logprobs(row, token=token, n_top=n_top)
                logprob = (value, tuple(top))
            reason = sample.take(token, logprob)
            if reason is not None:
                self._end(sample, reason)
            elif len(sample.context) > n_ctx:
                self._overflow(sample)
