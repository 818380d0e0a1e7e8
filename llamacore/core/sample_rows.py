"""Sampling many rows of a batch, each with a sampler of its own, in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, LlamaCoreError, OutOfRangeError
from ._native import ffi, lib
from .sampler_handle import raise_sampling

if TYPE_CHECKING:
    from .context import Context
    from .sampler import Sampler
    from .speculative import SpeculativeSession


class RowSampler:
    """Chooses tokens from the rows of the last batch of a context (upstream: `llama_sampler_sample` for each).

    Args:
        n_rows: Most rows at a time, or groups of them for `sample_drafts`.
        n_draft_max: Most tokens of a draft.
    """

    def __init__(self, n_rows: int, n_draft_max: int = 0) -> None:
        self._capacity = n_rows
        self._samplers = ffi.new("struct llama_sampler *[]", n_rows)
        self._rows = ffi.new("int32_t[]", n_rows)
        self._n_first = ffi.new("int32_t[]", n_rows)
        self._tokens = ffi.new("llama_token[]", n_rows * (n_draft_max + 1))
        self._done = ffi.new("size_t *")
        self._n_draft_max = n_draft_max
        self._drafts = ffi.new("llama_token[]", max(n_rows * n_draft_max, 1))
        self._n_draft = ffi.new("int32_t[]", n_rows)
        self._n_tokens = ffi.new("int32_t[]", n_rows)
        self._alive = ffi.new("bool[]", n_rows)

    def _enter(self, ptr: Any, rows: Sequence[int], samplers: Sequence[Sampler]) -> None:
        """Take the samplers for a context that was entered, and fill the arrays."""
        pointers, numbers, first = self._samplers, self._rows, self._n_first
        entered = 0
        try:
            model = lib.llama_get_model(ptr)
            for number, sampler in enumerate(samplers):
                pointers[number] = sampler._enter()
                entered += 1
                if sampler._model_ptr is not None and sampler._model_ptr != model:
                    sampler._require_same_vocabulary(ptr)
                numbers[number] = rows[number]
                shown = sampler._shown
                if shown is None:
                    shown = sampler._shown = sampler._item.candidates()
                first[number] = shown
        except BaseException as exc:
            for sampler in samplers[:entered]:
                sampler._exit()
            if isinstance(exc, OverflowError):
                raise OutOfRangeError(f"rows {list(rows)!r}", hint="give numbers of rows of the last batch") from exc
            raise

    def sample(self, context: Context, rows: Sequence[int], samplers: Sequence[Sampler]) -> list[int | LlamaCoreError]:
        """Choose and accept a token for each row.

        Args:
            context: Context that decoded the batch.
            rows: Rows of the batch that were marked as output; one may be given several times.
            samplers: A sampler for each, all different.

        Returns:
            For each row the token, or the error that its sampler alone made; the others are not affected.

        Raises:
            InvalidArgumentError: There are more rows than there is room for, or not as many samplers, or one was made
                for a vocabulary of another size.
            OutOfRangeError: A row is no 32-bit number.
            BusyError: The context or a sampler is in use by another thread.
            BrokenError: A native assertion failed.
        """
        count = len(rows)
        if count > self._capacity or count != len(samplers):
            raise InvalidArgumentError(f"{count} rows with {len(samplers)} samplers, with room for {self._capacity}")
        pointers, numbers, first, done = self._samplers, self._rows, self._n_first, self._done
        ptr = context._enter()
        try:
            self._enter(ptr, rows, samplers)
            try:
                results: list[int | LlamaCoreError] = []
                start = 0
                pool, n_threads = context._pools.single
                while start < count:
                    with context._pools.lock:
                        status = lib.llc_sample_batch(
                            ptr, pool, n_threads, count - start, pointers + start, numbers + start, first + start,
                            self._tokens + start, done,
                        )  # fmt: skip
                    results += ffi.unpack(self._tokens + start, done[0])
                    start += done[0]
                    if status:
                        try:
                            raise_sampling(status, rows[start], context)
                        except LlamaCoreError as error:
                            results.append(error)
                        start += 1
                return results
            finally:
                for sampler in samplers:
                    sampler._exit()
        finally:
            context._exit()

    def sample_drafts(
        self,
        context: Context,
        rows: Sequence[int],
        samplers: Sequence[Sampler],
        drafts: Sequence[Sequence[int]],
        session: SpeculativeSession | None = None,
    ) -> list[list[int] | LlamaCoreError]:
        """Choose and accept tokens as long as they are those of a draft, and one more.

        A sampler chooses exactly once for each token that is returned: with the same seed the text is the same as
        without drafts.

        Args:
            context: Context that decoded the batch.
            rows: For each draft the row of the token before it; the rows of its tokens follow, all marked as output.
            samplers: A sampler for each, all different.
            drafts: The drafts, which may be empty.
            session: A session with synthetic rates: tokens of a draft are then accepted at random.

        Returns:
            For each draft 1 to `len(draft) + 1` tokens, all but the last those of the draft; or the error that its
            sampler alone made at one of its rows.

        Raises:
            InvalidArgumentError: There are more drafts, or longer ones, than there is room for, or not as many rows or
                samplers.
            OutOfRangeError: A row or a token is no 32-bit number.
            BusyError: The context, the session or a sampler is in use by another thread.
        """
        count, stride = len(rows), self._n_draft_max
        if count > self._capacity or not count == len(samplers) == len(drafts):
            raise InvalidArgumentError(
                f"{count} rows with {len(samplers)} samplers and {len(drafts)} drafts, with room for {self._capacity}"
            )
        lengths = [len(draft) for draft in drafts]
        if count and max(lengths) > stride:
            raise InvalidArgumentError(f"a draft of {max(lengths)} tokens", hint=f"there is room for {stride}")
        ptr = context._enter()
        try:
            self._enter(ptr, rows, samplers)
            try:
                synthetic = ffi.NULL if session is None else session._enter()
                try:
                    for k, draft in enumerate(drafts):
                        if draft:
                            self._drafts[k * stride : k * stride + lengths[k]] = draft
                    self._n_draft[0:count] = lengths
                    self._n_tokens[0:count] = [0] * count
                    self._alive[0:count] = [True] * count
                    return self._sample_groups(ptr, context, count, rows, synthetic)
                finally:
                    if session is not None:
                        session._exit()
            except (OverflowError, TypeError) as exc:
                raise OutOfRangeError("a draft with what is no token", hint="give token ids") from exc
            finally:
                for sampler in samplers:
                    sampler._exit()
        finally:
            context._exit()

    def _sample_groups(
        self, ptr: Any, context: Context, count: int, rows: Sequence[int], synthetic: Any
    ) -> list[list[int] | LlamaCoreError]:
        failed, stride, errors = self._done, self._n_draft_max, dict[int, LlamaCoreError]()
        pool, n_threads = context._pools.single
        while True:
            with context._pools.lock:
                status = lib.llc_sample_drafts(
                    ptr, pool, n_threads, count, self._samplers, self._rows, self._n_first, self._drafts, stride,
                    self._n_draft, synthetic, self._tokens, self._n_tokens, self._alive, failed,
                )  # fmt: skip
            if not status:
                break
            group = failed[0]
            taken = self._n_tokens[group] if group < count else 0
            try:
                raise_sampling(status, rows[group] + taken if group < count else -1, context)
            except LlamaCoreError as error:
                if group >= count:
                    raise
                errors[group] = error
        counts = ffi.unpack(self._n_tokens, count)
        return [
            errors[k] if k in errors else ffi.unpack(self._tokens + k * (stride + 1), n) for k, n in enumerate(counts)
        ]
