"""Contexts that are made beside those of the caller: with the same settings, in sizes of their own."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..params import ContextParams, merge


def settings(
    params: ContextParams | None, *, n_ctx: int | None, n_batch: int | None, n_ubatch: int | None, n_threads: int | None
) -> ContextParams:
    """Return `params` with what is not None put over it.

    Raises:
        InvalidArgumentError: A number is out of range.
    """
    given = {"n_ctx": n_ctx, "n_batch": n_batch, "n_ubatch": n_ubatch, "n_threads": n_threads}
    given["n_threads_batch"] = n_threads
    return merge(params or ContextParams(), {name: value for name, value in given.items() if value is not None})


def apart(params: ContextParams, **changes: Any) -> ContextParams:
    """Return `params` for another context: what serves one context alone is left out, and `changes` put over it."""
    return dataclasses.replace(
        params,
        **{
            "n_outputs_max": None, "n_outputs_max_per_seq": None, "n_rs_seq": None, "ctx_type": None, "samplers": None,
            "ctx_other": None, "capture": None, **changes,
        },
    )  # fmt: skip


def grown(n_tokens: int, limit: int) -> int:
    """Return a size for a text of `n_tokens` that leaves room for somewhat longer ones, but is not above `limit`."""
    return max(min(1 << max(n_tokens - 1, 0).bit_length(), limit), n_tokens)
