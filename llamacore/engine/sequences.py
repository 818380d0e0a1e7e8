"""The sequences of an engine's context, and with each its part in the memory that drafts."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ..core.state import StateFlags
from ..errors import StateError

if TYPE_CHECKING:
    from ..core.context import Context
    from .speculation.drafter import Drafter

_PAIR = struct.Struct("<8sQ")  # magic, length of the target's state; the drafter's follows it
_MAGIC = b"LLCPAIR1"


class Sequences:
    """Edits of sequences, made to both memories. For the engine's thread alone.

    Args:
        context: The target.
        drafter: Who drafts for it, if anybody does.
    """

    def __init__(self, context: Context, drafter: Drafter | None = None) -> None:
        self._context = context
        self._drafter = drafter

    def length(self, seq: int) -> int:
        """Positions that a sequence holds."""
        return self._context.memory.seq_pos_max(seq) + 1

    def remove(self, seq: int) -> None:
        """Empty a sequence."""
        self._context.memory.seq_rm(seq)
        if self._drafter is not None:
            self._drafter.removed(seq)

    def cut(self, seq: int, length: int) -> bool:
        """Leave the first `length` positions for another text; False when the memory cannot."""
        if not self._context.memory.seq_rm(seq, length, -1):
            return False
        if self._drafter is not None:
            self._drafter.cut(seq, length)
        return True

    def take_back(self, seq: int, length: int) -> bool:
        """Leave the first `length` positions of a draft that was decoded; who drafted it does the same by itself."""
        return self._context.memory.seq_rm(seq, length, -1)

    def sees_enough(self, seq: int, length: int) -> bool:
        """Whether what follows the first `length` positions sees all that it should.

        A sliding window that is kept in full still gives cells away that the end of its sequence no longer sees.
        """
        n_swa = self._context.model.n_swa
        return not n_swa or self._context.memory.seq_pos_min(seq) <= max(length - n_swa + 1, 0)

    def copy(self, source: int, target: int) -> None:
        """Let a sequence hold what another one holds."""
        if self._context.memory.rolled_back(source):  # the snapshot it stands on is only found by its number
            state = self._context.state
            state.from_bytes(state.to_bytes(source), target)
        else:
            self._context.memory.seq_cp(source, target)
        if self._drafter is not None:
            self._drafter.copied(source, target)

    def shift(self, seq: int, keep: int, drop: int) -> None:
        """Drop positions after the first `keep`, and move the rest up."""
        memory = self._context.memory
        memory.seq_rm(seq, keep, keep + drop)
        memory.seq_add(seq, keep + drop, -1, -drop)
        if self._drafter is not None:
            self._drafter.shifted(seq, keep, drop)

    def size(self, seq: int) -> int:
        """Bytes of the target's state of a sequence."""
        return self._context.state.size(seq)

    def state(self, seq: int) -> bytes:
        """All there is of a sequence."""
        state = self._context.state.to_bytes(seq)
        draft = self._drafter.state(seq) if self._drafter is not None else b""
        return b"".join((_PAIR.pack(_MAGIC, len(state)), state, draft)) if draft else state

    def restore(self, seq: int, data: bytes) -> None:
        """Put back what `state()` returned, whether anybody drafted then or does now.

        Raises:
            StateError: It is damaged, or does not fit this model and context.
        """
        draft = b""
        if data[: len(_MAGIC)] == _MAGIC:
            length = _PAIR.unpack_from(data)[1] if len(data) >= _PAIR.size else 0
            rest = memoryview(data)[_PAIR.size :]
            if not 0 < length <= len(rest):
                raise StateError("the state is damaged", hint="take it again")
            data, draft = bytes(rest[:length]), bytes(rest[length:])
        self._context.state.from_bytes(data, seq)
        if self._drafter is not None:
            self._drafter.restored(seq, draft)

    def make_private(self, seq: int) -> None:
        """End the sharing of cells with other sequences."""
        state = self._context.state
        state.from_bytes(state.to_bytes(seq), seq)

    def checkpoint(self, seq: int) -> bytes:
        """What cannot be cut of a sequence: recurrent state and sliding windows."""
        return self._context.state.to_bytes(seq, StateFlags.PARTIAL_ONLY)

    def go_back(self, seq: int, checkpoint: bytes) -> None:
        """Put back what `checkpoint()` returned; the rest of the sequence is to be cut then."""
        self._context.state.from_bytes(checkpoint, seq)
