"""Sampling many rows of a batch, each with a sampler of its own, in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError, LlamaCoreError, OutOfRangeError
from ._native import ffi, lib
from .sampler_handle import raise_sampling

if TYPE_CHECKING:
    from .context import Context
    from .sampler import Sampler


class RowSampler:
    """Chooses tokens from the rows of the last batch of a context (upstream: `llama_sampler_sample` for each).

    Args:
        n_rows: Most rows at a time.
    """

    def __init__(self, n_rows: int) -> None:
        self._capacity = n_rows
        self._samplers = ffi.new("struct llama_sampler *[]", n_rows)
        self._rows = ffi.new("int32_t[]", n_rows)
        self._n_first = ffi.new("int32_t[]", n_rows)
        self._tokens = ffi.new("llama_token[]", n_rows)
        self._done = ffi.new("size_t *")

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
        entered = 0
        ptr = context._enter()
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
            results: list[int | LlamaCoreError] = []
            start = 0
            pool, n_threads = context._pools.single
            while start < count:
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
        except OverflowError as exc:
            raise OutOfRangeError(f"rows {list(rows)!r}", hint="give numbers of rows of the last batch") from exc
        finally:
            for sampler in samplers[:entered]:
                sampler._exit()
            context._exit()
