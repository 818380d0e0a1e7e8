"""The input of a decode: tokens or embeddings with their positions, sequences and output flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BusyError, InvalidArgumentError, OutOfMemoryError, OutOfRangeError
from ._native import ffi

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_POS_PER_EMBD = 4  # M-RoPE
_INT32_MAX = 2**31 - 1
_MAX_ROWS = 2**24  # more than any context decodes at once

Outputs = Literal["none", "last", "all"]


class Batch:
    """A reusable `llama_batch` of fixed capacity.

    Its arrays belong to Python: views of them stay valid for as long as anyone holds them, there is nothing to close,
    and what they contain is checked at each decode. A batch is used by one thread at a time; a decode that is running
    locks it.

    Args:
        n_tokens: Most rows it can hold.
        n_embd: 0 for a batch of token ids; else the width of the embeddings it holds instead (`Model.n_embd_inp`).
        n_seq_max: Most sequences that one row can belong to.
    """

    def __init__(self, n_tokens: int = 512, *, n_embd: int = 0, n_seq_max: int = 1) -> None:
        for name, value, lowest in (("n_tokens", n_tokens, 1), ("n_embd", n_embd, 0), ("n_seq_max", n_seq_max, 1)):
            if not (hasattr(value, "__index__") and lowest <= value <= _MAX_ROWS):
                hint = f"give a whole number from {lowest} to {_MAX_ROWS}"
                raise InvalidArgumentError(f"{name}={value!r}", hint=hint)
        if n_tokens * n_seq_max > _MAX_ROWS:
            raise InvalidArgumentError(
                f"{n_tokens} rows of {n_seq_max} sequences each", hint=f"their product must not be above {_MAX_ROWS}"
            )
        self.capacity = n_tokens
        self.n_embd = n_embd
        self.n_seq_max = n_seq_max
        self._token = ffi.new("llama_token[]", n_tokens) if n_embd == 0 else ffi.NULL
        try:
            self._embd = ffi.new("float[]", n_tokens * n_embd) if n_embd else ffi.NULL
        except MemoryError:
            raise OutOfMemoryError(
                f"{n_tokens} embeddings of width {n_embd} do not fit into memory", hint="use a smaller batch"
            ) from None
        self._pos = ffi.new("llama_pos[]", n_tokens * (_MAX_POS_PER_EMBD if n_embd else 1))
        self._n_seq_id = ffi.new("int32_t[]", n_tokens)
        self._seq_ids = ffi.new("llama_seq_id[]", n_tokens * n_seq_max)
        self._seq_id = ffi.new(
            "llama_seq_id *[]", [self._seq_ids + i * n_seq_max for i in range(n_tokens)] + [ffi.NULL]
        )
        self._output = ffi.new("int8_t[]", n_tokens)
        self._sections: dict[int, tuple[int, ...]] = {}  # rows with their own M-RoPE positions
        self._decoding = False
        self._native = ffi.new("struct llama_batch *")
        native = self._native
        native.token, native.embd, native.pos = self._token, self._embd, self._pos
        native.n_seq_id, native.seq_id, native.logits = self._n_seq_id, self._seq_id, self._output

    def __len__(self) -> int:
        return int(self._native.n_tokens)

    def _row(self) -> int:
        if self._decoding:
            raise BusyError("this Batch is being decoded by another thread", hint="give each thread its own")
        row = int(self._native.n_tokens)
        if row >= self.capacity:
            raise OutOfRangeError(
                f"the batch is full: it holds {self.capacity} rows", hint="decode and clear it, or make a larger one"
            )
        return row

    def _finish(self, row: int, pos: int, seq_ids: Sequence[int], output: bool) -> int:
        if not 0 <= pos <= _INT32_MAX:
            raise OutOfRangeError(f"position {pos!r}", hint="positions start at 0")
        if not 1 <= len(seq_ids) <= self.n_seq_max:
            raise InvalidArgumentError(
                f"a row with {len(seq_ids)} sequences",
                hint=f"this batch takes 1 to n_seq_max={self.n_seq_max} sequences per row",
            )
        start = row * self.n_seq_max
        for offset, seq_id in enumerate(seq_ids):
            if not 0 <= seq_id <= _INT32_MAX:
                raise OutOfRangeError(f"sequence {seq_id!r}", hint="sequences are numbered from 0 to n_seq_max - 1")
            self._seq_ids[start + offset] = seq_id
        self._pos[row] = pos
        self._n_seq_id[row] = len(seq_ids)
        self._output[row] = bool(output)
        self._native.n_tokens = row + 1
        return row

    def add(self, token: int, pos: int, seq_ids: Sequence[int] = (0,), output: bool = False) -> int:
        """Append a token.

        Args:
            token: Token id; whether it is in the vocabulary is checked at the decode.
            pos: Its position in its sequences.
            seq_ids: The sequences it belongs to.
            output: Whether its logits (or embedding) will be read.

        Returns:
            Its row, which `Context.logits` takes.

        Raises:
            InvalidArgumentError: The batch holds embeddings, or there are too many or too few sequences.
            OutOfRangeError: The batch is full, or a number is out of range.
            BusyError: Another thread is decoding the batch.
        """
        row = self._row()
        if self.n_embd:
            raise InvalidArgumentError("this batch holds embeddings, not tokens", hint="make one without n_embd")
        if not 0 <= token <= _INT32_MAX:
            raise OutOfRangeError(f"token {token!r}", hint="tokens are not negative")
        self._token[row] = token
        return self._finish(row, pos, seq_ids, output)

    def advance(self, tokens: Sequence[int]) -> None:
        """Make every row the next token of its sequence: all that changes between the steps of running generations.

        Args:
            tokens: Token ids, one for each row; each row moves on by one position.

        Raises:
            InvalidArgumentError: There are not as many tokens as rows, or the batch holds embeddings.
            BusyError: Another thread is decoding it.
        """
        if self._decoding:
            raise BusyError("this Batch is being decoded by another thread", hint="give each thread its own")
        rows = len(self)
        if self.n_embd or len(tokens) != rows:
            raise InvalidArgumentError(f"{len(tokens)} tokens for {rows} rows", hint="give one for each row")
        positions = [position + 1 for position in ffi.unpack(self._pos, rows)]
        try:
            self._token[0:rows] = tokens  # C checks both when it decodes
            self._pos[0:rows] = positions
        except OverflowError:
            raise OutOfRangeError("a token or a position has more than 32 bits", hint="give token ids") from None

    def add_tokens(self, tokens: Iterable[int], pos: int = 0, seq_id: int = 0, outputs: Outputs = "last") -> range:
        """Append tokens of one sequence at consecutive positions.

        Args:
            tokens: Token ids.
            pos: Position of the first one.
            seq_id: Their sequence.
            outputs: Which of them are output rows.

        Returns:
            Their rows. When one is refused, the batch is as it was.

        Raises:
            InvalidArgumentError: `outputs` is none of the words, or the batch holds embeddings.
            OutOfRangeError: The batch has no room for all of them, or a number is out of range.
            BusyError: Another thread is decoding the batch.
        """
        if outputs not in ("none", "last", "all"):
            raise InvalidArgumentError(f"outputs={outputs!r}", hint='give "none", "last" or "all"')
        tokens = list(tokens)
        first = self._row() if tokens else len(self)
        count = len(tokens)
        if count > 1 and self._takes_at_once(tokens, pos, seq_id, first):
            self._add_at_once(tokens, pos, seq_id, outputs, first)
            return range(first, first + count)
        try:
            for offset, token in enumerate(tokens):
                self.add(
                    token, pos + offset, (seq_id,), outputs == "all" or (outputs == "last" and offset == count - 1)
                )
        except Exception:
            self._native.n_tokens = first
            raise
        return range(first, first + len(tokens))

    def _takes_at_once(self, tokens: list[int], pos: int, seq_id: int, first: int) -> bool:
        """Whether nothing is wrong with them; else they are added one by one, which says what."""
        try:
            return (
                self.n_embd == 0
                and self.n_seq_max == 1
                and first + len(tokens) <= self.capacity
                and 0 <= min(tokens) <= max(tokens) <= _INT32_MAX
                and 0 <= pos <= _INT32_MAX - len(tokens)
                and 0 <= seq_id <= _INT32_MAX
            )
        except TypeError:
            return False

    def _add_at_once(self, tokens: list[int], pos: int, seq_id: int, outputs: Outputs, first: int) -> None:
        count = len(tokens)
        end = first + count
        self._token[first:end] = tokens
        self._pos[first:end] = range(pos, pos + count)
        self._seq_ids[first:end] = (seq_id,) * count
        self._n_seq_id[first:end] = (1,) * count
        self._output[first:end] = (outputs == "all",) * (count - 1) + (outputs != "none",)
        self._native.n_tokens = end

    def add_embd(
        self,
        embd: Sequence[float] | NDArray[np.float32],
        pos: int | Sequence[int],
        seq_ids: Sequence[int] = (0,),
        output: bool = False,
    ) -> int:
        """Append an input embedding.

        Args:
            embd: float32 [n_embd].
            pos: Its position; four numbers (time, height, width, extra) are possible for M-RoPE models.
            seq_ids: The sequences it belongs to.
            output: Whether its logits (or embedding) will be read.

        Returns:
            Its row.

        Raises:
            InvalidArgumentError: It has another shape or is no numbers, the batch holds tokens, or there are too many
                or too few sequences or numbers of a position.
            OutOfRangeError: The batch is full, or a number is out of range.
            BusyError: Another thread is decoding the batch.
        """
        import numpy as np

        row = self._row()
        if not self.n_embd:
            raise InvalidArgumentError(
                "this batch holds tokens, not embeddings", hint="make one with n_embd=model.n_embd_inp"
            )
        try:
            vector = np.ascontiguousarray(embd, dtype=np.float32)
        except ValueError as exc:
            raise InvalidArgumentError(f"an embedding is {exc}", hint="give numbers") from None
        if vector.shape != (self.n_embd,):
            raise InvalidArgumentError(
                f"an embedding of shape {vector.shape}", hint=f"its shape must be ({self.n_embd},)"
            )
        sections = None if hasattr(pos, "__index__") else tuple(map(index, pos))
        if sections is not None and len(sections) != _MAX_POS_PER_EMBD:
            raise InvalidArgumentError(f"a position of {len(sections)} numbers", hint="give one number, or four")
        if sections is not None and not all(0 <= number <= _INT32_MAX for number in sections):
            raise OutOfRangeError(f"position {sections}", hint="positions are not negative")
        self._finish(row, sections[0] if sections is not None else pos, seq_ids, output)  # type: ignore[arg-type]
        ffi.memmove(self._embd + row * self.n_embd, vector, vector.nbytes)
        if sections is not None:
            self._sections[row] = sections
        return row

    def clear(self) -> None:
        """Remove all rows; the memory is kept."""
        if self._decoding:
            raise BusyError("this Batch is being decoded by another thread", hint="give each thread its own")
        self._native.n_tokens = 0
        self._sections.clear()

    def _view(self, array: Any, dtype: str, width: int = 1, *, writeable: bool = True) -> Any:
        import numpy as np

        rows = len(self)
        flat = np.frombuffer(ffi.buffer(array), dtype=dtype)[: rows * width]
        flat.flags.writeable = writeable
        return flat if width == 1 else flat.reshape(rows, width)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Token ids, int32 [rows]: a view that can be written."""
        if self.n_embd:
            raise InvalidArgumentError("this batch holds embeddings, not tokens")
        view: NDArray[np.int32] = self._view(self._token, "i4")
        return view

    @property
    def embd(self) -> NDArray[np.float32]:
        """Input embeddings, float32 [rows, n_embd]: a view that can be written."""
        if not self.n_embd:
            raise InvalidArgumentError("this batch holds tokens, not embeddings")
        view: NDArray[np.float32] = self._view(self._embd, "f4", self.n_embd).reshape(len(self), self.n_embd)
        return view

    @property
    def pos(self) -> NDArray[np.int32]:
        """Positions, int32 [rows]: a view that can be written."""
        view: NDArray[np.int32] = self._view(self._pos, "i4")
        return view

    @property
    def outputs(self) -> NDArray[np.int8]:
        """Output flags, int8 [rows], not zero for an output row: a view that can be written."""
        view: NDArray[np.int8] = self._view(self._output, "i1")
        return view

    def seq_ids(self, row: int) -> tuple[int, ...]:
        """Return the sequences that a row belongs to."""
        if not 0 <= row < len(self):
            raise OutOfRangeError(f"row {row!r}", hint=f"the batch has {len(self)} rows")
        start = row * self.n_seq_max
        return tuple(self._seq_ids[start + i] for i in range(self._n_seq_id[row]))

    def _flat_seq_ids(self) -> list[int]:
        """The sequences of all rows, one after the other."""
        rows = len(self)
        if self.n_seq_max == 1:
            flat: list[int] = ffi.unpack(self._seq_ids, rows) if rows else []
            return flat
        return [seq_id for row in range(rows) for seq_id in self.seq_ids(row)]

    def _widest_row(self) -> int:
        """Most sequences that a row belongs to."""
        if self.n_seq_max == 1:
            return 1
        return max(self._n_seq_id[row] for row in range(len(self))) if len(self) else 0

    def _lay_out_positions(self, pos_per_embd: int) -> Any:
        """Positions as upstream reads them for embeddings: one section of all rows after the other."""
        if not self.n_embd or pos_per_embd == 1:
            return self._pos
        rows = len(self)
        laid_out = ffi.new("llama_pos[]", rows * pos_per_embd)
        for row in range(rows):
            plain = (self._pos[row],) * (_MAX_POS_PER_EMBD - 1) + (0,)  # how upstream places text
            sections = self._sections.get(row, plain)
            for section in range(pos_per_embd):
                laid_out[section * rows + row] = sections[section]
        return laid_out

    def __repr__(self) -> str:
        return f"<Batch {len(self)} of {self.capacity} rows>"
