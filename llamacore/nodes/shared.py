"""Models that nodes share: those of one process that name the same file have one loaded model and one engine."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..core import backend as core_backend
from ..core.model import Model
from ..hub import demo_model_path
from ..llama import Llama
from ..params import FlashAttn, ModelParams

if TYPE_CHECKING:
    from .params import BackendParams, MtpParams

Value = TypeVar("Value", Model, Llama)

DEMO = "demo"
"""The `model_path` of the demo model that the package carries."""


class Lease(Generic[Value]):
    """The right to use something shared, until it is closed. What nobody has a lease of any more is closed."""

    def __init__(self, entry: _Entry) -> None:
        self._entry: _Entry | None = entry
        self.value: Value = entry.value
        """What is shared; not to be closed."""

    def close(self) -> None:
        """Give it back; the last one closes what was shared. Doing it again does nothing."""
        with _lock:
            entry, self._entry = self._entry, None
        if entry is not None:
            entry.release()


@dataclass(eq=False)
class _Entry:
    """Something that is shared, while it is made, used and closed."""

    same: tuple[Any, ...]
    room: tuple[int, ...]
    uses: int = 0
    value: Any = None
    held: list[Lease[Any]] = field(default_factory=list)
    making: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        with _lock:
            self.uses -= 1
            if self.uses:
                return
            _entries.remove(self)
        if self.value is not None:
            self.value.close()
        for lease in self.held:
            lease.close()


_lock = threading.Lock()
_entries: list[_Entry] = []


async def leased(take: Callable[[], Lease[Value]]) -> Lease[Value]:
    """Take a lease in a thread. Where the task is cancelled meanwhile, the lease is given back once it is there."""
    task = asyncio.ensure_future(asyncio.to_thread(take))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_give_back)
        raise


def _give_back(task: asyncio.Task[Lease[Any]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def model_file(model_path: str) -> str:
    """Return the file that a `model_path` means, with symbolic links followed."""
    return os.path.realpath(demo_model_path() if model_path == DEMO else model_path)


def lease_model(model_path: str, backend: BackendParams, *, load_mtp: bool = False) -> Lease[Model]:
    """Load a model, or share the one that is loaded. It takes as long as loading does: call it in a thread.

    Raises:
        ModelLoadError: It could not be loaded.
    """
    file, layers = model_file(model_path), backend.n_gpu_layers

    def make(_: _Entry) -> Model:
        if backend.numa:
            core_backend.numa_init("distribute")
        return Model.load(file, ModelParams(n_gpu_layers=layers, load_mtp=load_mtp or None))

    return _lease(("model", file, layers), (int(load_mtp),), make)


def lease_llama(
    model_path: str,
    backend: BackendParams,
    *,
    n_ctx: int,
    n_batch: int,
    n_parallel: int,
    mtp: MtpParams | None = None,
    taps: bool = False,
) -> Lease[Llama]:
    """Make an engine, or share one that has at least the room that is asked for and is otherwise the same.

    Args:
        model_path: A GGUF file, or "demo".
        backend: Where and how it is computed.
        n_ctx: Tokens of context.
        n_batch: Most tokens of a prompt submitted at a time.
        n_parallel: Texts that are generated at a time.
        mtp: Drafting with the model's own layers for it.
        taps: Whether activations can be read and steered.

    Raises:
        ModelLoadError: The model could not be loaded.
        ContextError: The context could not be made.
        UnsupportedError: The model has no layers to draft with.
    """
    drafts = mtp is not None and mtp.enabled
    speculative = mtp.speculative() if mtp is not None and drafts else None
    flash_attn: FlashAttn | None = "enabled" if backend.flash_attention else None

    def make(entry: _Entry) -> Llama:
        model: Lease[Model] = lease_model(model_path, backend, load_mtp=drafts)
        entry.held.append(model)
        more: dict[str, Any] = {"taps": True} if taps else {}
        return Llama(
            model.value, n_ctx=n_ctx, n_batch=n_batch, n_parallel=n_parallel, n_threads=backend.threads,
            n_threads_batch=backend.threads_batch, flash_attn=flash_attn, speculative=speculative, **more,
        )  # fmt: skip

    same = ("llama", model_file(model_path), backend.n_gpu_layers, flash_attn, backend.threads, backend.threads_batch)
    return _lease((*same, speculative), (n_ctx, n_batch, n_parallel, int(taps)), make)


def _lease(same: tuple[Any, ...], room: tuple[int, ...], make: Callable[[_Entry], Value]) -> Lease[Value]:
    with _lock:
        entry = next((entry for entry in _entries if entry.same == same and _has_room(entry, room)), None)
        if entry is None:
            entry = _Entry(same, room)
            _entries.append(entry)
        entry.uses += 1
    try:
        with entry.making:  # the first one makes it, others wait here
            if entry.value is None:
                entry.value = make(entry)
    except BaseException:
        entry.release()
        raise
    return Lease(entry)


def _has_room(entry: _Entry, room: tuple[int, ...]) -> bool:
    return all(has >= wanted for has, wanted in zip(entry.room, room, strict=True))
