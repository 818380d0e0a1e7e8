"""Which part of a recurrent state can be taken back: upstream keeps snapshots, but does not check for them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batch import Batch


class Rollback:
    """The last tokens of each sequence that a context with `n_rs_seq` snapshots can still forget.

    The last decode of a sequence leaves a snapshot after each of its tokens but the last. A rollback uses them up, and
    until the sequence is decoded again its state is the snapshot and not what a copy would take.
    """

    def __init__(self, n_rs_seq: int) -> None:
        self._n_rs_seq = n_rs_seq
        self._left: dict[int, int] = {}
        self._pending: set[int] = set()

    def decoded(self, batch: Batch) -> None:
        """Remember a batch that was decoded."""
        if not self._n_rs_seq:
            return
        for seq_id, count in Counter(batch._flat_seq_ids()).items():
            self._left[seq_id] = min(count - 1, self._n_rs_seq)
            self._pending.discard(seq_id)

    def allows(self, seq_id: int, n_tokens: int) -> bool:
        """Whether that many tokens can be taken back."""
        return n_tokens <= self._left.get(seq_id, 0)

    def used(self, seq_id: int) -> None:
        """Remember that a sequence was rolled back."""
        self._left.pop(seq_id, None)
        self._pending.add(seq_id)

    def pending(self, seq_id: int) -> bool:
        """Whether a sequence was rolled back and not decoded since."""
        return seq_id in self._pending

    def forget(self, *seq_ids: int) -> None:
        """Remember that sequences were replaced or share their state: there are no snapshots of their own."""
        for seq_id in seq_ids:
            self._left.pop(seq_id, None)
            self._pending.discard(seq_id)

    def forget_all(self) -> None:
        """Remember that the memory was emptied or replaced."""
        self._left.clear()
        self._pending.clear()
