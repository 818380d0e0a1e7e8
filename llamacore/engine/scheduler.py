"""Which tokens go into the next batch, and what becomes of those that come out of it. For the engine's thread alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..core.sample_rows import RowSampler
from ..errors import (
    AbortedError,
    BusyError,
    ClosedError,
    ContextFullError,
    LlamaCoreError,
    NativeError,
    NoKvSlotError,
)
from .cached_text import Adapters
from .planner import Plan, Planner
from .prefix import PrefixCache
from .register import Register
from .sample import Sample
from .sequences import Sequences
from .stats import EngineEvent

if TYPE_CHECKING:
    from ..core.adapters import LoraAdapter
    from ..core.context import Context
    from .inside import Inside
    from .speculation.drafter import Drafter


class Scheduler(Register):
    """Packs prompts and single tokens of many samples into batches.

    Every sample has a context of tokens, of which its sequence holds a part. A step computes one more token of each
    sample that lacks just one, shares the rest of the batch among the prompts, and samples every context that is
    complete. A sample that lost its sequence for want of memory is one whose context must be computed again. Drafted
    tokens are computed along with the one that is lacking, and those are taken back that are not what is sampled.

    Args:
        context: All of it.
        sequences: Edits of its memory.
        cache: Who has which sequence.
        drafter: Who drafts, if anybody does.
        inside: What reads and steers, if the context has a tap.
        in_flight: Called with the samples of a batch before it is decoded, and with none afterwards.
        on_event: Called for each event.
    """

    def __init__(
        self,
        context: Context,
        sequences: Sequences,
        cache: PrefixCache,
        drafter: Drafter | None,
        inside: Inside | None,
        in_flight: Callable[[Iterable[Sample]], None],
        on_event: Callable[[EngineEvent], None] | None,
    ) -> None:
        super().__init__(Planner(context, drafter), cache, on_event)
        self._context = context
        self._sequences = sequences
        self._drafter = drafter
        self._inside = inside
        self._in_flight = in_flight
        self._sampler = RowSampler(max(context.n_seq_max, 1), 0 if drafter is None else drafter.n_max)
        self._key: Adapters = frozenset()

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

    # a step

    def step(self) -> bool:
        """Decode one batch; False when there was nothing to decode."""
        now = time.perf_counter()
        if self.cancelled or self._timed:
            self.cancelled = False
            self.expire(now)
        if self.waiting or self.preempted:
            self._admit(now)
        draft = self._drafts_now()
        while self.active:
            if self._step(draft):
                return True
            if draft and self._drafter is not None:
                self._drafter.pause()  # what was drafted is not going to be decoded
            draft = False  # what did not fit with drafts may fit without
        return False

    def _step(self, draft: bool) -> bool:
        """Decode the next tokens of all; False when it has to be planned anew."""
        meter, started = self.meter, time.perf_counter()
        steps, tokens, only_new = meter.steps, meter.completion_tokens, True
        again = None if draft else self._planner.again(len(self.active))
        for plan in (again,) if again is not None else self._planner.parts(self._group(), draft=draft):
            if not plan:
                continue
            if not self._decode(plan, draft):
                return False
            meter.stepped(len(self._planner.batch), time.monotonic())
            only_new &= again is not None or all(len(entry.tokens) == 1 for entry in plan)
            self._advance(plan)
        if only_new and self._drafter is not None and meter.steps > steps:
            self._drafter.gain.note(draft, meter.completion_tokens - tokens, time.perf_counter() - started)
        return meter.steps > steps

    def _drafts_now(self) -> bool:
        """Whether to draft in this step."""
        drafter = self._drafter
        if drafter is None or drafter.failure is not None or not self.active:
            return False
        wanted = any(sample.draft_limit for sample in self.active)
        if wanted and drafter.gain.drafting(len(self.active)):
            return True
        drafter.pause()
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
        if not self._steer(sample):
            return
        reused = len(sample.held.tokens)
        if first:
            job.started = now
            job.cached_tokens = reused
            self.meter.prompt_tokens += len(job.prompt)
            if self.cache.needs_checkpoints and job.params.cache_prompt:
                job.place_checkpoints(reused, parting)
            self.tell("started", job, tokens=reused)

    def _group(self) -> list[Sample]:
        """The samples that can be in one batch, because they are computed with the same adapters."""
        keys = {sample.job.loras: None for sample in self.active}
        key = next(iter(keys))
        if len(keys) > 1 and key == self._key:
            key = list(keys)[1]
            # those of the first key queue up behind the others
            self.active.sort(key=lambda sample: sample.job.loras == self._key)
        if key != self._key:
            try:
                self._context.set_lora(dict(key))
            except LlamaCoreError as error:  # an adapter was closed meanwhile
                for job in {sample.job for sample in self.active if sample.job.loras == key}:
                    self.fail(job, error)
                return []
            self._key = key
        return self.active if len(keys) == 1 else [sample for sample in self.active if sample.job.loras == key]

    def _decode(self, plan: Plan, draft: bool) -> bool:
        """Decode the batch; False when it has to be planned anew."""
        samples = [entry.sample for entry in plan]
        self._in_flight(samples)
        try:
            if self._inside is not None:
                self._inside.before(plan)
            self._context.decode(self._planner.batch)
        except NoKvSlotError as error:
            if not draft:
                self._make_room(plan, error)
        except AbortedError as error:
            if not all(sample.job.mailbox.cancelled for sample in samples):
                raise ClosedError("the context was closed") from error  # nothing else stops a batch
            for sample in samples:
                self._drop_state(sample)
                self.end_job(sample.job, "cancelled")
        except LlamaCoreError as error:
            for sample in samples:
                self.fail(sample.job, error)
        else:
            if self._inside is not None:
                self._inside.after()
            if draft and self._drafter is not None:
                self._drafter.process(self._planner.batch)
            return True
        finally:
            self._in_flight(())
        self._planner.changed()
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
                self.unreserve(victim.job)
                self.waiting.insert(0, victim.job)  # it will be admitted as a whole again
            else:
                self.preempted.append(victim)
            self._room_made = False
            self.tell("preempted", victim.job, victim.index, len(victim.context))
        else:
            self._overflow(plan[0].sample, error)

    def _overflow(self, sample: Sample, error: NoKvSlotError | None = None) -> None:
        """The context has no room for one more token of a sample."""
        params = sample.job.params
        n_ctx = self._context.n_ctx_seq
        if params.overflow == "stop" and sample.first_token_at is not None:
            self.end(sample, "length")
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
        if drop < 1 or not self._context.memory.can_shift or self.cache.needs_checkpoints:
            return False
        self._planner.changed()
        self.cache.make_private(text)
        self._sequences.shift(text.seq, keep, drop)
        del text.tokens[keep : keep + drop]
        del sample.context[keep : keep + drop]
        sample.shifted += drop
        self.cache.hide(text)  # what is left was computed with the dropped tokens in view
        self.tell("shifted", sample.job, sample.index, drop)
        return True

    # after a step

    def _advance(self, plan: Plan) -> None:
        """Note what was computed, and choose the next tokens."""
        complete: list[Sample] = []
        rows: list[int] = []
        drafts: list[Sequence[int]] = []
        for sample, tokens, row, draft in plan:
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
                self.end_job(sample.job, "length")
                continue
            for other in self._fork(sample) if sample.job.reserved else (sample,):
                if sample.first_token_at is None and not sample.tokens and (lookback := other.sampler.lookback):
                    other.sampler.accept_prompt(sample.context[-lookback:])
                complete.append(other)
                rows.append(row)
                drafts.append(draft)
        if complete:
            self._choose(complete, rows, drafts)

    def _fork(self, first: Sample) -> list[Sample]:
        """Sequences for the other samples of a request, whose prompt is computed now."""
        assert first.held is not None
        others = [sample for sample in first.job.samples if not sample.ended]
        self.unreserve(first.job)
        for sample in others:
            if sample is not first and not sample.ended:
                sample.held = self.cache.fork(first.held)
                self.active.append(sample)
                self._steer(sample)
        return [sample for sample in others if not sample.ended]

    def _steer(self, sample: Sample) -> bool:
        """Steer the sequence that a sample has got as its request asks; False if that failed."""
        try:
            if self._inside is not None:
                self._inside.take_over(sample)
        except LlamaCoreError as error:  # a vector was closed or does not fit
            self.fail(sample.job, error)
        return not sample.ended

    def _choose(self, samples: list[Sample], rows: list[int], drafts: list[Sequence[int]]) -> None:
        samplers = [sample.sampler for sample in samples]
        if not any(drafts):
            found = self._sampler.sample(self._context, rows, samplers)
            for sample, row, token in zip(samples, rows, found, strict=True):
                if sample.ended:
                    continue  # another sample of its request failed
                if isinstance(token, int):
                    self._take(sample, token, row)
                else:
                    self.fail(sample.job, token)
            return
        assert self._drafter is not None
        chosen = self._sampler.sample_drafts(self._context, rows, samplers, drafts, self._drafter.synthetic)
        for sample, row, draft, tokens in zip(samples, rows, drafts, chosen, strict=True):
            if sample.ended:
                continue
            if not isinstance(tokens, list):
                self.fail(sample.job, tokens)
            elif not draft or self._accept(sample, draft, len(tokens) - 1):
                for place, token in enumerate(tokens):
                    if not self._take(sample, token, row + place):
                        break

    def _accept(self, sample: Sample, draft: Sequence[int], n_accepted: int) -> bool:
        """Keep the part of a draft that was right, and take the rest back; False if that failed."""
        text = sample.held
        assert text is not None and text.seq is not None and self._drafter is not None
        text.tokens += draft[:n_accepted]
        self._drafter.accept(text.seq, n_accepted)
        if n_accepted == len(draft) or self._sequences.take_back(text.seq, len(text.tokens)):
            return True
        self.fail(sample.job, NativeError("the memory did not take back what was drafted"))
        return False

    def _take(self, sample: Sample, token: int, row: int) -> bool:
        """Take a token that was chosen from a row; False when it was the last one."""
        context = self._context
        self.meter.completion_tokens += 1
        if sample.first_token_at is None:
            self.tell("first_token", sample.job, sample.index)
        n_top, logprob = sample.job.params.logprobs, None
        if n_top is not None:
            value, top = context.logprobs(row, token=token, n_top=n_top)
            logprob = (value, tuple(top))
        if self._inside is not None:
            sample.see(self._inside.read(sample, row))
        reason = sample.take(token, logprob)
        if reason is not None:
            self.end(sample, reason)
        elif len(sample.context) > context.n_ctx_seq:
            self._overflow(sample)
        return not sample.ended
