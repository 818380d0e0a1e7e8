"""What models can do for speculation, and the draft context for a model's own MTP heads."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from .. import gguf
from ..errors import InvalidArgumentError, ModelLoadError, NativeError, UnsupportedError
from ..params import StrPath, merge
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
    model = target.model if model is None else model
    params = dataclasses.replace(
        target.params,
        ctx_type="mtp",
        ctx_other=target,
        n_ctx=target.n_ctx,
        n_batch=target.n_batch,
        n_ubatch=target.n_ubatch,
        n_seq_max=target.n_seq_max,
        kv_unified=target.kv_unified,
        n_threads=target.n_threads,
        n_threads_batch=target.n_threads_batch,
        n_rs_seq=0,  # its memory is attention alone
        n_outputs_max=target.n_seq_max,
        n_outputs_max_per_seq=1,
        embeddings=None,
        pooling_type=None,
        samplers=None,
        capture=None,
    )
    return model.context(merge(params, options))


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
