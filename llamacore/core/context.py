"""A context: the memory of some sequences and the computation over it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import (
    AbortedError,
    BusyError,
    ContextError,
    DecodeError,
    InvalidArgumentError,
    NativeError,
    NoKvSlotError,
    OutOfMemoryError,
    OutOfRangeError,
    OutputError,
    UnsupportedError,
)
from ..params import ContextParams
from . import _enums, adapters, log
from ._context_params import native_context_params
from ._handle import Handle
from ._native import ffi, lib, text
from ._status import raise_status
from ._threads import ThreadPools
from .batch import Batch
from .memory import Memory
from .state import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .model import Model
    from .sampler import Sampler

_serials = itertools.count(1)


@dataclass(frozen=True)
class PerfData:
    """Times and counts of a context since it was made or since `perf_reset()`.

    Attributes:
        t_start_ms: When it started, on upstream's clock.
        t_load_ms: Time that loading the model took.
        t_p_eval_ms: Time spent on prompts (batches of more than one token).
        t_eval_ms: Time spent on single tokens.
        n_p_eval: Tokens of prompts.
        n_eval: Single tokens.
        n_reused: Graphs that could be reused.
    """

    t_start_ms: float
    t_load_ms: float
    t_p_eval_ms: float
    t_eval_ms: float
    n_p_eval: int
    n_eval: int
    n_reused: int


@dataclass(frozen=True)
class MemoryUse:
    """Bytes allocated in one type of buffer: by the model, by the context, and for temporary results."""

    buffer_type: str
    model: int
    context: int
    compute: int


class Context(Handle):
    """Decodes batches for one model. Made by `Model.context`; used by one thread at a time.

    Concurrent use raises `BusyError`. Only `cancel()` and `close()` may be called from other threads: `cancel()` makes
    a running decode return early, `close()` does so and waits for it.
    """

    def __init__(self, ptr: Any, model: Model, params: ContextParams, pools: ThreadPools, cancel: Any, keep: Any) -> None:
        self.model = model
        self.params = params
        self._serial = next(_serials)
        self._pools = [pools]
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
        self._n_outputs_max = min(params.n_outputs_max or self.n_batch, self.n_batch)
        if model.has_encoder:
            self._n_outputs_max = self.n_batch  # upstream ignores the limit then
        self._n_vocab = model.n_vocab
        self._n_embd_out = model.n_embd_out
        self._n_embd_inp = model.n_embd_inp
        self._n_cls_out = len(model.cls_labels)
        self._pos_per_embd = 4 if model.rope_type in ("mrope", "imrope") else 1
        self.memory = Memory(self)
        self.state = State(self)

        holder = self._pools  # not self: what frees the context must not keep it alive

        def free(ctx: Any) -> None:
            lib.llama_free(ctx)
            holder[0].free()

        super().__init__(ptr, free, parent=model, keep=(keep, cancel, self._samplers, self._loras))
        self._core.stop = lambda: _set_flag(cancel)
        for chain in self._samplers.values():
            chain._pinned_by.add(self)
        if params.ctx_other is not None:
            params.ctx_other._adopt(self)

    @classmethod
    def _create(cls, model: Model, params: ContextParams) -> Context:
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
            status = lib.llc_context_new(model_ptr, native, bool(params.disable_attn_rot), out)
            if status != lib.LLC_OK:
                pools.free()
                what = f"creating a context of n_ctx={params.n_ctx or int(native.n_ctx) or model.n_ctx_train} tokens"
                if any("failed to allocate" in line for line in log.problems_since(mark)):
                    raise_status(lib.LLC_OUT_OF_MEMORY, what, OutOfMemoryError, mark=mark)
                raise_status(status, what, ContextError, mark=mark, hint="check the parameters, or use a smaller n_ctx")
            pools.attach(out[0])
            log.drain()
            return cls(out[0], model, params, pools, cancel, (native, *keep))
        finally:
            model._exit()

    def _note(self, status: int) -> None:
        """Remember that a native assertion failed: the context must not compute again."""
        if status == lib.LLC_ABORTED:
            self._break(text(lib.llc_last_error()))

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
        if self.model.params.no_alloc:
            raise UnsupportedError("the model was loaded with no_alloc: it has no weights")
        self._compute(batch, encode=False)

    def encode(self, batch: Batch) -> None:
        """Compute a batch with the encoder (upstream: `llama_encode`); see `decode`.

        Raises:
            UnsupportedError: The model has no encoder.
        """
        if not self.model.has_encoder and self.memory.present:
            raise UnsupportedError("this model has no encoder", hint="call decode()")
        self._compute(batch, encode=True)

    def _compute(self, batch: Batch, *, encode: bool) -> None:
        ptr = self._enter()
        try:
            if batch.n_embd and batch.n_embd != self._n_embd_inp:
                raise InvalidArgumentError(
                    f"the batch holds embeddings of width {batch.n_embd}",
                    hint=f"this model takes n_embd_inp={self._n_embd_inp}",
                )
            if batch._decoding:
                raise BusyError("this Batch is being decoded by another thread", hint="give each thread its own")
            native, code = batch._native, self._code
            if batch.n_embd:
                native.pos = batch._lay_out_positions(self._pos_per_embd)
            batch._decoding = True
            try:
                if encode:
                    status = lib.llc_encode(ptr, native, code)
                else:
                    status = lib.llc_decode(ptr, native, self._n_outputs_max, code)
            finally:
                batch._decoding = False
                native.pos = batch._pos
            if status != lib.LLC_OK:
                self._raise_compute(status, "encoding" if encode else "decoding", len(batch))
        finally:
            self._exit()

    def _raise_compute(self, status: int, doing: str, rows: int) -> None:
        self._note(status)
        what = f"{doing} a batch of {rows} tokens"
        code = int(self._code[0])
        kind, hint = DecodeError, "the context may hold a part of the batch: ask memory.seq_pos_max"
        if status == lib.LLC_FAILED and code == 1:
            kind, hint = NoKvSlotError, "remove sequences from the memory, or use a larger n_ctx or a smaller batch"
        elif status == lib.LLC_FAILED and code == 2:
            kind, hint, what = AbortedError, "what was computed is still in the memory", f"{what}: cancelled"
        elif status == lib.LLC_FAILED and code == -1:
            kind, hint = DecodeError, "positions must follow those in the memory: ask memory.seq_pos_max"
            what = f"{what}: refused as inconsistent"
        try:
            raise_status(status, what, kind, hint=hint, mark=max(1, log.mark() - 16))
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
            DecodeError: It failed.
        """
        batch = Batch(1)
        batch.add(self.model.vocab.bos or 0, 0, output=True)
        if self.model.has_encoder:
            self.encode(batch)
        if self.model.has_decoder:
            batch.clear()
            batch.add(self.model.decoder_start_token or self.model.vocab.bos or 0, 0, output=True)
            self.decode(batch)
        self.synchronize()
        if self.memory.present:
            self.memory.clear()
        self.perf_reset()

    # results

    def _with(self, function: Any, *args: Any) -> Any:
        ptr = self._enter()
        try:
            return function(ptr, *args)
        finally:
            self._exit()

    def _copy_row(self, function: Any, index: int, width: int, what: str, hint: str) -> NDArray[np.float32]:
        import numpy as np

        if not -(2**31) <= index < 2**31:
            raise OutOfRangeError(f"row {index!r}", hint="rows are numbers of the last batch")
        ptr = self._enter()
        try:
            row = self._row
            status = function(ptr, index, row)
            if status == lib.LLC_NO_OUTPUT:
                raise OutputError(f"{what} {index} was not computed by the last decode", hint=hint)
            if status != lib.LLC_OK:
                self._note(status)
                raise_status(status, f"reading {what} {index}", NativeError)
            return np.frombuffer(ffi.buffer(row[0], width * 4), dtype=np.float32).copy()
        finally:
            self._exit()

    def logits(self, i: int = -1) -> NDArray[np.float32]:
        """Return the logits of a row of the last batch, float32 [n_vocab], a copy.

        Args:
            i: Row of the batch that was marked as output; negative numbers count the output rows from the end.

        Raises:
            OutputError: That row has no logits.
        """
        return self._copy_row(lib.llc_logits, i, self._n_vocab, "row", "mark the row with output=True")

    def embeddings(self, i: int = -1) -> NDArray[np.float32]:
        """Return the embedding of a row of the last batch, float32 [n_embd_out], a copy; for contexts without pooling.

        Raises:
            OutputError: That row has none: it was not marked as output, or the context pools or has no embeddings.
        """
        hint = "create the context with embeddings=True and pooling_type='none', and mark the row with output=True"
        return self._copy_row(lib.llc_embeddings, i, self._n_embd_out, "the embedding of row", hint)

    def embeddings_seq(self, seq_id: int = 0) -> NDArray[np.float32]:
        """Return the pooled embedding of a sequence of the last batch, float32 [n_embd_out], a copy.

        With pooling "rank" it holds the scores of the classifier, float32 [n_cls_out].

        Raises:
            OutputError: There is none: the sequence was not in the batch, or the context does not pool.
        """
        width = self._n_cls_out if self.pooling_type == "rank" else self._n_embd_out
        hint = "create the context with embeddings=True and a pooling_type"
        return self._copy_row(lib.llc_embeddings_seq, seq_id, width, "the embedding of sequence", hint)

    def logprobs(self, i: int = -1, *, token: int | None = None, n_top: int = 0) -> tuple[float, list[tuple[int, float]]]:
        """Return natural log-probabilities of a row of the last batch, without copying its logits.

        Args:
            i: Row, as for `logits`.
            token: Token whose log-probability is returned; None for none (NaN is returned).
            n_top: How many of the most likely tokens to return.

        Returns:
            The log-probability of `token`, and (token, log-probability) of the `n_top` most likely ones, best first.

        Raises:
            OutputError: That row has no logits.
            InvalidArgumentError: `token` or `n_top` is out of range.
        """
        if token is not None and not 0 <= token < self._n_vocab:
            raise OutOfRangeError(f"token {token!r} is not in the vocabulary", hint=f"tokens are 0 to {self._n_vocab - 1}")
        if not 0 <= n_top <= self._n_vocab:
            raise OutOfRangeError(f"n_top={n_top!r}", hint=f"give 0 to {self._n_vocab}")
        own = ffi.new("float *", float("nan"))
        tokens, values = ffi.new("llama_token[]", max(n_top, 1)), ffi.new("float[]", max(n_top, 1))
        ptr = self._enter()
        try:
            status = lib.llc_logprobs(ptr, i, -1 if token is None else token, own, n_top, tokens, values)
            if status == lib.LLC_NO_OUTPUT:
                raise OutputError(f"row {i} was not computed by the last decode", hint="mark the row with output=True")
            if status != lib.LLC_OK:
                self._note(status)
                raise_status(status, f"reading row {i}", NativeError)
            return float(own[0]), [(int(tokens[k]), float(values[k])) for k in range(n_top)]
        finally:
            self._exit()

    # settings

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Change the number of threads for single tokens and for batches (None: the same)."""
        pools = ThreadPools(n_threads, n_threads_batch or n_threads)
        try:
            ptr = self._enter()
        except Exception:
            pools.free()
            raise
        try:
            pools.attach(ptr)
            self._pools[0].free()
            self._pools[0] = pools
        finally:
            self._exit()

    @property
    def n_threads(self) -> int:
        """Threads for single tokens."""
        return self._pools[0].n_threads

    @property
    def n_threads_batch(self) -> int:
        """Threads for batches."""
        return self._pools[0].n_threads_batch

    def set_embeddings(self, enabled: bool) -> None:
        """Choose whether the following decodes compute embeddings."""
        self._with(lib.llama_set_embeddings, enabled)
        self._embeddings = enabled

    @property
    def causal_attn(self) -> bool:
        """Whether attention is causal."""
        return bool(self._with(lib.llama_get_causal_attn))

    def set_causal_attn(self, causal: bool) -> None:
        """Choose whether the following decodes attend to the past only."""
        self._with(lib.llama_set_causal_attn, causal)

    def set_sampler(self, seq_id: int, chain: Sampler | None) -> bool:
        """Run a sampler chain inside the graph of a sequence (upstream: `llama_set_sampler`); None takes it out.

        The context keeps the chain alive.

        Returns:
            Whether the device runs it; otherwise `Sampler.sample` computes it on the CPU as usual.
        """
        if not 0 <= seq_id < self.n_seq_max:
            raise OutOfRangeError(f"sequence {seq_id!r}", hint=f"this context has sequences 0 to {self.n_seq_max - 1}")
        done = ffi.new("bool *")
        chain_ptr = ffi.NULL if chain is None else chain._enter()
        try:
            if chain is not None and lib.llama_sampler_chain_get(chain_ptr, -1) == ffi.NULL:
                raise InvalidArgumentError("only a sampler chain can run in the graph", hint="use Sampler.chain(...)")
            ptr = self._enter()
            try:
                status = lib.llc_set_sampler(ptr, seq_id, chain_ptr, done)
                if status != lib.LLC_OK:
                    self._note(status)
                    raise_status(status, f"setting the sampler of sequence {seq_id}", NativeError)
                old = self._samplers.pop(seq_id, None)
                if old is not None and old not in self._samplers.values():
                    old._pinned_by.discard(self)
                if chain is not None:
                    self._samplers[seq_id] = chain
                    chain._pinned_by.add(self)
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

    def set_control_vector(self, data: NDArray[np.float32] | None, layer_start: int = 1, layer_end: int = -1) -> None:
        """Add a direction to the output of layers from the next decode on; None takes it away.

        Args:
            data: float32 [n_layer - 1, n_embd]; row 0 is for layer 1 (layer 0 cannot be steered).
            layer_start: First layer it is applied to.
            layer_end: Last layer it is applied to, inclusive; -1 for the last one there is.

        Raises:
            AdapterError: The shape or the layers do not fit the model.
        """
        adapters.apply_control_vector(self, data, layer_start, layer_end)

    # measurements

    def perf(self) -> PerfData:
        """Return times and counts (all 0 for a context made with `no_perf`)."""
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
            MemoryUse(text(lib.ggml_backend_buft_name(row.buft)), int(row.model), int(row.context), int(row.compute))
            for row in list(rows)[: count[0]]
        ]

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.n_seq_max} sequences"
        return f"<Context n_ctx={self.n_ctx} ({state})>"


def _set_flag(flag: Any) -> None:
    flag[0] = 1
