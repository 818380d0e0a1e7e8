"""A context: the memory of some sequences and the computation over it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import (
    AbortedError,
    ContextError,
    DecodeError,
    InvalidArgumentError,
    NativeError,
    NoKvSlotError,
    OutOfMemoryError,
    OutOfRangeError,
    UnsupportedError,
)
from ..params import ContextParams
from . import _enums, adapters, backend, log
from ._batch_check import require_sound
from ._context_params import native_context_params
from ._handle import Handle
from ._inner_values import InnerValueReader
from ._native import ffi, lib
from ._rollback import Rollback
from ._status import raise_status, ran_out_of_memory
from ._threads import ThreadPools
from .batch import Batch
from .measure import MemoryUse, PerfData
from .memory import Memory
from .state import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .model import Model
    from .sampler import Sampler

_serials = itertools.count(1)


class Context(InnerValueReader):
    """Decodes batches for one model. Made by `Model.context`; used by one thread at a time.

    Concurrent use raises `BusyError`. Only `cancel()` and `close()` may be called from other threads: `cancel()` makes
    a running decode return early, `close()` does so and waits for it.
    """

    def __init__(
        self, ptr: Any, model: Model, params: ContextParams, pools: ThreadPools, cancel: Any, keep: Any
    ) -> None:
        self.model = model
        self.params = params
        self._serial = next(_serials)
        self._pools = pools
        self._cancel = cancel
        self._samplers: dict[int, Sampler] = dict(params.samplers or {})
        self._loras: dict[adapters.LoraAdapter, float] = {}
        self._code = ffi.new("int32_t *")
        self._row = ffi.new("float **")
        self._embeddings = bool(params.embeddings)
        self.n_ctx = int(lib.llama_n_ctx(ptr))
        self.n_ctx_seq = int(lib.llama_n_ctx_seq(ptr))
        self.n_batch = int(lib.llama_n_batch(ptr))
        self.n_ubatch = int(lib.llama_n_ubatch(ptr))
        self.n_seq_max = int(lib.llama_n_seq_max(ptr))
        self.n_rs_seq = int(lib.llama_n_rs_seq(ptr))
        self.pooling_type = _enums.name("pooling_type", int(lib.llama_pooling_type(ptr)))
        self.kv_unified = bool(keep[0].kv_unified)
        self.swa_full = bool(keep[0].swa_full)
        self._n_outputs_max = min(params.n_outputs_max or self.n_batch, self.n_batch)
        if model.has_encoder:
            self._n_outputs_max = self.n_batch  # upstream ignores the limit then
        self._n_vocab = model.n_vocab
        self._n_embd_out = model.n_embd_out
        self._n_embd_inp = model.n_embd_inp
        self._n_cls_out = len(model.cls_labels)
        self._pos_per_embd = 4 if model.rope_type in ("mrope", "imrope") else 1
        self._memory_types = (int(keep[0].type_k), int(keep[0].type_v))
        self._has_memory = bool(lib.llama_get_memory(ptr) != ffi.NULL)
        # the memory of MTP heads is attention alone, whatever the rest of the model has
        self._recurrent = (model.is_recurrent or model.is_hybrid) and params.ctx_type != "mtp"
        self._has_encoder = model.has_encoder
        self._must_encode = self._has_encoder and model.has_decoder  # before it can decode
        self._is_diffusion = model.is_diffusion
        self._logits_computed = self._embd_computed = False
        self._layer_inputs: dict[int, bool] = {}
        self._n_rows = 0
        self._rollback = Rollback(self.n_rs_seq)
        self._state_identity: bytes | None = None
        self._sound_state: bytes | None = None  # the checkpoint that was checked last
        self._device_states: dict[int, int] = {}  # sequence to the number of states taken on the device
        self._log_mark = log.mark()

        def free(ctx: Any) -> None:  # not a method: what frees the context must not keep it alive
            lib.llama_free(ctx)
            pools.free()

        super().__init__(ptr, free, parent=model, keep=(keep, cancel, self._samplers, self._loras))
        self._core.stop = lambda: _set_flag(cancel)
        try:
            for chain in self._samplers.values():
                chain._attach(self)
            if params.capture is not None:
                params.capture._attach(self)
            if params.ctx_other is not None:
                params.ctx_other._adopt(self)
        except BaseException:  # nobody gets it, but those that it is attached to would wait for its end
            self.close()
            raise

    @classmethod
    def _create(cls, model: Model, params: ContextParams) -> Context:
        if isinstance(params.ctx_other, Context):
            with params.ctx_other._held():  # nobody closes it before it knows its new child
                return cls._create_alone(model, params)
        return cls._create_alone(model, params)

    @classmethod
    def _create_alone(cls, model: Model, params: ContextParams) -> Context:
        model_ptr = model._enter()
        try:
            if model.params.vocab_only:
                raise UnsupportedError(
                    "the model was loaded with vocab_only: it has no weights", hint="load it again without vocab_only"
                )
            cancel = ffi.new("int32_t *")
            native, keep = native_context_params(model, params)
            native.abort_callback = ffi.addressof(lib, "llc_abort_callback")
            native.abort_callback_data = cancel
            pools = ThreadPools(native.n_threads, native.n_threads_batch)
            out = ffi.new("struct llama_context **")
            mark = log.mark()
            with adapters.registry:  # upstream reads the list of adapters
                status = lib.llc_context_new(model_ptr, native, bool(params.disable_attn_rot), out)
            if status != lib.LLC_OK:
                pools.free()
                what = f"creating a context of n_ctx={params.n_ctx or int(native.n_ctx) or model.n_ctx_train} tokens"
                if status != lib.LLC_DEVICE_LOST and ran_out_of_memory(mark):
                    raise_status(lib.LLC_OUT_OF_MEMORY, what, OutOfMemoryError, mark=mark)
                raise_status(status, what, ContextError, mark=mark, hint="check the parameters, or use a smaller n_ctx")
            pools.attach(out[0])
            log.drain()
            context = cls(out[0], model, params, pools, cancel, (native, *keep))
            if context.n_rs_seq and context.n_ubatch <= context.n_rs_seq + 1:  # upstream asserts in the first decode
                context.close()
                raise InvalidArgumentError(
                    f"n_rs_seq={context.n_rs_seq} with n_ubatch={context.n_ubatch}",
                    hint=f"n_ubatch and n_batch must be at least {context.n_rs_seq + 2}",
                )
            return context
        finally:
            model._exit()

    @property
    def memory(self) -> Memory:
        """Which positions of which sequences it holds, and editing them."""
        return Memory(self)  # made anew: keeping it would be a cycle, and a dropped context would not be freed at once

    @property
    def state(self) -> State:
        """Saving and restoring what it remembers."""
        return State(self)

    # computing

    def decode(self, batch: Batch) -> None:
        """Compute a batch with the decoder (upstream: `llama_decode`).

        Args:
            batch: 1 to `n_batch` rows; kept as it is, so that it can be cleared and filled again.

        Raises:
            NoKvSlotError: The memory has no room for it; the memory is unchanged.
            AbortedError: `cancel()` was called; micro-batches that were done stay in the memory.
            DecodeError: It failed otherwise; the native log says why.
            InvalidArgumentError: The batch is empty, too large, or names unknown tokens or sequences; nothing was done.
        """
        self._compute(batch, encode=False)

    def encode(self, batch: Batch) -> None:
        """Compute a batch with the encoder (upstream: `llama_encode`); see `decode`.

        Raises:
            UnsupportedError: The model has no encoder.
        """
        if not self._has_encoder and self._has_memory:
            raise UnsupportedError("this model has no encoder", hint="call decode()")
        self._compute(batch, encode=True)

    def _compute(self, batch: Batch, *, encode: bool) -> None:
        ptr = self._enter()
        try:
            require_sound(self, batch, encode=encode)
            native, code = batch._native, self._code
            positions = batch._lay_out_positions(self._pos_per_embd)  # held here: the struct keeps nothing alive
            native.pos = positions
            capture = self.params.capture
            if capture is not None:
                capture._enter()
            batch._decoding = True
            try:
                if capture is not None:
                    capture._begin(native)
                with self._pools.lock:
                    if encode:
                        status = lib.llc_encode(ptr, native, code)
                    else:
                        status = lib.llc_decode(ptr, native, self._n_outputs_max, code)
            finally:
                batch._decoding = False
                native.pos = batch._pos
                if capture is not None:
                    capture._exit()
            if status != lib.LLC_OK:
                self._raise_compute(status, "encoding" if encode else "decoding", len(batch))
            if capture is not None:
                capture._require_complete()
            self._inner_values_computed(len(batch))
            self._pools.trim()
            self._rollback.decoded(batch)
            self._logits_computed = self._is_diffusion or (self._has_memory and not encode)
            self._embd_computed = self.pooling_type == "none" and (self._embeddings or (encode and self._has_encoder))
            if encode:
                self._must_encode = False
        finally:
            self._exit()

    def _raise_compute(self, status: int, doing: str, rows: int) -> None:
        self._note(status)
        what = f"{doing} a batch of {rows} tokens"
        code = int(self._code[0])
        kind, hint = DecodeError, "the context may hold a part of the batch: ask memory.seq_pos_max"
        if status == lib.LLC_INVALID_ARGUMENT:
            hint = ""
        elif status == lib.LLC_FAILED and code == 1:
            kind, hint = NoKvSlotError, "remove sequences from the memory, or use a larger n_ctx or a smaller batch"
        elif status == lib.LLC_FAILED and code == 2:
            kind, hint, what = AbortedError, "what was computed is still in the memory", f"{what}: cancelled"
        elif status == lib.LLC_FAILED and code == -1:
            kind, hint = DecodeError, "positions must follow those in the memory: ask memory.seq_pos_max"
            what = f"{what}: refused as inconsistent"
        mark, self._log_mark = max(self._log_mark, log.mark() - 16), log.mark()
        try:
            raise_status(status, what, kind, hint=hint, mark=mark)
        except DecodeError as exc:
            exc.code = code
            raise

    def cancel(self) -> None:
        """Make the running decode, or the next one, return early with `AbortedError`. Callable from any thread.

        It takes effect inside a decode on back ends that can stop (CPU, Metal); `resume()` allows decoding again.
        """
        _set_flag(self._cancel)

    def resume(self) -> None:
        """Take back `cancel()`."""
        self._cancel[0] = 0

    @property
    def cancelled(self) -> bool:
        """Whether `cancel()` is in force."""
        return bool(self._cancel[0])

    def synchronize(self) -> None:
        """Wait until everything that was submitted is computed."""
        self._with(lib.llama_synchronize)

    def warmup(self) -> None:
        """Decode one token and forget it, so that the first real one does not pay for page faults.

        Raises:
            InvalidArgumentError: The memory is not empty.
            DecodeError: It failed.
        """
        if any(self.memory.seq_pos_max(seq_id) >= 0 for seq_id in range(self.n_seq_max)):
            raise InvalidArgumentError("the memory is in use", hint="warm up before the first decode")
        must_encode = self._must_encode
        batch = Batch(1)
        batch.add(self.model.vocab.bos or 0, 0, output=True)
        if self.model.has_encoder:
            self.encode(batch)
        if self.model.has_decoder:
            batch.clear()
            batch.add(self.model.decoder_start_token or self.model.vocab.bos or 0, 0, output=True)
            self.decode(batch)
        self.synchronize()
        if self._has_memory:
            self.memory.clear()
        self._must_encode = must_encode
        self._logits_computed = self._embd_computed = False
        self.perf_reset()

    # settings

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Change the number of threads.

        Args:
            n_threads: Threads for single tokens.
            n_threads_batch: Threads for batches; None for the same.

        Raises:
            InvalidArgumentError: A number is no whole one or below 1.
        """
        ptr = self._enter()
        try:
            self._pools.choose(n_threads, n_threads if n_threads_batch is None else n_threads_batch)
            self._pools.attach(ptr)
        finally:
            self._exit()

    @property
    def n_threads(self) -> int:
        """Threads for single tokens."""
        return self._pools.n_threads

    @property
    def n_threads_batch(self) -> int:
        """Threads for batches."""
        return self._pools.n_threads_batch

    def set_embeddings(self, enabled: bool) -> None:
        """Choose whether the following decodes compute embeddings."""
        self._with(lib.llama_set_embeddings, bool(enabled))
        self._embeddings = bool(enabled)

    @property
    def causal_attn(self) -> bool:
        """Whether attention is causal."""
        return bool(self._with(lib.llama_get_causal_attn))

    def set_causal_attn(self, causal: bool) -> None:
        """Choose whether the following decodes attend to the past only."""
        self._with(lib.llama_set_causal_attn, bool(causal))

    def set_sampler(self, seq_id: int, chain: Sampler | None) -> bool:
        """Run a sampler chain inside the graph of a sequence (upstream: `llama_set_sampler`).

        Args:
            seq_id: The sequence.
            chain: The chain, which the context keeps alive; None takes the one there is out. A chain can be attached
                once; attach its `clone()` elsewhere.

        Returns:
            Whether the device runs it; otherwise `Sampler.sample` computes it on the CPU as usual.

        Raises:
            OutOfRangeError: There is no such sequence.
            InvalidArgumentError: It is no chain, was attached before, belongs to another model, or draws a token before
                it chooses another.
        """
        if not 0 <= seq_id < self.n_seq_max:
            raise OutOfRangeError(f"sequence {seq_id!r}", hint=f"this context has sequences 0 to {self.n_seq_max - 1}")
        if chain is not None and not isinstance(chain, Handle):
            raise InvalidArgumentError(f"{chain!r} is no sampler", hint="use Sampler.chain(...)")
        done = ffi.new("bool *")
        chain_ptr = ffi.NULL if chain is None else chain._enter()
        try:
            ptr = self._enter()
            try:
                if chain is not None:
                    chain._require_attachable(self.model)
                status = lib.llc_set_sampler(ptr, seq_id, chain_ptr, done)
                if status != lib.LLC_OK:
                    self._note(status)
                    raise_status(status, f"setting the sampler of sequence {seq_id}", NativeError)
                old = self._samplers.pop(seq_id, None)
                if old is not None and old not in self._samplers.values():
                    old._pinned_by.discard(self)
                if chain is not None:
                    self._samplers[seq_id] = chain
                    chain._attach(self)
            finally:
                self._exit()
        finally:
            if chain is not None:
                chain._exit()
        return bool(done[0])

    def set_lora(self, scales: Mapping[adapters.LoraAdapter, float]) -> None:
        """Use these LoRA adapters with these scales, and no others, from the next decode on.

        Raises:
            AdapterError: An adapter belongs to another model, or does not fit.
        """
        adapters.apply_lora(self, scales)

    def set_control_vector(
        self,
        data: adapters.ControlVector | NDArray[np.float32] | None,
        layer_start: int = 1,
        layer_end: int = -1,
        *,
        scale: float = 1.0,
    ) -> None:
        """Add a direction to the output of layers from the next decode on; None takes it away.

        Args:
            data: A control vector, or float32 [n_layer - 1, n_embd]; row 0 is for layer 1 (layer 0 cannot be steered).
            layer_start: First layer it is applied to.
            layer_end: Last layer it is applied to, inclusive; -1 for the last one there is.
            scale: Times the direction.

        Raises:
            AdapterError: The shape or the layers do not fit the model.
        """
        adapters.apply_control_vector(self, data, layer_start, layer_end, scale)

    # measurements

    def perf(self) -> PerfData:
        """Return times and counts; a context made with `no_perf` measures nothing."""
        data = self._with(lib.llama_perf_context)
        return PerfData(
            float(data.t_start_ms), float(data.t_load_ms), float(data.t_p_eval_ms), float(data.t_eval_ms),
            int(data.n_p_eval), int(data.n_eval), int(data.n_reused),
        )  # fmt: skip

    def perf_reset(self) -> None:
        """Start counting again."""
        self._with(lib.llama_perf_context_reset)

    def memory_use(self) -> list[MemoryUse]:
        """Return the bytes allocated for this context and its model, one entry per type of buffer."""
        capacity = 64
        rows, count = ffi.new("struct llc_memory_use[]", capacity), ffi.new("size_t *")
        status = self._with(lib.llc_context_memory_use, rows, capacity, count)
        if status != lib.LLC_OK:
            raise_status(status, "measuring memory", NativeError)
        return [
            MemoryUse(backend.buffer_type_name(row.buft), int(row.model), int(row.context), int(row.compute))
            for row in list(rows)[: count[0]]
        ]

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.n_seq_max} sequences"
        return f"<Context n_ctx={self.n_ctx} ({state})>"


def _set_flag(flag: Any) -> None:
    flag[0] = 1
