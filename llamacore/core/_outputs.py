"""What the last decode of a context computed, as copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import NativeError, OutOfRangeError, OutputError
from ._handle import Handle
from ._native import ffi, lib, text
from ._status import raise_status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OutputReader(Handle):
    """The part of a `Context` that reads logits and embeddings."""

    _row: Any  # float **, reused by every call
    _n_vocab: int
    _n_embd_out: int
    _n_cls_out: int
    pooling_type: str
    # upstream also hands out buffers that the last decode has not written to
    _logits_computed: bool
    _embd_computed: bool

    def _note(self, status: int) -> None:
        """Remember that a native assertion failed: the context must not compute again."""
        if status == lib.LLC_ABORTED:
            self._break(text(lib.llc_last_error()))

    def _with(self, function: Any, *args: Any) -> Any:
        ptr = self._enter()
        try:
            return function(ptr, *args)
        finally:
            self._exit()

    def _copy_row(
        self, function: Any, index: int, width: int, what: str, hint: str, computed: bool = True
    ) -> NDArray[np.float32]:
        import numpy as np

        if not -(2**31) <= index < 2**31:
            raise OutOfRangeError(f"row {index!r}", hint="rows are numbers of the last batch")
        ptr = self._enter()
        try:
            row = self._row
            status = function(ptr, index, row) if computed else lib.LLC_NO_OUTPUT
            if status == lib.LLC_NO_OUTPUT:
                raise OutputError(f"{what} {index} was not computed by the last decode", hint=hint)
            if status != lib.LLC_OK:
                self._note(status)
                raise_status(status, f"reading {what} {index}", NativeError)
            copy: NDArray[np.float32] = np.frombuffer(ffi.buffer(row[0], width * 4), dtype=np.float32).copy()
            return copy
        finally:
            self._exit()

    def logits(self, i: int = -1) -> NDArray[np.float32]:
        """Return the logits of a row of the last batch, float32 [n_vocab], a copy.

        Args:
            i: Row of the batch that was marked as output; negative numbers count the output rows from the end.

        Raises:
            OutputError: That row has no logits.
        """
        hint = "mark the row with output=True"
        return self._copy_row(lib.llc_logits, i, self._n_vocab, "row", hint, self._logits_computed)

    def embeddings(self, i: int = -1) -> NDArray[np.float32]:
        """Return the embedding of a row of the last batch, float32 [n_embd_out], a copy; for contexts without pooling.

        Raises:
            OutputError: That row has none: it was not marked as output, or the context pools or has no embeddings.
        """
        hint = "create the context with embeddings=True and pooling_type='none', and mark the row with output=True"
        what = "the embedding of row"
        return self._copy_row(lib.llc_embeddings, i, self._n_embd_out, what, hint, self._embd_computed)

    def embeddings_seq(self, seq_id: int = 0) -> NDArray[np.float32]:
        """Return the pooled embedding of a sequence of the last batch, float32 [n_embd_out], a copy.

        With pooling "rank" it holds the scores of the classifier, float32 [n_cls_out].

        Raises:
            OutputError: There is none: the sequence was not in the batch, or the context does not pool.
        """
        width = self._n_cls_out if self.pooling_type == "rank" else self._n_embd_out
        hint = "create the context with embeddings=True and a pooling_type"
        return self._copy_row(lib.llc_embeddings_seq, seq_id, width, "the embedding of sequence", hint)

    def logprobs(
        self, i: int = -1, *, token: int | None = None, n_top: int = 0
    ) -> tuple[float, list[tuple[int, float]]]:
        """Return natural log-probabilities of a row of the last batch, without copying its logits.

        Args:
            i: Row, as for `logits`.
            token: Token whose log-probability is returned; None for none (NaN is returned).
            n_top: How many of the most likely tokens to return.

        Returns:
            The log-probability of `token`, and (token, log-probability) of the `n_top` most likely ones, best first.

        Raises:
            OutputError: That row has no logits.
            OutOfRangeError: `token` or `n_top` is out of range.
        """
        if not -(2**31) <= i < 2**31:
            raise OutOfRangeError(f"row {i!r}", hint="rows are numbers of the last batch")
        if token is not None and not 0 <= token < self._n_vocab:
            hint = f"tokens are 0 to {self._n_vocab - 1}"
            raise OutOfRangeError(f"token {token!r} is not in the vocabulary", hint=hint)
        if not 0 <= n_top <= self._n_vocab:
            raise OutOfRangeError(f"n_top={n_top!r}", hint=f"give 0 to {self._n_vocab}")
        own = ffi.new("float *", float("nan"))
        tokens, values = ffi.new("llama_token[]", max(n_top, 1)), ffi.new("float[]", max(n_top, 1))
        wanted = -1 if token is None else token
        ptr = self._enter()
        try:
            computed = self._logits_computed
            status = lib.llc_logprobs(ptr, i, wanted, own, n_top, tokens, values) if computed else lib.LLC_NO_OUTPUT
            if status == lib.LLC_NO_OUTPUT:
                raise OutputError(f"row {i} was not computed by the last decode", hint="mark the row with output=True")
            if status != lib.LLC_OK:
                self._note(status)
                raise_status(status, f"reading row {i}", NativeError)
            return float(own[0]), [(int(tokens[k]), float(values[k])) for k in range(n_top)]
        finally:
            self._exit()
