"""What changes a model's behaviour at run time: LoRA adapters and control vectors."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import gguf
from ..errors import AdapterError, InvalidArgumentError, InvalidModelError, LlamaCoreError
from ..params import StrPath
from . import log, sampler_checks
from ._handle import Handle
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status
from .control_vector import ControlVector as ControlVector
from .metadata import Metadata, read_string

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .context import Context
    from .model import Model

# Upstream keeps the adapters of a model in a set that loading and freeing change without a lock.
registry = threading.RLock()
_NOT_FOR_MATMUL = ("i8", "i16", "i32", "i64", "f64", "q8_1", "q8_K")


@contextmanager
def _contexts_at_rest(model: Model) -> Iterator[None]:
    """Hold all contexts of a model: each decode may read the set of adapters."""
    from .context import Context

    entered: list[Handle] = []
    try:
        for child in list(model._children):
            if isinstance(child, Context) and not child.closed and not child._core.broken:
                child._enter()
                entered.append(child)
        yield
    finally:
        for child in entered:
            child._exit()


class LoraAdapter(Handle):
    """A LoRA adapter loaded for a model; `Context.set_lora` puts it to use. Made by `LoraAdapter.load`.

    Child of the model: closed with it. While a context uses it, `close()` raises `BusyError`. When a context of the
    model computes at the moment it is freed, its memory is given back with the model's.

    Attributes:
        path: The file it came from.
        metadata: Scalar GGUF metadata of the file.
        alora_invocation_tokens: Of an activated LoRA (aLoRA) the tokens after which it is to be used; else empty.
    """

    path: str
    metadata: Metadata
    alora_invocation_tokens: list[int]

    def __init__(self, ptr: Any, model: Model, path: str) -> None:
        def free(adapter: Any) -> None:
            # may run while the collector interrupts a call of this very thread, so it never waits
            if registry.acquire(blocking=False):
                try:
                    with _contexts_at_rest(model):
                        lib.llama_adapter_lora_free(adapter)
                except LlamaCoreError:
                    pass  # a context is computing: llama.cpp frees the adapter with the model
                finally:
                    registry.release()

        super().__init__(ptr, free, parent=model)
        self.path = path
        self.model = model
        self.metadata = Metadata(dict(_entries(ptr)))
        count = int(lib.llama_adapter_get_alora_n_invocation_tokens(ptr))
        tokens = lib.llama_adapter_get_alora_invocation_tokens(ptr)
        self.alora_invocation_tokens = ffi.unpack(tokens, count) if count else []

    @classmethod
    def load(cls, model: Model, path: StrPath) -> LoraAdapter:
        """Load an adapter from a GGUF file (upstream: `llama_adapter_lora_init`).

        Args:
            model: Model it was made for. No context of it may be computing in another thread meanwhile.
            path: The file.

        Returns:
            The adapter; the caller closes it, or drops it.

        Raises:
            ModelNotFoundError: There is no such file.
            InvalidModelError: The file is damaged.
            AdapterError: The file is no LoRA adapter, or does not fit the model.
            BusyError: A context of the model is in use by another thread.
        """
        name = os.fspath(path)
        _check_file(model, name)
        what = f"loading the LoRA adapter {name}"
        out = ffi.new("struct llama_adapter_lora **")
        raw = ffi.new("char[]", path_bytes(name))
        ptr = model._enter()
        try:
            if model.params.vocab_only or model.params.no_alloc:
                raise AdapterError(f"{what}: the model was loaded without weights", hint="load it with its weights")
            with registry, _contexts_at_rest(model):
                mark = log.mark()
                status = lib.llc_adapter_lora_load(ptr, raw, out)
                if status != lib.LLC_OK:
                    raise_status(status, what, AdapterError, mark=mark, hint="is it for another base model?")
            log.drain()
            return cls(out[0], model, name)
        finally:
            model._exit()

    def __repr__(self) -> str:
        return f"<LoraAdapter {os.path.basename(self.path)}{' (closed)' if self.closed else ''}>"


def _entries(ptr: Any) -> Iterator[tuple[str, str]]:
    for i in range(lib.llama_adapter_meta_count(ptr)):
        key = read_string(functools.partial(lib.llama_adapter_meta_key_by_index, ptr, i))
        value = read_string(functools.partial(lib.llama_adapter_meta_val_str_by_index, ptr, i))
        if key is not None:
            yield key, value or ""


def _check_file(model: Model, path: str) -> None:
    """Refuse what upstream would load and then fail on in the middle of a decode, where it costs the context."""
    file = gguf.read(path)

    def fail(why: str) -> AdapterError:
        return AdapterError(
            f"{path} is no LoRA adapter for this model: {why}", hint="use an adapter made for this model"
        )

    for key, wanted in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", model.arch),
    ):
        found = file.metadata.get(key)
        if found != wanted:
            raise fail(f"{key} is {found!r} instead of {wanted!r}")
    if "adapter.lora.alpha" in file.metadata and file.metadata.type("adapter.lora.alpha") is not gguf.ValueType.FLOAT32:
        raise InvalidModelError(f"{path}: adapter.lora.alpha is no 32-bit float", hint="convert the adapter again")
    pairs = {name[: -len(".lora_a")] for name in file.tensors if name.endswith(".lora_a")}
    if not pairs:
        raise fail("it has no tensors")
    for name in pairs:
        a, b = file.tensors[f"{name}.lora_a"], file.tensors.get(f"{name}.lora_b")
        if b is None:
            raise fail(f"{name}.lora_b is missing")
        (n_in, rank_a, *more_a), (rank_b, n_out, *more_b) = (_dims(a.shape), _dims(b.shape))
        if name.endswith("token_embd.weight"):
            rank_a, rank_b, n_out = n_in, rank_b, n_out  # here a is stored the other way round
        if rank_a != rank_b or more_a != more_b:
            raise fail(f"the two parts of {name} have the shapes {a.shape} and {b.shape}")
        if more_a != [1, 1] and more_a != [model.n_expert, 1]:
            raise fail(f"{name}.lora_a has the shape {a.shape}")
        if "_exps." in name and more_a == [1, 1] and model.n_expert > 1:
            raise fail(f"{name} has no part for each expert")
        for part in (a, b):
            if part.storage.name in _NOT_FOR_MATMUL:
                raise fail(f"{part.name} is stored as {part.storage.name}")


def _dims(shape: tuple[int, ...]) -> list[int]:
    return [*shape, *(1 for _ in range(4 - len(shape)))]


def apply_lora(ctx: Context, scales: Mapping[LoraAdapter, float]) -> None:
    """Give a context these adapters and no others; see `Context.set_lora`.

    The context keeps them alive and pins them until it gets others or is closed.

    Args:
        ctx: The context.
        scales: Adapters of its model with their scales; empty for none.

    Raises:
        InvalidArgumentError: It is no mapping of adapters to finite numbers.
        AdapterError: An adapter belongs to another model, or upstream refused.
    """
    wanted: dict[LoraAdapter, float] = {}
    if not isinstance(scales, Mapping):
        raise InvalidArgumentError(f"{scales!r} is no mapping", hint="give {adapter: scale}")
    for adapter, scale in scales.items():
        if not isinstance(adapter, LoraAdapter):
            raise InvalidArgumentError(f"{adapter!r} is no LoraAdapter", hint="give {adapter: scale}")
        if adapter.model is not ctx.model:
            raise AdapterError(f"{adapter!r} was loaded for another model", hint="load it with ctx.model")
        wanted[adapter] = sampler_checks.real("the scale of an adapter", scale)
    ptr = ctx._enter()
    entered: list[LoraAdapter] = []
    try:
        pointers = []
        for adapter in wanted:
            pointers.append(adapter._enter())
            entered.append(adapter)
        status = lib.llc_set_adapters_lora(
            ptr,
            ffi.new("struct llama_adapter_lora *[]", pointers),
            len(wanted),
            ffi.new("float[]", list(wanted.values())),
        )
        if status != lib.LLC_OK:
            ctx._note(status)
            raise_status(status, "setting the LoRA adapters", AdapterError)
        for adapter in ctx._loras:
            adapter._pinned_by.discard(ctx)
        ctx._loras.clear()
        ctx._loras.update(wanted)
        for adapter in wanted:
            adapter._pinned_by.add(ctx)
    finally:
        for adapter in entered:
            adapter._exit()
        ctx._exit()


def apply_control_vector(
    ctx: Context,
    data: ControlVector | NDArray[np.float32] | None,
    layer_start: int = 1,
    layer_end: int = -1,
    scale: float = 1.0,
) -> None:
    """Give a context a control vector, or take it away; see `Context.set_control_vector`. The data is copied.

    Args:
        ctx: The context.
        data: A control vector, or numbers [at most n_layer - 1, n_embd], row 0 for layer 1; None takes it away.
        layer_start: First layer it is applied to, from 1.
        layer_end: Last layer it is applied to, inclusive; -1 for the last one there is.
        scale: Times the direction.

    Raises:
        InvalidArgumentError: The data or `scale` is no finite number, or a layer is below 1.
        AdapterError: The shape or the layers do not fit the model, or upstream refused.
    """
    ptr = ctx._enter()
    try:
        if data is None:
            status = lib.llc_set_adapter_cvec(ptr, ffi.NULL, 0, 0, 0, 0)
        else:
            rows, first, last = _control_rows(ctx.model, data, layer_start, layer_end)
            rows *= sampler_checks.real("scale", scale)
            lib.llama_synchronize(ptr)  # upstream overwrites the tensors that a computation in flight would read
            native = ffi.from_buffer("float[]", rows)
            status = lib.llc_set_adapter_cvec(ptr, native, rows.size, rows.shape[1], first, last)
        if status != lib.LLC_OK:
            ctx._note(status)
            reason = text(lib.llc_last_error())
            raise AdapterError(f"setting the control vector failed{f': {reason}' if reason else ''}")
    finally:
        ctx._exit()


def _control_rows(model: Model, data: Any, first: int, last: int) -> tuple[Any, int, int]:
    """Check a control vector and return it for all layers that can be steered, with the range it applies to."""
    import numpy as np

    n_layer, n_embd = model.n_layer, model.n_embd
    if isinstance(data, ControlVector):
        data = data.to_array(n_layer)
    try:
        given = np.asarray(data, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidArgumentError("the control vector is no array of numbers") from exc
    if n_layer < 2:
        raise AdapterError("a model of one layer cannot be steered", hint="layer 0 is never steered")
    if given.ndim != 2 or given.shape[1] != n_embd or not 1 <= given.shape[0] < n_layer:
        raise AdapterError(
            f"the control vector has the shape {given.shape}",
            hint=f"give at most [{n_layer - 1}, {n_embd}]: row 0 is for layer 1, the last one for layer {n_layer - 1}",
        )
    if not np.isfinite(given).all():
        raise InvalidArgumentError("the control vector has a number that is not finite")
    last = n_layer - 1 if last == -1 else sampler_checks.whole("layer_end", last, 1)
    first = sampler_checks.whole("layer_start", first, 1)
    if not first <= last < n_layer:
        raise AdapterError(f"layers {first} to {last} cannot be steered", hint=f"give layers from 1 to {n_layer - 1}")
    rows = np.zeros((n_layer - 1, n_embd), dtype=np.float32)  # upstream keeps old values where data ends early
    rows[: len(given)] = given
    return rows, first, last
