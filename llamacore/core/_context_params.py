"""From `ContextParams` to `llama_context_params`, with what upstream would assert on checked first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, OutOfMemoryError, OutOfRangeError, UnsupportedError
from ..params import ContextParams
from . import _enums
from ._handle import Handle
from ._native import ffi, lib
from ._threads import default_threads

if TYPE_CHECKING:
    from .model import Model

# the types that upstream's own tools accept for a KV cache: its kernels assert on others while computing
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")

_PLAIN = (
    "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq",
    "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow",
    "yarn_orig_ctx", "embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified",
)  # fmt: skip
_ENCODES_FOR_DRAFTS = ("eagle3", "dflash")  # a target's inner values, which no decoder attends to
_CELL_BYTES = 48  # that upstream keeps in host memory for each position: its number and the set of its sequences
_NAMED = ("ctx_type", "rope_scaling_type", "pooling_type", "attention_type")


def native_context_params(model: Model, params: ContextParams) -> tuple[Any, list[Any]]:
    """Fill a `llama_context_params`; the second value must live as long as the context.

    Raises:
        InvalidArgumentError: A value is one that upstream cannot compute with.
        UnsupportedError: The model has not what was asked for.
        OutOfMemoryError: The memory that was asked for is more than the machine has.
    """
    native = ffi.new("struct llama_context_params *", lib.llama_context_default_params())
    keep: list[Any] = []
    for name in _PLAIN:
        value = getattr(params, name)
        if value is not None:
            setattr(native, name, value)
    for name in _NAMED:
        value = getattr(params, name)
        if value is not None:
            setattr(native, name, _enums.value(name, value))
    if params.flash_attn is not None:
        native.flash_attn_type = _enums.value("flash_attn", params.flash_attn)
    for name in ("type_k", "type_v"):
        value = getattr(params, name)
        if value is not None:
            if value.lower() not in KV_TYPES:
                raise InvalidArgumentError(f"{name}={value!r}", hint="use one of: " + ", ".join(KV_TYPES))
            setattr(native, name, _enums.ggml_type(value))
    native.n_threads = params.n_threads or default_threads()
    native.n_threads_batch = params.n_threads_batch or native.n_threads
    limit = int(lib.llama_max_parallel_sequences())
    if native.n_seq_max > limit:
        raise InvalidArgumentError(f"n_seq_max={native.n_seq_max}", hint=f"at most {limit} sequences")
    if 0 < native.n_outputs_max < native.n_seq_max and not model.has_encoder:
        raise InvalidArgumentError(
            f"n_outputs_max={native.n_outputs_max} with n_seq_max={native.n_seq_max}",
            hint="each sequence needs an output row",
        )
    encodes_texts = model.has_encoder and model.arch not in _ENCODES_FOR_DRAFTS
    if encodes_texts and model.has_decoder and native.n_seq_max > 1 and not native.kv_unified:
        raise UnsupportedError(
            "an encoder-decoder model cannot hold several sequences in separate memories",
            hint="create the context with kv_unified=True, or n_seq_max=1",
        )
    load_mtp = model.params.load_mtp
    if params.ctx_type == "mtp" and (
        model.n_layer_nextn == 0 or not (lib.llama_model_default_params().load_mtp if load_mtp is None else load_mtp)
    ):
        raise UnsupportedError(
            "this model has no next-token-prediction (MTP) layers",
            hint="load one that has, with load_mtp=True, or use the default ctx_type",
        )
    if params.ctx_other is not None:
        keep.append(params.ctx_other)
        if not isinstance(params.ctx_other, Handle):
            raise InvalidArgumentError(f"ctx_other={params.ctx_other!r}", hint="give a Context")
        native.ctx_other = params.ctx_other._core.ptr
    if params.capture is not None:
        if not isinstance(params.capture, Handle):
            raise InvalidArgumentError(f"capture={params.capture!r}", hint="give a LayerTap or a TensorCapture")
        params.capture._install(native)
        keep.append(params.capture)
    if params.samplers:
        _samplers(model, native, params, keep)
    _require_memory(model, native)
    return native, keep


def _samplers(model: Model, native: Any, params: ContextParams, keep: list[Any]) -> None:
    if not isinstance(params.samplers, Mapping):
        raise InvalidArgumentError(f"samplers={params.samplers!r}", hint="give a mapping of sequence to sampler chain")
    rows = ffi.new("struct llama_sampler_seq_config[]", len(params.samplers))
    for row, (seq_id, chain) in zip(rows, params.samplers.items(), strict=True):
        if not 0 <= seq_id < native.n_seq_max:
            raise OutOfRangeError(f"a sampler for sequence {seq_id!r}", hint=f"n_seq_max is {native.n_seq_max}")
        if not isinstance(chain, Handle):
            raise InvalidArgumentError(f"{chain!r} for sequence {seq_id} is no sampler", hint="use Sampler.chain(...)")
        row.seq_id, row.sampler = seq_id, chain._enter()
        chain._exit()
        chain._require_attachable(model)
        if chain in keep:
            raise InvalidArgumentError("one chain for two sequences", hint="give each its own, such as its clone()")
        keep.append(chain)
    keep.append(rows)
    native.samplers, native.n_samplers = rows, len(rows)


def _require_memory(model: Model, native: Any) -> None:
    """Refuse a KV cache larger than the machine: the kernel grants such memory and kills whoever uses it."""
    if model.is_recurrent:
        return
    try:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if int(native.n_ctx) * _CELL_BYTES > available:
        raise OutOfMemoryError(
            f"the positions of n_ctx={int(native.n_ctx)} alone take {int(native.n_ctx) * _CELL_BYTES / 2**30:.0f} GiB, "
            f"this machine has {available / 2**30:.1f} GiB",
            hint="use a smaller n_ctx",
        )
    if model.is_hybrid or model.n_swa or model.devices:
        return  # the data that they need is less, or elsewhere
    arch = model.arch
    head = int(model.metadata.get(f"{arch}.attention.key_length", 0)) or model.n_embd // max(model.n_head, 1)
    n_ctx = int(native.n_ctx) or model.n_ctx_train
    row = (lib.ggml_type_size(native.type_k) / lib.ggml_blck_size(native.type_k)
           + lib.ggml_type_size(native.type_v) / lib.ggml_blck_size(native.type_v))  # fmt: skip
    needed = int(n_ctx * model.n_layer * max(model.n_head_kv, 0) * head * row)
    if needed > available:
        raise OutOfMemoryError(
            f"a KV cache for n_ctx={n_ctx} takes {needed / 2**30:.1f} GiB, this machine has {available / 2**30:.1f}",
            hint="use a smaller n_ctx, or a quantised type_k and type_v",
        )
