"""Drafts for the texts of an engine: the session, the memory that drafts, and whether drafting pays."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ...core.batch import Batch
from ...errors import ClosedError, LlamaCoreError, StateError
from ..stats import SpeculationStats
from .gain import GainEstimate

if TYPE_CHECKING:
    from ...core.context import Context
    from ...core.speculative import SpeculativeSession
    from ..cached_text import CachedText

T = TypeVar("T")

_log = logging.getLogger("llamacore.engine")


class _Closes(Protocol):
    def close(self) -> None: ...


class Drafter:
    """Proposes what comes next in each sequence of a context. For the engine's thread alone.

    A draft is only ever a guess: whatever goes wrong here ends the drafting, never a request. The draft memory follows
    the target's as far as it can; where it has lost a text, the session starts it anew in the middle.

    Args:
        session: Who drafts; closed with this.
        draft: The context that drafts, if it has a memory of its own.
        owned: What else is closed with this, in this order.
        n_max: Most tokens of a draft.
        adaptive: Draft only where that makes the engine quicker.

    Attributes:
        synthetic: The session if it accepts drafts at random, for benchmarks; else None.
        failure: What ended the drafting for good.
    """

    def __init__(
        self,
        session: SpeculativeSession,
        draft: Context | None,
        owned: Sequence[_Closes],
        *,
        n_max: int,
        adaptive: bool,
    ) -> None:
        self.session = session
        self.synthetic = session if session.config.synthetic_rates else None
        self.n_max = n_max
        self.gain = GainEstimate(adaptive)
        self.failure: LlamaCoreError | None = None
        self._draft = draft
        # a model of its own can read what was decoded while nobody drafted; others need the target's results for that
        self._reads = draft is not None and session.types == ("draft-simple",)
        self._counts = session.stats()
        self._lock = threading.Lock()  # the session is one thread's at a time, and `look` is called from others
        self._owned = tuple(owned)
        self._begun: dict[int, CachedText] = {}

    def propose(self, texts: Sequence[CachedText], last: Sequence[int], n_max: Sequence[int]) -> list[list[int]]:
        """Draft for some texts in one go.

        Args:
            texts: Texts in sequences.
            last: The token that follows each; it is not computed yet.
            n_max: Most tokens of each draft, 0 for none.
        """

        def draft() -> list[list[int]]:
            seqs = []
            for text in texts:
                seq = text.seq
                assert seq is not None
                if self._begun.get(seq) is not text:
                    self._begin(seq, text)
                seqs.append(seq)
            return self.session.draft_many(seqs, [len(text.tokens) for text in texts], last, n_max)

        return self._try(draft, [[] for _ in texts])

    def _begin(self, seq: int, text: CachedText) -> None:
        self.session.begin(seq, text.tokens)
        self._begun[seq] = text
        draft = self._draft
        if draft is None or not self._reads:
            return
        known = draft.memory.seq_pos_max(seq) + 1 if draft.memory.seq_pos_min(seq) == 0 else 0
        if not known:
            draft.memory.seq_rm(seq)
        batch = Batch(draft.n_batch)
        for start in range(known, len(text.tokens), draft.n_batch):
            batch.clear()
            batch.add_tokens(text.tokens[start : start + draft.n_batch], start, seq, "none")
            draft.decode(batch)

    def process(self, batch: Batch) -> None:
        """Follow the batch that the target has just decoded."""
        self._try(lambda: self.session.process(batch), None)

    def accept(self, seq: int, n_accepted: int) -> None:
        """Note how many tokens of a draft were right; 0 as well for one that was not decoded."""
        self._try(lambda: self.session.accept(seq, n_accepted), None)

    def pause(self) -> None:
        """Batches are decoded that are not processed: each text is begun again afterwards."""
        self._begun.clear()

    # what happens to the sequences of the target

    def copied(self, source: int, target: int) -> None:
        """A sequence was copied."""
        self._begun.pop(target, None)
        self._follow(source, lambda draft: draft.memory.seq_cp(source, target))

    def removed(self, seq: int) -> None:
        """A sequence was emptied."""
        self._begun.pop(seq, None)

        def remove() -> None:
            self._forget_pending(seq)
            if self._draft is not None:
                self._draft.memory.seq_rm(seq)

        self._try(remove, None)

    def cut(self, seq: int, length: int) -> None:
        """Only the first `length` positions of a sequence were left; another text goes on from there."""
        self._begun.pop(seq, None)

        def shorten() -> None:
            self._forget_pending(seq)
            if self._draft is not None and not self._draft.memory.seq_rm(seq, length, -1):
                self._draft.memory.seq_rm(seq)

        self._try(shorten, None)

    def _forget_pending(self, seq: int) -> None:
        if self.session.pending(seq):  # nothing was chosen after what was drafted: its request failed
            self.session.accept(seq, 0)

    def shifted(self, seq: int, keep: int, drop: int) -> None:
        """Tokens were dropped after the first `keep`, and the rest moved up."""
        self._begun.pop(seq, None)

        def shift(draft: Context) -> None:
            memory = draft.memory
            if memory.can_shift:
                memory.seq_rm(seq, keep, keep + drop)
                memory.seq_add(seq, keep + drop, -1, -drop)
            else:
                memory.seq_rm(seq)

        self._follow(seq, shift)

    def state(self, seq: int) -> bytes:
        """What the draft memory holds of a sequence; nothing if there is none."""
        found: list[bytes] = []
        self._follow(seq, lambda draft: found.append(draft.state.to_bytes(seq)))
        return found[0] if found else b""

    def restored(self, seq: int, state: bytes) -> None:
        """A sequence was restored that had this state here."""
        self._begun.pop(seq, None)

        def restore() -> None:
            draft = self._draft
            if draft is None:
                return
            if state:
                with contextlib.suppress(StateError):  # something else drafted then
                    draft.state.from_bytes(state, seq)
                    return
            draft.memory.seq_rm(seq)

        self._try(restore, None)

    def _follow(self, seq: int, function: Callable[[Context], object]) -> None:
        draft = self._draft
        if draft is not None:

            def follow() -> None:
                self.session.flush(seq)
                function(draft)

            self._try(follow, None)

    def _try(self, function: Callable[[], T], otherwise: T) -> T:
        if self.failure is None:
            try:
                with self._lock:
                    return function()
            except LlamaCoreError as error:
                _log.warning("drafting has ended: %s", error)
                self.failure = error
        return otherwise

    def look(self) -> SpeculationStats:
        """The counters, as they are now. From any thread."""
        with self._lock, contextlib.suppress(ClosedError):  # where its owner closed what drafts, the last count stays
            self._counts = self.session.stats()
        counts = self._counts
        return SpeculationStats(
            types=self.session.types,
            active=self.failure is None and self.gain.active,
            gain=self.gain.gain,
            drafts=counts.drafts,
            drafted=counts.drafted,
            accepted=counts.accepted,
            positions=counts.positions,
            failure=None if self.failure is None else self.failure.message,
        )

    def close(self) -> None:
        """Free the session, then the context and the model that draft."""
        self.session.close()
        for one in self._owned:
            one.close()
