"""The prefix cache: which sequences of a context hold which texts, so that a shared beginning is computed once.

A text lives in a sequence of the context while it is generated and afterwards, until the sequence is needed for
another one. Then it may move to host memory as a snapshot, and from there back into a sequence. All that is known is
in one radix tree per set of LoRA adapters. Memories that cannot drop the end of a text (recurrent states, sliding
windows) are kept at checkpoints besides: partial states at certain lengths of the text.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import BrokenError, ClosedError, LlamaCoreError, NoKvSlotError, OutOfMemoryError, StateError
from .cached_text import FEW_TOKENS, Adapters, CachedText, CacheStats, now
from .radix import RadixTree
from .sequences import Sequences
from .snapshots import Snapshot, SnapshotFolder

if TYPE_CHECKING:
    from ..core.adapters import LoraAdapter
    from ..core.context import Context

_log = logging.getLogger("llamacore.engine")


class PrefixCache:
    """Hands out the sequences of a context, with as much of a prompt in them as is known. For one thread.

    Args:
        context: The context; all of its sequences.
        sequences: How they are edited.
        max_bytes: Bytes of snapshots and checkpoints to keep in host memory, 0 for none.
        min_snapshot: Tokens, not known from elsewhere, from which an evicted text is worth a snapshot.
        folder: Where snapshots outlive the process.
    """

    def __init__(
        self,
        context: Context,
        sequences: Sequences,
        *,
        max_bytes: int,
        min_snapshot: int = 256,
        folder: SnapshotFolder | None = None,
    ) -> None:
        model = context.model
        self.stats = CacheStats()
        self.needs_checkpoints = model.is_recurrent or model.is_hybrid or (model.n_swa > 0 and not context.swa_full)
        self._sequences = sequences
        self._max_bytes = max_bytes
        self._min_snapshot = min_snapshot
        self._folder = folder
        self._free = list(range(context.n_seq_max - 1, -1, -1))
        self._trees: dict[Adapters, RadixTree[CachedText]] = {}
        self._live: dict[int, CachedText] = {}
        if folder is not None:
            for path, tokens in folder.tokens():
                self._tree(frozenset()).insert(CachedText(frozenset(), tokens, file=path, used=0), tokens)

    @property
    def n_idle(self) -> int:
        """Sequences that nobody generates in."""
        return len(self._free) + sum(not text.running for text in self._live.values())

    def _tree(self, key: Adapters) -> RadixTree[CachedText]:
        return self._trees.setdefault(key, RadixTree())

    def look(self) -> CacheStats:
        """The counters, as they are now."""
        self.stats.texts = sum(map(len, self._trees.values()))
        return replace(self.stats)

    # taking and giving back sequences

    def acquire(self, prompt: Sequence[int], key: Adapters, *, look_up: bool = True) -> tuple[CachedText, int]:
        """Take an idle sequence for a prompt; there must be one, see `n_idle`.

        Args:
            prompt: Token ids.
            key: The LoRA adapters it will be computed with.
            look_up: Use what is known; at least the last token of the prompt is left to compute.

        Returns:
            The text, whose sequence holds its `tokens` by now, and the number of tokens that it has in common with
            another known text: where the two part.
        """
        found, usable, parting = self._find(prompt, key) if look_up else (None, 0, 0)
        text = None
        if found is not None:
            try:
                text = self._take(found, usable)
                self.stats.hits += 1
                self.stats.reused_tokens += usable
            except BrokenError:
                raise
            except NoKvSlotError:
                pass  # it stays where it is
            except (LlamaCoreError, OSError, MemoryError) as error:  # no snapshot, no room: it is computed again
                _log.warning("the cached text of %d tokens cannot be used: %s", usable, error)
                if not found.running:
                    self._forget(found)
        if text is None:
            self.stats.misses += 1
            text = CachedText(key)
            self._settle(text, self._claim_sequence())
        text.running = True
        text.used = now()
        return text, parting

    def _find(self, prompt: Sequence[int], key: Adapters) -> tuple[CachedText | None, int, int]:
        """The text of which most can be used, how much that is, and the longest common beginning of all."""
        best, usable, parting = None, 0, 0
        for text, length in self._tree(key).matches(prompt):
            length = min(length, len(prompt) - 1)
            parting = max(parting, length)
            if length <= usable:
                break
            amount = self._usable(text, length)
            if amount > usable:
                best, usable = text, amount
        return best, usable, parting

    def _usable(self, text: CachedText, length: int) -> int:
        if not self.needs_checkpoints:
            return length
        points = [point for point in text.checkpoints if point <= length]
        if len(text.tokens) <= length and not text.running:
            points.append(len(text.tokens))
        return max(points, default=0)

    def _take(self, source: CachedText, usable: int) -> CachedText:
        """A text in a sequence of its own that holds the first `usable` tokens of `source`."""
        source.used = now()
        if source.seq is None:
            return self._restore(source, usable)
        lost = len(source.tokens) - usable
        # a copy of few tokens' worth would cost another text its sequence, or a recurrent state its place and with
        # that the next decode its graph
        few = lost < FEW_TOKENS and (self.needs_checkpoints or not self._free)
        if not source.running and (not lost or few or not (self._free or self._idle_but(source))):
            if lost and not few:
                self._keep_snapshot(source)
            return self._cut(source, usable)
        text = CachedText(source.key, list(source.tokens), shared=True)
        text.checkpoints = dict(source.checkpoints)
        seq = self._claim_sequence(source)
        self._settle(text, seq)
        self._sequences.copy(source.seq, seq)
        source.shared = True
        return self._cut(text, usable)

    def _restore(self, source: CachedText, usable: int) -> CachedText:
        if source.state is None:
            assert source.file is not None and self._folder is not None
            snapshot = self._folder.load(source.file)
            source.state, source.checkpoints = snapshot.state, dict(snapshot.checkpoints)
        state = source.state  # claiming a sequence may drive it out of host memory
        text = CachedText(source.key, list(source.tokens), running=True, checkpoints=dict(source.checkpoints))
        seq = self._claim_sequence(source)
        self._settle(text, seq)
        try:
            self._fill(seq, state)
        except LlamaCoreError:
            self._forget(text)
            raise
        self.stats.restores += 1
        text = self._cut(text, usable)
        self._limit()
        return text

    def _fill(self, seq: int, state: bytes) -> None:
        """Restore a state, for which idle texts make room."""
        while True:
            try:
                self._sequences.restore(seq, state)
                return
            except StateError as error:
                if not error.native_log:
                    raise  # it is damaged, or of something else
                if not self.evict_idle():
                    raise NoKvSlotError("there is no room for the text") from error

    def _cut(self, text: CachedText, length: int) -> CachedText:
        """Shorten a text that is in a sequence."""
        sequences, seq = self._sequences, text.seq
        assert seq is not None
        self._tree(text.key).remove(text)
        if length < len(text.tokens):
            try:
                if self.needs_checkpoints:
                    if length not in text.checkpoints:  # what was kept meanwhile has driven it out
                        raise StateError(f"the checkpoint after {length} tokens is gone")
                    sequences.go_back(seq, text.checkpoints[length])
                elif not sequences.sees_enough(seq, length):
                    raise StateError(f"the window before {length} tokens is gone")
                if not sequences.cut(seq, length):
                    raise StateError(f"the memory cannot be cut at {length} tokens")
            except LlamaCoreError:
                self._forget(text)
                raise
            del text.tokens[length:]
            text.checkpoints = {point: data for point, data in text.checkpoints.items() if point <= length}
        self._tree(text.key).insert(text, text.tokens)
        return text

    def _settle(self, text: CachedText, seq: int) -> None:
        text.seq = seq
        self._live[seq] = text

    def _idle_but(self, kept: CachedText | None) -> list[CachedText]:
        return [text for text in self._live.values() if not text.running and text is not kept]

    def _claim_sequence(self, kept: CachedText | None = None) -> int:
        """A sequence that is empty, if need be by evicting the least recently used idle text."""
        if not self._free:
            idle = self._idle_but(kept)
            self.evict(min(idle, key=lambda text: text.used))
        return self._free.pop()

    def grow(self, text: CachedText, tokens: Sequence[int]) -> None:
        """Note that more of a prompt is computed, so that others can share it from now on."""
        text.tokens += tokens
        self._tree(text.key).insert(text, text.tokens)

    def checkpoint(self, text: CachedText) -> None:
        """Keep the state of a running text as it is now, for a memory that cannot be cut."""
        assert text.seq is not None
        if self._max_bytes and len(text.tokens) not in text.checkpoints:
            try:
                data = self._sequences.checkpoint(text.seq)
            except (StateError, OutOfMemoryError, MemoryError) as error:
                _log.warning("no checkpoint after %d tokens: %s", len(text.tokens), error)
                return
            text.checkpoints[len(text.tokens)] = data
            self._limit()

    def hide(self, text: CachedText) -> None:
        """Let nobody find a running text any more."""
        self._tree(text.key).remove(text)

    def fork(self, text: CachedText) -> CachedText:
        """Another running sequence with the same text."""
        assert text.seq is not None
        copy = CachedText(text.key, list(text.tokens), running=True, shared=True, checkpoints=dict(text.checkpoints))
        self._settle(copy, self._claim_sequence())
        assert copy.seq is not None
        self._sequences.copy(text.seq, copy.seq)
        text.shared = True
        return copy

    def release(self, text: CachedText, *, keep: bool) -> None:
        """Give a sequence back; its text stays known, if it is as the model computed it."""
        text.running = False
        text.used = now()
        if keep and text.tokens:
            self._tree(text.key).insert(text, text.tokens)
        else:
            self._forget(text)

    def snapshot(self, tokens: Sequence[int]) -> Snapshot:
        """A copy of a known text of exactly these tokens, which is in a sequence.

        Raises:
            StateError: There is none.
        """
        for text, length in self._tree(frozenset()).matches(tokens):
            if length == len(text.tokens) == len(tokens) and text.seq is not None:
                return Snapshot(list(text.tokens), self._sequences.state(text.seq), dict(text.checkpoints))
        raise StateError(f"the text of {len(tokens)} tokens has left the cache", hint="try again when less is going on")

    def restore(self, snapshot: Snapshot) -> None:
        """Put a text into an idle sequence; there must be one, see `n_idle`.

        Raises:
            StateError: It does not fit this model and context.
        """
        text = CachedText(frozenset(), list(snapshot.tokens), running=True, checkpoints=dict(snapshot.checkpoints))
        seq = self._claim_sequence()
        self._settle(text, seq)
        try:
            self._fill(seq, snapshot.state)
            length = self._sequences.length(seq)
            if length != len(text.tokens):
                raise StateError(f"the state is of {length} tokens, not of {len(text.tokens)}", hint="make it again")
        except LlamaCoreError:
            self._forget(text)
            raise
        text.running = False
        self._tree(text.key).insert(text, text.tokens)
        self._limit()

    def make_private(self, text: CachedText) -> None:
        """End the sharing of cells with other sequences, before positions are moved."""
        if text.shared and text.seq is not None:
            self._sequences.make_private(text.seq)
            text.shared = False

    # evicting

    def evict_idle(self) -> bool:
        """Empty the least recently used idle sequence; False when there is none."""
        idle = self._idle_but(None)
        if idle:
            self.evict(min(idle, key=lambda text: text.used))
        return bool(idle)

    def evict(self, text: CachedText) -> None:
        """Empty the sequence of a text; the text moves to host memory, or is forgotten."""
        self.stats.evictions += 1
        snapshot = self._keep_snapshot(text)
        if snapshot is None:
            self._forget(text)
            return
        self._vacate(text)

    def _vacate(self, text: CachedText) -> None:
        seq, text.seq = text.seq, None
        self._tree(text.key).remove(text)
        if seq is not None:
            del self._live[seq]
            with contextlib.suppress(BrokenError, ClosedError):  # nothing will be computed in it again
                self._sequences.remove(seq)
            self._free.append(seq)

    def _forget(self, text: CachedText) -> None:
        self._vacate(text)
        text.state, text.checkpoints = None, {}

    def _keep_snapshot(self, text: CachedText) -> CachedText | None:
        """Copy the state of a text in a sequence to host memory, if that is worth it."""
        if not self._is_worth_keeping(text):
            return None
        assert text.seq is not None
        try:
            state = self._sequences.state(text.seq)
        except (LlamaCoreError, MemoryError) as error:
            _log.warning("no snapshot of a text of %d tokens: %s", len(text.tokens), error)
            return None
        kept = CachedText(text.key, list(text.tokens), checkpoints=text.checkpoints, state=state, used=text.used)
        self._tree(text.key).insert(kept, kept.tokens)
        self._limit()
        return kept if kept.state is not None else None

    def _is_worth_keeping(self, text: CachedText) -> bool:
        if not self._max_bytes or text.seq is None or len(text.tokens) < self._min_snapshot:
            return False
        known = next((n for other, n in self._tree(text.key).matches(text.tokens) if other is not text), 0)
        if len(text.tokens) - known < self._min_snapshot:
            return False
        return self._sequences.size(text.seq) <= self._max_bytes

    def _limit(self) -> None:
        """Drop the least recently used snapshots and checkpoints that are too many."""
        texts = sorted((text for tree in self._trees.values() for text in tree.items()), key=lambda text: text.used)
        sizes = {id(data): len(data) for text in texts for data in text.host_data()}
        total = sum(sizes.values())
        self.stats.host_peak_bytes = max(self.stats.host_peak_bytes, total)
        for text in texts:
            if total <= self._max_bytes:
                break
            if text.seq is None:
                if text.file is None:
                    self._tree(text.key).remove(text)
                text.state, text.checkpoints = None, {}
            else:
                text.checkpoints = {}
            total = sum({id(data): len(data) for other in texts for data in other.host_data()}.values())
        self.stats.host_bytes = total

    def clear(self) -> None:
        """Forget every text that nobody is generating."""
        for tree in self._trees.values():
            for text in list(tree.items()):
                if not text.running:
                    self._forget(text)
        for text in list(self._live.values()):
            if not text.running:
                self._forget(text)
        self._limit()

    def forget_adapter(self, adapter: LoraAdapter) -> None:
        """Forget every text that was computed with an adapter; nobody is generating one."""
        for key in [key for key in self._trees if any(used is adapter for used, _ in key)]:
            for text in list(self._trees.pop(key).items()):
                self._forget(text)

    def save(self) -> int:
        """Write the texts that are worth it to the folder; returns how many."""
        if self._folder is None:
            return 0
        saved = 0
        for text in list(self._tree(frozenset()).items()):
            if text.file is None and not text.running and len(text.tokens) >= self._min_snapshot:
                state = self._sequences.state(text.seq) if text.seq is not None else text.state
                if state is not None:
                    self._folder.save(Snapshot(text.tokens, state, text.checkpoints))
                    saved += 1
        return saved
