"""What a model or a context can be asked to be: frozen dataclasses, where None means upstream's default.

Defaults are never written down here: they come from `llama_model_default_params` and `llama_context_default_params` of
the loaded library. The one exception is the number of threads, see `ContextParams.n_threads`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from .core.capture import TensorCapture
    from .core.context import Context
    from .core.sampler import Sampler
    from .core.tap import LayerTap

StrPath = str | os.PathLike[str]
GpuLayers = int | Literal["all", "none"]
SplitMode = Literal["none", "layer", "row", "tensor"]
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap_mlock", "direct_io"]
LazyMode = Literal["off", "auto", "on"]
ContextType = Literal["default", "mtp"]
RopeScaling = Literal["unspecified", "none", "linear", "yarn", "longrope"]
Pooling = Literal["unspecified", "none", "mean", "cls", "last", "rank"]
Attention = Literal["unspecified", "causal", "non_causal"]
FlashAttn = Literal["auto", "disabled", "enabled"]
KvValue = int | float | bool | str


@dataclass(frozen=True)
class ModelParams:
    """How a model is loaded (upstream: `llama_model_params`). None means upstream's default.

    Attributes:
        devices: Names of the devices to offload to, as `backend.devices()` lists them; an empty sequence for none.
        tensor_overrides: Regular expression over tensor names to the name of the buffer type that holds them
            (`backend.buffer_types()`), first match wins.
        n_gpu_layers: Layers to keep in device memory, "all" or "none".
        split_mode: How a model is split across several devices.
        load_mode: How the file is read.
        lazy_mode: Whether marked tensors are read row by row on demand (needs mmap).
        main_gpu: Index of the device that is used when `split_mode` is "none"; negative for none at all.
        tensor_split: Share of the model for each device; not negative, at most `backend.limits()["devices"]` numbers.
        kv_overrides: Metadata to replace before the model is built; int, float, bool or str of at most 127 bytes.
        vocab_only: Load the vocabulary alone: no contexts.
        check_tensors: Validate the tensor data while loading (slow).
        use_extra_bufts: Allow buffer types that repack weights for speed.
        no_host: Bypass host buffers so that extra buffer types can be used.
        no_alloc: Load metadata only and simulate the allocations: contexts report memory but cannot decode.
        load_mtp: Load the next-token-prediction (MTP) layers too.
    """

    devices: Sequence[str] | None = None
    tensor_overrides: Mapping[str, str] | None = None
    n_gpu_layers: GpuLayers | None = None
    split_mode: SplitMode | None = None
    load_mode: LoadMode | None = None
    lazy_mode: LazyMode | None = None
    main_gpu: int | None = None
    tensor_split: Sequence[float] | None = None
    kv_overrides: Mapping[str, KvValue] | None = None
    vocab_only: bool | None = None
    check_tensors: bool | None = None
    use_extra_bufts: bool | None = None
    no_host: bool | None = None
    no_alloc: bool | None = None
    load_mtp: bool | None = None

    def __post_init__(self) -> None:
        layers = self.n_gpu_layers
        if isinstance(layers, str) and layers not in ("all", "none"):
            raise InvalidArgumentError(f"n_gpu_layers={layers!r}", hint='give a number, "all" or "none"')
        if not isinstance(layers, str):
            _require_int("n_gpu_layers", layers, -1)
        _require_int("main_gpu", self.main_gpu, -(2**31))
        for name in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc", "load_mtp"):
            _require_bool(name, getattr(self, name))
        for value in self.tensor_split or ():
            if not _is_float32(value) or value < 0:
                raise InvalidArgumentError(f"tensor_split has {value!r}", hint="shares are finite and not negative")
        for name, kind in (("kv_overrides", Mapping), ("tensor_overrides", Mapping)):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), kind):
                raise InvalidArgumentError(f"{name} is a {type(getattr(self, name)).__name__}", hint="give a mapping")
        if isinstance(self.devices, str):
            raise InvalidArgumentError(f"devices={self.devices!r}", hint="give a list of names")


@dataclass(frozen=True)
class ContextParams:
    """How a context is created (upstream: `llama_context_params`). None means upstream's default.

    Attributes:
        n_ctx: Tokens of memory, shared by all sequences; 0 for what the model was trained with.
        n_batch: Most tokens that one decode() takes.
        n_ubatch: Most tokens that are computed at a time.
        n_seq_max: Number of sequences.
        n_rs_seq: Snapshots of recurrent state kept per sequence, so that as many tokens can be rolled back.
        n_outputs_max: Most output rows of a decode; 0 for n_batch.
        n_outputs_max_per_seq: Most output rows of one sequence; 0 for n_outputs_max.
        n_threads: Threads for single tokens; None for one per physical core that the process may use (upstream's
            library default is a fixed 4, its tools count cores as we do).
        n_threads_batch: Threads for prompts; None for the same as n_threads.
        ctx_type: "mtp" for a context that runs the model's next-token-prediction block.
        rope_scaling_type: RoPE scaling method.
        rope_freq_base: RoPE base frequency; 0 for the model's.
        rope_freq_scale: RoPE frequency scale; 0 for the model's.
        yarn_ext_factor: YaRN extrapolation mix; negative for the model's.
        yarn_attn_factor: YaRN magnitude scale; negative for the model's.
        yarn_beta_fast: YaRN low correction dimension; negative for the model's.
        yarn_beta_slow: YaRN high correction dimension; negative for the model's.
        yarn_orig_ctx: Context the model was trained with before YaRN; 0 for the model's.
        pooling_type: How embeddings of a sequence are pooled.
        attention_type: Causal or not.
        flash_attn: Whether flash attention is used.
        type_k: Data type of the K cache by ggml name ("f16", "q8_0", ...).
        type_v: Data type of the V cache by ggml name; quantised types need flash attention.
        embeddings: Compute embeddings as well as logits.
        offload_kqv: Keep the memory on the device.
        no_perf: Skip the time measurement behind `Context.perf()`.
        op_offload: Run operations of host tensors on the device.
        swa_full: Keep the whole sliding-window cache.
        kv_unified: One memory for all sequences (they share prefixes) instead of a part for each.
        samplers: Sampler chains that run inside the graph of a sequence; each must outlive the context.
        ctx_other: Context whose results or memory this one shares; it must outlive this one.
        capture: Reads graph tensors, or reads and changes layer outputs, of each decode; it serves this context alone
            and must outlive it.
        disable_attn_rot: Switch off upstream's rotation of a quantised KV cache for this context.
    """

    n_ctx: int | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_seq_max: int | None = None
    n_rs_seq: int | None = None
    n_outputs_max: int | None = None
    n_outputs_max_per_seq: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    ctx_type: ContextType | None = None
    rope_scaling_type: RopeScaling | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = None
    pooling_type: Pooling | None = None
    attention_type: Attention | None = None
    flash_attn: FlashAttn | None = None
    type_k: str | None = None
    type_v: str | None = None
    embeddings: bool | None = None
    offload_kqv: bool | None = None
    no_perf: bool | None = None
    op_offload: bool | None = None
    swa_full: bool | None = None
    kv_unified: bool | None = None
    samplers: Mapping[int, Sampler] | None = None
    ctx_other: Context | None = None
    capture: TensorCapture | LayerTap | None = None
    disable_attn_rot: bool | None = None

    def __post_init__(self) -> None:
        for name in ("n_ctx", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq", "yarn_orig_ctx"):
            _require_int(name, getattr(self, name), 0)
        for name in ("n_batch", "n_ubatch", "n_seq_max", "n_threads", "n_threads_batch"):
            _require_int(name, getattr(self, name), 1)
        for name in ("rope_freq_base", "rope_freq_scale"):
            value = getattr(self, name)
            if value is not None and not (_is_float32(value) and value >= 0):
                raise InvalidArgumentError(f"{name}={value!r}", hint="give a finite number, 0 for the model's own")
        for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
            value = getattr(self, name)
            if value is not None and not _is_float32(value):
                raise InvalidArgumentError(
                    f"{name}={value!r}", hint="give a finite number, negative for the model's own"
                )
        for name in (
            "embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified", "disable_attn_rot"
        ):  # fmt: skip
            _require_bool(name, getattr(self, name))
        for name in ("type_k", "type_v"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InvalidArgumentError(f"{name}={value!r}", hint='give the name of a type, like "f16"')


def _require_int(name: str, value: int | None, lowest: int) -> None:
    # the type is asked of a value that may come from anywhere, numpy included
    if value is not None and not (hasattr(value, "__index__") and lowest <= value <= 2**31 - 1):
        raise InvalidArgumentError(f"{name}={value!r}", hint=f"give a whole number from {lowest} to {2**31 - 1}")


def _require_bool(name: str, value: bool | None) -> None:
    if value is not None and value not in (True, False):
        raise InvalidArgumentError(f"{name}={value!r}", hint="give True or False")


def _is_float32(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= 3.4e38


class ModelOptions(TypedDict, total=False):
    """The fields of `ModelParams` as keyword arguments."""

    devices: Sequence[str] | None
    tensor_overrides: Mapping[str, str] | None
    n_gpu_layers: GpuLayers | None
    split_mode: SplitMode | None
    load_mode: LoadMode | None
    lazy_mode: LazyMode | None
    main_gpu: int | None
    tensor_split: Sequence[float] | None
    kv_overrides: Mapping[str, KvValue] | None
    vocab_only: bool | None
    check_tensors: bool | None
    use_extra_bufts: bool | None
    no_host: bool | None
    no_alloc: bool | None
    load_mtp: bool | None


class ContextOptions(TypedDict, total=False):
    """The fields of `ContextParams` as keyword arguments."""

    n_ctx: int | None
    n_batch: int | None
    n_ubatch: int | None
    n_seq_max: int | None
    n_rs_seq: int | None
    n_outputs_max: int | None
    n_outputs_max_per_seq: int | None
    n_threads: int | None
    n_threads_batch: int | None
    ctx_type: ContextType | None
    rope_scaling_type: RopeScaling | None
    rope_freq_base: float | None
    rope_freq_scale: float | None
    yarn_ext_factor: float | None
    yarn_attn_factor: float | None
    yarn_beta_fast: float | None
    yarn_beta_slow: float | None
    yarn_orig_ctx: int | None
    pooling_type: Pooling | None
    attention_type: Attention | None
    flash_attn: FlashAttn | None
    type_k: str | None
    type_v: str | None
    embeddings: bool | None
    offload_kqv: bool | None
    no_perf: bool | None
    op_offload: bool | None
    swa_full: bool | None
    kv_unified: bool | None
    samplers: Mapping[int, Sampler] | None
    ctx_other: Context | None
    capture: TensorCapture | LayerTap | None
    disable_attn_rot: bool | None


Params = TypeVar("Params")


def merge(params: Params, options: Mapping[str, Any]) -> Params:
    """Return `params` with `options` put over it.

    Raises:
        InvalidArgumentError: An option is not a field; the message names the nearest one.
    """
    names = [field.name for field in dataclasses.fields(params)]  # type: ignore[arg-type]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise InvalidArgumentError(
                f"there is no option {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else "the options are the fields of " + type(params).__name__,
            )
    return dataclasses.replace(params, **options)  # type: ignore[type-var]
