"""What models can do for speculation, and the draft context for a model's own MTP heads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import gguf
from ..errors import InvalidArgumentError, ModelLoadError, NativeError, UnsupportedError
from ..params import ContextParams, StrPath, merge
from . import backend, log
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status
from .context import Context

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..params import ContextOptions
    from .model import Model


def mtp_context(target: Context, model: Model | None = None, **options: Unpack[ContextOptions]) -> Context:
    """Create the draft context for an `MtpSession`: like the target, with what MTP needs.

    Args:
        target: Context whose tokens will be drafted.
        model: Model with the MTP heads, when they come in a file of their own; None for the target's.
        **options: Fields of `ContextParams` that are to be different.

    Returns:
        The context, a child of its model and of the target; the caller closes it.

    Raises:
        UnsupportedError: The model has no MTP heads, or was loaded with `load_mtp=False`.
        ContextError: llama.cpp could not create it.
    """
    if not isinstance(target, Context):
        raise InvalidArgumentError(f"target={target!r}", hint="give a Context")
    params = dataclasses.replace(
        target.params if model is None else ContextParams(),
        ctx_type="mtp",
        ctx_other=target,
        pooling_type=None,
        embeddings=None,
        samplers=None,
        capture=None,
        **_like(target, 1),
    )
    return (model or target.model).context(merge(params, options))


def draft_context(
    target: Context,
    model: Model,
    types: str | Sequence[str] = "draft-simple",
    n_draft_max: int = 3,
    **options: Unpack[ContextOptions],
) -> Context:
    """Create the draft context for a `SpeculativeSession` with a draft model.

    Args:
        target: Context whose tokens will be drafted.
        model: The draft model.
        types: How it drafts; see `speculative_types`.
        n_draft_max: Most tokens of a draft.
        **options: Fields of `ContextParams` that are to be different.

    Returns:
        The context, a child of its model and, if it reads inner values of the target, of that; the caller closes it.

    Raises:
        ContextError: llama.cpp could not create it.
    """
    if not isinstance(target, Context):
        raise InvalidArgumentError(f"target={target!r}", hint="give a Context")
    types = (types,) if isinstance(types, str) else tuple(types)
    if "draft-mtp" in types:
        return mtp_context(target, model, **options)
    in_blocks = "draft-dflash" in types or "draft-dspark" in types  # all tokens of a draft are rows of one batch
    params = ContextParams(**_like(target, n_draft_max + 1 if in_blocks else 1))
    if types != ("draft-simple",):
        params = dataclasses.replace(params, ctx_other=target)
    return model.context(merge(params, options))


def _like(target: Context, n_outputs: int) -> dict[str, Any]:
    return {
        "n_ctx": target.n_ctx, "n_batch": target.n_batch, "n_ubatch": target.n_ubatch, "n_seq_max": target.n_seq_max,
        "n_threads": target.n_threads, "n_threads_batch": target.n_threads_batch, "kv_unified": target.kv_unified,
        "flash_attn": target.params.flash_attn, "n_rs_seq": 0, "n_outputs_max": target.n_seq_max * n_outputs,
        "n_outputs_max_per_seq": n_outputs,
    }  # fmt: skip


def speculative_types(path: StrPath) -> tuple[str, ...]:
    """Return the types that a GGUF file is made to draft with, as upstream detects them: empty for a plain model.

    Raises:
        ModelNotFoundError: There is no such file.
        InvalidModelError: The file is damaged or not GGUF.
    """
    gguf.read(path)
    backend.init()
    out, mark = ffi.new("char **"), log.mark()
    status = lib.llc_spec_types_from_gguf(ffi.new("char[]", path_bytes(os.fspath(path))), out)
    if status != lib.LLC_OK:
        raise_status(status, f"reading {path}", ModelLoadError, mark=mark)
    try:
        return tuple(text(out[0]).split(",")) if text(out[0]) else ()
    finally:
        lib.llc_string_free(out[0])


def require_compatible(target: Model, draft: Model) -> None:
    """Check that a model can draft for another one: both must have the same vocabulary, but for a few tokens.

    Raises:
        UnsupportedError: They differ; the message says in what.
    """
    out = ffi.new("char **")
    with_target = target._enter()
    try:
        with_draft = draft._enter()
        try:
            status = lib.llc_spec_compatible(with_target, with_draft, out)
        finally:
            draft._exit()
    finally:
        target._exit()
    if status != lib.LLC_OK:
        raise_status(status, "comparing two models", NativeError)
    if out[0] != ffi.NULL:
        difference = text(out[0])
        lib.llc_string_free(out[0])
        raise UnsupportedError(
            f"the model cannot draft for the target: {difference}", hint="use a draft model with the same vocabulary"
        )
