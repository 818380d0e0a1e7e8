"""What goes into the next batches: the last token of each text with its draft, and parts of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..core.batch import Batch

if TYPE_CHECKING:
    from ..core.context import Context
    from .sample import Sample
    from .speculation.drafter import Drafter


class Entry(NamedTuple):
    """A sample's part of a batch.

    Attributes:
        sample: Whose.
        tokens: The tokens that are its own; those of the draft follow them.
        row: The first row that may be sampled: that of the last of `tokens`.
        draft: Tokens that are drafted.
    """

    sample: Sample
    tokens: list[int]
    row: int
    draft: Sequence[int] = ()


Plan = list[Entry]


class Planner:
    """Fills the batch, which is `batch`.

    Args:
        context: The context.
        drafter: Who drafts, if anybody does.
    """

    def __init__(self, context: Context, drafter: Drafter | None = None) -> None:
        self.n_rows = min(context.n_batch, context.n_ubatch)  # a cancel takes effect between steps
        self.batch = Batch(self.n_rows)
        self._n_ctx = context.n_ctx_seq
        self._unified = context.kv_unified
        self._drafter = drafter
        # a recurrent state can only be taken back after a micro-batch that was the last one, see docs/design.md
        self._even = context.n_rs_seq > 0
        self._steady: list[tuple[Sample, int]] = []  # rows of the batch, when the next one can have the same

    def changed(self) -> None:
        """Samples came or went, or their texts are not what they were."""
        self._steady = []

    def again(self, n_active: int) -> Plan | None:
        """The next batch, if it has one token more of each of the same texts, as most have."""
        steady = self._steady
        if len(steady) != n_active:
            return None
        tokens = [sample.context[-1] for sample, _ in steady]
        self.batch.advance(tokens)
        return [Entry(sample, [token], row) for (sample, row), token in zip(steady, tokens, strict=True)]

    def parts(self, samples: Sequence[Sample], *, draft: bool) -> Iterator[Plan]:
        """Fill the batch with some samples, and again with the rest where one batch cannot have all.

        Args:
            samples: Samples that can be computed together.
            draft: Try to guess more tokens of those that lack only one.
        """
        self._steady = []
        # separate caches are computed side by side only where sequences follow each other in the batch
        samples = sorted(samples, key=lambda sample: sample.seq)
        single = [sample for sample in samples if sample.remaining == 1]
        prompts = [sample for sample in samples if sample.remaining != 1]
        drafts = self._drafts(single) if draft else {}
        if drafts and self._even:
            plain = [sample for sample in single if sample not in drafts]
            if plain or prompts:
                yield self._fill(plain, {}, prompts)
            for group in self._alike(drafts):
                yield self._fill(
                    [sample for sample in group if not sample.ended and sample.held is not None], drafts, []
                )
            return
        plan = self._fill(single, drafts, prompts)
        if not prompts and not drafts and len(plan) == len(samples):
            self._steady = [(entry.sample, entry.row) for entry in plan]
        yield plan

    def _drafts(self, samples: Sequence[Sample]) -> dict[Sample, list[int]]:
        """Ask for drafts; only those that came are returned."""
        assert self._drafter is not None
        room = self.n_rows // max(len(samples), 1) - 1
        asked = [
            (sample, n)
            for sample in samples
            if not sample.job.reserved  # else the other samples begin with a copy of what is computed now
            and (n := min(self._drafter.n_max, room, sample.draft_limit, self._n_ctx - len(sample.context))) > 0
        ]
        if not asked:
            return {}
        texts = [sample.held for sample, _ in asked if sample.held is not None]
        found = self._drafter.propose(texts, [sample.context[-1] for sample, _ in asked], [n for _, n in asked])
        return {sample: tokens for (sample, _), tokens in zip(asked, found, strict=True) if tokens}

    def _alike(self, drafts: dict[Sample, list[int]]) -> Iterator[list[Sample]]:
        """Those whose drafts are equally long; with separate caches only neighbours."""
        lengths = sorted({len(tokens) for tokens in drafts.values()})
        for length in lengths:
            group: list[Sample] = []
            for sample in [sample for sample, tokens in drafts.items() if len(tokens) == length]:
                if group and not self._unified and sample.seq != group[-1].seq + 1:
                    yield group
                    group = []
                group.append(sample)
            yield group

    def _fill(self, single: Sequence[Sample], drafts: dict[Sample, list[int]], prompts: Sequence[Sample]) -> Plan:
        batch = self.batch
        batch.clear()
        plan: Plan = []
        for sample in single:
            text = sample.held
            assert text is not None and text.seq is not None
            token, draft, start = sample.context[-1], drafts.get(sample, ()), len(text.tokens)
            row = batch.add_tokens((token, *draft), start, text.seq, "all")[0]
            plan.append(Entry(sample, [token], row, draft))
        room = self.n_rows - len(batch)
        prompts = sorted(prompts, key=lambda sample: sample.job.order)
        for number, sample in enumerate(prompts):
            if room <= 0:
                break
            peers = sum(other.job.params.priority == sample.job.params.priority for other in prompts[number:])
            plan.append(self._add_prompt(sample, -(-room // peers)))
            room -= len(plan[-1].tokens)
        return plan

    def _add_prompt(self, sample: Sample, room: int) -> Entry:
        text, context = sample.held, sample.context
        assert text is not None and text.seq is not None
        done = len(text.tokens)
        end = min(done + room, len(context))
        points = [point for point in sample.job.checkpoints if done < point < end]
        end = min(points, default=end)
        part = context[done:end]
        wanted = end == len(context) and sample.job.params.max_tokens != 0
        rows = self.batch.add_tokens(part, done, text.seq, "last" if wanted else "none")
        return Entry(sample, part, rows[-1])
