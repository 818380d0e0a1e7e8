"""From a shim status to the exception that says what was asked, what went wrong and what to do next."""

from __future__ import annotations

from typing import NoReturn

from .. import errors
from . import log
from ._native import lib, text


def raise_status(
    status: int,
    what: str,
    error: type[errors.LlamaCoreError],
    *,
    hint: str = "",
    mark: int | None = None,
) -> NoReturn:
    """Raise the exception for a shim status that is not LLC_OK.

    Args:
        status: The `enum llc_status` returned.
        what: What was asked, as the start of the message.
        error: The class for a failure that upstream reported (LLC_FAILED, LLC_EXCEPTION).
        hint: What to do next.
        mark: `log.mark()` from before the call: native warnings and errors since then are attached.
    """
    reason = text(lib.llc_last_error())
    lines = log.problems_since(mark) if mark is not None else ()
    if mark is not None:
        log.drain()
    message = f"{what}: {reason}" if reason else what
    if status == lib.LLC_INVALID_ARGUMENT:
        if issubclass(error, errors.InvalidArgumentError):
            raise error(message, hint=hint)
        raise errors.InvalidArgumentError(message, hint=hint)
    if status == lib.LLC_DEVICE_LOST:
        raise errors.RpcError(
            message, hint="close what uses it, call add_rpc_server() again and load the model anew", native_log=lines
        )
    if status == lib.LLC_OUT_OF_MEMORY:
        raise errors.OutOfMemoryError(
            f"{what}: out of memory", hint="use a smaller model, context or batch", native_log=lines
        )
    raise error(message, hint=hint, native_log=[line for line in lines if line != reason])


def ran_out_of_memory(mark: int) -> bool:
    """Whether the calling thread's native log since `mark` tells of an allocation that failed."""
    signs = ("failed to allocate", "bad_alloc", "insufficient memory")
    return any(sign in line for line in log.problems_since(mark) for sign in signs)
