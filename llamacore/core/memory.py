"""The memory of a context: which positions of which sequences it holds, and editing them."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, NativeError, OutOfRangeError, UnsupportedError
from ._native import ffi, lib
from ._status import raise_status

if TYPE_CHECKING:
    from .context import Context

_POS_MAX = 2**31 - 1


class Memory:
    """The KV cache or recurrent state of a context (upstream: `llama_memory_*`). Lives as long as the context.

    Ranges of positions are [p0, p1); a negative p0 means from the start, a negative p1 to the end.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def _seq(self, seq_id: int, *, any_seq: bool = False) -> int:
        n_seq_max = self._context.n_seq_max
        if not (0 <= seq_id < n_seq_max or (any_seq and seq_id == -1)):
            raise OutOfRangeError(
                f"sequence {seq_id!r}", hint=f"this context has sequences 0 to {n_seq_max - 1} (n_seq_max={n_seq_max})"
            )
        return seq_id

    @staticmethod
    def _pos(*positions: int) -> None:
        for pos in positions:
            if not -1 <= pos <= _POS_MAX:
                raise OutOfRangeError(f"position {pos!r}", hint=f"positions are 0 to {_POS_MAX}, or -1 for an open end")

    def _call(self, what: str, function: Callable[[Any], int]) -> None:
        context = self._context
        ptr = context._enter()
        try:
            status = function(ptr)
            if status != lib.LLC_OK:
                context._note(status)
                raise_status(status, what, NativeError)
        finally:
            context._exit()

    @property
    def _recurrent(self) -> bool:
        return self._context._recurrent

    def _require_shift(self, what: str) -> None:
        if not self.can_shift:
            raise UnsupportedError(
                f"{what}: the memory of this model cannot move positions",
                hint="keep the text, or clear the sequence and decode it again",
            )

    def clear(self, *, data: bool = True) -> None:
        """Forget everything; with `data` the buffers are zeroed as well."""
        self._context._rollback.forget_all()
        self._call("clearing the memory", lambda ptr: int(lib.llc_memory_clear(ptr, bool(data))))

    def seq_rm(self, seq_id: int, p0: int = -1, p1: int = -1) -> bool:
        """Remove positions [p0, p1) of a sequence, or of every sequence when `seq_id` is -1.

        Args:
            seq_id: The sequence, or -1 for all.
            p0: First position to remove; -1 for the start.
            p1: Position after the last one; -1 for the end.

        Returns:
            False when the memory cannot remove a part of a sequence (recurrent state); nothing was removed then. With
            `n_rs_seq` the last tokens can be, as long as one of the last decode of the sequence is left.

        Raises:
            OutOfRangeError: There is no such sequence or position.
        """
        self._seq(seq_id, any_seq=True)
        self._pos(p0, p1)
        if seq_id == -1 and p0 <= 0 and p1 < 0:  # recurrent memories take no -1
            return all([self.seq_rm(seq) for seq in range(self._context.n_seq_max)])  # noqa: C419 (each is to be removed)
        rollback = self._context._rollback
        part = False
        if self._recurrent and p0 > 0 and seq_id >= 0:
            last = self.seq_pos_max(seq_id)
            part = p0 <= last and (p1 < 0 or p1 > last)
            if part and not rollback.allows(seq_id, last - p0 + 1):
                return False
        done = ffi.new("bool *")
        self._call(
            f"removing positions {p0} to {p1} of sequence {seq_id}",
            lambda ptr: int(lib.llc_memory_seq_rm(ptr, seq_id, p0, p1, done)),
        )
        if part and done[0]:
            rollback.used(seq_id)
        elif p0 <= 0 and p1 < 0:
            rollback.forget(seq_id)
        return bool(done[0])

    def seq_cp(self, src: int, dst: int, p0: int = -1, p1: int = -1) -> None:
        """Let sequence `dst` share the positions [p0, p1) of sequence `src`.

        Args:
            src: The sequence that has them.
            dst: The sequence that gets them.
            p0: First position to share; -1 for the start.
            p1: Position after the last one; -1 for the end.

        Raises:
            OutOfRangeError: There is no such sequence or position.
            UnsupportedError: A part of a sequence was to be copied between separate memories, which needs a context
                with `kv_unified=True`, or of a recurrent state, which has no parts; or the source was rolled back.
        """
        self._seq(src)
        self._seq(dst)
        self._pos(p0, p1)
        if p0 <= 0 and (p1 < 0 or p1 > self.seq_pos_max(src)):
            p0, p1 = -1, -1  # upstream asserts on an end that merely covers all
        elif src != dst:
            what = f"copying positions {p0} to {p1} of sequence {src} to {dst}"
            if self._recurrent:
                raise UnsupportedError(f"{what}: a recurrent state has no parts", hint="copy the whole sequence")
            if not self._context.kv_unified:
                raise UnsupportedError(
                    f"{what}: the sequences have separate memories",
                    hint="copy the whole sequence, or create the context with kv_unified=True",
                )
        if self._context._rollback.pending(src):
            raise UnsupportedError(
                f"copying sequence {src} to {dst}: it was rolled back", hint="decode a token of it before it is copied"
            )
        self._call(f"copying sequence {src} to {dst}", lambda ptr: int(lib.llc_memory_seq_cp(ptr, src, dst, p0, p1)))
        if src != dst:
            self._context._rollback.forget(src, dst)

    def seq_keep(self, seq_id: int) -> None:
        """Remove every other sequence."""
        self._seq(seq_id)
        if not self._context.kv_unified:  # upstream looks only at the memory that the sequence is in
            for other in range(self._context.n_seq_max):
                if other != seq_id:
                    self.seq_rm(other)
        self._call(f"keeping sequence {seq_id}", lambda ptr: int(lib.llc_memory_seq_keep(ptr, seq_id)))

    def seq_add(self, seq_id: int, p0: int, p1: int, delta: int) -> None:
        """Move the positions [p0, p1) of a sequence by `delta`; what would fall below 0 is removed.

        Args:
            seq_id: The sequence.
            p0: First position to move; -1 for the start.
            p1: Position after the last one; -1 for the end.
            delta: Positions to move by; negative ones move towards the start.

        Raises:
            OutOfRangeError: There is no such sequence or position, the new positions would be too large, or all of a
                recurrent state would fall below 0.
            UnsupportedError: The memory cannot shift, see `can_shift`.
        """
        self._seq(seq_id)
        self._pos(p0, p1)
        what = f"moving positions of sequence {seq_id} by {delta}"
        self._require_shift(what)
        last = self.seq_pos_max(seq_id)
        if abs(delta) > _POS_MAX // 2 or last + delta > _POS_MAX // 2:
            raise OutOfRangeError(what, hint="the new positions would be out of range")
        if last + delta < 0 <= last and self._recurrent:
            raise OutOfRangeError(what, hint="a recurrent state cannot move below 0: remove the sequence instead")
        self._call(what, lambda ptr: int(lib.llc_memory_seq_add(ptr, seq_id, p0, p1, delta)))

    def seq_div(self, seq_id: int, p0: int, p1: int, divisor: int) -> None:
        """Divide the positions [p0, p1) of a sequence by `divisor`, rounding down.

        Args:
            seq_id: The sequence.
            p0: First position to divide; -1 for the start.
            p1: Position after the last one; -1 for the end.
            divisor: At least 1.

        Raises:
            OutOfRangeError: There is no such sequence or position.
            InvalidArgumentError: The divisor is below 1, or too large.
            UnsupportedError: The memory cannot shift, see `can_shift`.
        """
        self._seq(seq_id)
        self._pos(p0, p1)
        what = f"dividing positions of sequence {seq_id} by {divisor}"
        if not 1 <= divisor <= _POS_MAX:
            raise InvalidArgumentError(what, hint="the divisor must be at least 1")
        self._require_shift(what)
        self._call(what, lambda ptr: int(lib.llc_memory_seq_div(ptr, seq_id, p0, p1, divisor)))

    def _ask(self, function: Any, *args: int) -> Any:
        ptr = self._context._enter()
        try:
            memory = lib.llama_get_memory(ptr)
            return function(memory, *args)
        finally:
            self._context._exit()

    def seq_pos_min(self, seq_id: int) -> int:
        """Return the smallest position held of a sequence, -1 when it is empty."""
        return int(self._ask(lib.llama_memory_seq_pos_min, self._seq(seq_id)))

    def seq_pos_max(self, seq_id: int) -> int:
        """Return the largest position held of a sequence, -1 when it is empty."""
        return int(self._ask(lib.llama_memory_seq_pos_max, self._seq(seq_id)))

    def rolled_back(self, seq_id: int) -> bool:
        """Whether tokens of a recurrent state were taken back and none was decoded since; it cannot be copied then."""
        seq_id = index(self._seq(seq_id))
        return bool(self._ask(lambda _: self._context._rollback.pending(seq_id)))

    @property
    def can_shift(self) -> bool:
        """Whether positions can be moved."""
        return bool(self._ask(lib.llama_memory_can_shift))

    @property
    def present(self) -> bool:
        """Whether the context has a memory at all; pure encoders have none."""
        return bool(self._ask(lambda memory: memory != ffi.NULL))
