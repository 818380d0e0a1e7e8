"""The loop of speculation by hand, for the tests: several sequences, any type, against plain decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from llamacore.core.batch import Batch
from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.core.sample_rows import RowSampler
from llamacore.core.sampler import Sampler
from llamacore.core.speculative import SpeculativeConfig, SpeculativeSession, draft_context, mtp_context

if TYPE_CHECKING:
    from typing_extensions import Self

SamplerMaker = Callable[[int], Sampler]


def greedy(_: int) -> Sampler:
    """The most likely token."""
    return Sampler.greedy()


def seeded(seq: int) -> Sampler:
    """Any token, by a seed of its own for each sequence."""
    return Sampler.chain(Sampler.top_k(40), Sampler.temp(0.8), Sampler.dist(seed=100 + seq))


def plain(
    model: Model, prompts: Sequence[list[int]], n_predict: int, make: SamplerMaker = greedy, **options: Any
) -> list[list[int]]:
    """What each prompt gives, one after the other, a token at a time."""
    texts = []
    for seq, prompt in enumerate(prompts):
        with model.context(**{"n_ctx": 512, "n_threads": 1, **options}) as ctx, make(seq) as sampler:
            batch, made = Batch(512), list[int]()
            batch.add_tokens(prompt)
            while len(made) < n_predict:
                ctx.decode(batch)
                made.append(sampler.sample(ctx, -1))
                batch.clear()
                batch.add(made[-1], len(prompt) + len(made) - 1, output=True)
            texts.append(made)
    return texts


class Loop:
    """Contexts and a session for a number of sequences; closed after a `with` block."""

    def __init__(
        self, model: Model, config: SpeculativeConfig, *, draft_model: Model | None = None, **options: Any
    ) -> None:
        options = {"n_threads": 1, "n_seq_max": config.n_seq, **options}
        options.setdefault("n_ctx", 512 * config.n_seq)
        if model.is_hybrid or model.is_recurrent:
            options.setdefault("n_rs_seq", config.n_draft_max)
        self._stack = ExitStack()
        self.ctx = self._stack.enter_context(model.context(**options))
        self.dft: Context | None = None
        if "draft-mtp" in config.types:
            self.dft = self._stack.enter_context(mtp_context(self.ctx, draft_model))
        elif draft_model is not None:
            made = draft_context(self.ctx, draft_model, config.types, config.n_draft_max)
            self.dft = self._stack.enter_context(made)
        self._cuts_both = not config.trims
        self.session = self._stack.enter_context(SpeculativeSession(config, self.ctx, self.dft))
        self.batch = Batch(512)
        self.sampler = RowSampler(config.n_seq, self.session.n_draft_max)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def cut(self, seq: int, length: int) -> None:
        """Cut a sequence in both memories, in the target's alone if the session cuts the other."""
        for context in (self.ctx, self.dft if self._cuts_both else None):
            if context is not None:
                assert context.memory.seq_rm(seq, length)

    def prefill(self, prompts: Sequence[list[int]]) -> None:
        """Decode all prompts but their last tokens, in one batch."""
        self.batch.clear()
        for seq, prompt in enumerate(prompts):
            self.batch.add_tokens(prompt[:-1], seq_id=seq)
        if len(self.batch):
            self.ctx.decode(self.batch)
            self.session.process(self.batch)
        for seq, prompt in enumerate(prompts):
            self.session.begin(seq, prompt[:-1])

    def generate(
        self,
        prompts: Sequence[list[int]],
        n_predict: int,
        make: SamplerMaker = greedy,
        *,
        n_max: Callable[[int, int], int] = lambda step, seq: 1024,
        synthetic: bool = False,
    ) -> list[list[int]]:
        """What the prompts give, all at once, with drafts; `n_max` may limit each of them by step and sequence."""
        self.prefill(prompts)
        made: list[list[int]] = [[] for _ in prompts]
        past = [len(prompt) - 1 for prompt in prompts]
        last = [prompt[-1] for prompt in prompts]
        samplers = [make(seq) for seq in range(len(prompts))]
        step = 0
        while any(len(text) < n_predict for text in made):
            seqs = [seq for seq, text in enumerate(made) if len(text) < n_predict]
            limits = [min(n_max(step, seq), self.session.n_draft_max) for seq in seqs]
            drafts = self.session.draft_many(seqs, [past[s] for s in seqs], [last[s] for s in seqs], limits)
            self.batch.clear()
            rows = []
            for seq, draft in zip(seqs, drafts, strict=True):
                if self.dft is not None and self._cuts_both:
                    self.dft.memory.seq_rm(seq, past[seq])
                tokens = [last[seq], *draft]
                rows.append(self.batch.add_tokens(tokens, pos=past[seq], seq_id=seq, outputs="all").start)
            self.ctx.decode(self.batch)
            self.session.process(self.batch)
            results = self.sampler.sample_drafts(
                self.ctx, rows, [samplers[s] for s in seqs], drafts, self.session if synthetic else None
            )
            for seq, draft, tokens in zip(seqs, drafts, results, strict=True):
                assert isinstance(tokens, list), tokens
                if draft:
                    self.session.accept(seq, len(tokens) - 1)
                made[seq] += tokens
                past[seq] += len(tokens)
                last[seq] = tokens[-1]
                self.cut(seq, past[seq])
            step += 1
        for sampler in samplers:
            sampler.close()
        return [text[:n_predict] for text in made]
