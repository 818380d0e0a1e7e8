"""How a model is quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from ..errors import InvalidArgumentError
from ..params import KvValue, StrPath
from . import sampler_checks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class QuantizeParams:
    """How a model is quantised (upstream: `llama_model_quantize_params`). None means upstream's default.

    Attributes:
        n_threads: Threads; 0 for one per hardware thread.
        output_tensor_type: ggml type of the output tensor.
        token_embedding_type: ggml type of the token embeddings.
        allow_requantize: Also quantise what is quantised already; quality suffers.
        quantize_output_tensor: Whether the output tensor is quantised.
        only_copy: Copy the tensors as they are; the file type is ignored.
        pure: Give all tensors the same type instead of a mixture.
        keep_split: Write as many files as the input has.
        dry_run: Find out the types and sizes, and write nothing.
        imatrix: Importance matrix: a file, or tensor name to one weight per column (times experts), float32.
        kv_overrides: Metadata to put into the output; whole numbers become unsigned 32-bit ones.
        tensor_types: Regular expression over tensor names to ggml type, first match wins.
        prune_layers: Layers to leave out; the rest is renumbered.
        max_buf_size: Most bytes of tensor rows in memory at once; 0 for 8 GiB.
    """

    n_threads: int | None = None
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    allow_requantize: bool | None = None
    quantize_output_tensor: bool | None = None
    only_copy: bool | None = None
    pure: bool | None = None
    keep_split: bool | None = None
    dry_run: bool | None = None
    imatrix: StrPath | Mapping[str, NDArray[np.float32]] | None = None
    kv_overrides: Mapping[str, KvValue] | None = None
    tensor_types: Mapping[str, str] | None = None
    prune_layers: Sequence[int] | None = None
    max_buf_size: int | None = None

    def __post_init__(self) -> None:
        if self.n_threads is not None:
            sampler_checks.whole("n_threads", self.n_threads, 0, 512)
        if self.max_buf_size is not None:
            sampler_checks.whole("max_buf_size", self.max_buf_size, 0, 2**62)
        for layer in self.prune_layers or ():
            sampler_checks.whole("prune_layers", layer, 0)
        for key, value in (self.kv_overrides or {}).items():
            if isinstance(value, int) and not isinstance(value, bool) and not 0 <= value < 2**32:
                raise InvalidArgumentError(
                    f"kv_overrides[{key!r}] is {value}", hint="in a file, overrides are unsigned 32-bit numbers"
                )


class QuantizeOptions(TypedDict, total=False):
    """The fields of `QuantizeParams` as keyword arguments."""

    n_threads: int | None
    output_tensor_type: str | None
    token_embedding_type: str | None
    allow_requantize: bool | None
    quantize_output_tensor: bool | None
    only_copy: bool | None
    pure: bool | None
    keep_split: bool | None
    dry_run: bool | None
    imatrix: StrPath | Mapping[str, NDArray[np.float32]] | None
    kv_overrides: Mapping[str, KvValue] | None
    tensor_types: Mapping[str, str] | None
    prune_layers: Sequence[int] | None
    max_buf_size: int | None
