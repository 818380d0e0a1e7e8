"""How a projector file is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from ..errors import InvalidArgumentError
from ..params import FlashAttn
from . import _enums, backend
from ._native import ffi, lib
from ._threads import default_threads

_INT32_MAX = 2**31 - 1
_MAX_THREADS = 512
_MAX_IMAGE_TOKENS = 2**15  # upstream multiplies it with the area of a patch, in int


@dataclass(frozen=True)
class MultimodalParams:
    """How a projector is loaded (upstream: `mtmd_context_params`). None means upstream's default.

    Attributes:
        use_gpu: Run the encoders on a GPU when there is one.
        device: Name of that device (`backend.devices()`); None for the first one.
        print_timings: Log how long each image took.
        n_threads: Threads for encoding; None for one per physical core that the process may use.
        media_marker: Text that stands for an image or a sound in a prompt.
        flash_attn: Whether the encoders use flash attention.
        warmup: Reserve the memory for the largest image while loading.
        image_min_tokens: Least tokens of an image, for models that take any size.
        image_max_tokens: Most tokens of an image, for models that take any size.
        batch_max_tokens: Most tokens that `encode` computes at a time.
    """

    use_gpu: bool | None = None
    device: str | None = None
    print_timings: bool | None = None
    n_threads: int | None = None
    media_marker: str | None = None
    flash_attn: FlashAttn | None = None
    warmup: bool | None = None
    image_min_tokens: int | None = None
    image_max_tokens: int | None = None
    batch_max_tokens: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "n_threads": _MAX_THREADS,
            "image_min_tokens": _MAX_IMAGE_TOKENS,
            "image_max_tokens": _MAX_IMAGE_TOKENS,
            "batch_max_tokens": _INT32_MAX,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 1 <= value <= limit):
                raise InvalidArgumentError(f"{name}={value!r}", hint=f"give a whole number from 1 to {limit}")
        least, most = self.image_min_tokens, self.image_max_tokens
        if least is not None and most is not None and least > most:
            raise InvalidArgumentError(f"image_min_tokens={least} is more than image_max_tokens={most}")
        if self.media_marker is not None and (not self.media_marker or "\0" in self.media_marker):
            raise InvalidArgumentError(f"media_marker={self.media_marker!r}", hint="give a text without NUL")


class MultimodalOptions(TypedDict, total=False):
    """The fields of `MultimodalParams` as keyword arguments."""

    use_gpu: bool | None
    device: str | None
    print_timings: bool | None
    n_threads: int | None
    media_marker: str | None
    flash_attn: FlashAttn | None
    warmup: bool | None
    image_min_tokens: int | None
    image_max_tokens: int | None
    batch_max_tokens: int | None


def native_params(params: MultimodalParams) -> tuple[Any, list[Any]]:
    """Fill a `mtmd_context_params`; the second value must live until it is loaded."""
    native = ffi.new("struct mtmd_context_params *", lib.mtmd_context_params_default())
    keep: list[Any] = []
    native.n_threads = params.n_threads or default_threads()
    for name in ("use_gpu", "print_timings", "warmup", "image_min_tokens", "image_max_tokens", "batch_max_tokens"):
        value = getattr(params, name)
        if value is not None:
            setattr(native, name, value)
    if params.flash_attn is not None:
        native.flash_attn_type = _enums.value("flash_attn", params.flash_attn)
    if params.device is not None:
        known = backend.device_handles()
        if params.device not in known:
            raise InvalidArgumentError(
                f"there is no device {params.device!r}", hint="devices here: " + ", ".join(known)
            )
        native.device = known[params.device]
    if params.media_marker is not None:
        marker = ffi.new("char[]", params.media_marker.encode())
        keep.append(marker)
        native.media_marker = marker
    return native, keep
