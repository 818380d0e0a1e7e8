"""What a multimodal projector file has, and whether upstream can be trusted with it.

Upstream loads most tensors of a projector as optional and then reads them without looking. What the common projectors
cannot do without is asked for here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .. import gguf
from ..errors import InvalidModelError, ModelNotFoundError
from . import backend, log
from ._native import ffi, lib, path_bytes
from ._status import raise_status

_WHISPER = ("ultravox", "voxtral", "qwen2a", "qwen2.5o", "glma", "meralion", "musicflamingo")
_QWEN2 = ("qwen2vl_merger", "qwen2.5vl_merger", "qwen2.5o", "youtuvl")
_LLAVA = ("mlp", "ldp", "ldpv2", "adapter")
_WITHOUT_PATCHES = ("deepseekocr", "deepseekocr2", "gemma3nv", "yasa2", "dots3note_v")
_TWO_FRAMES = ("qwen2vl_merger", "qwen2.5vl_merger", "qwen2.5o", "qwen3vl_merger", "ling3vl", "glm4v", "exaone4_5")
_LEARNED_POSITIONS = (
    *("resampler", "gemma4v", "gemma4uv", "kimivl", "kimik25", "ling3vl", "muse-glimmer", "paddleocr", "lfm2", "phi4"),
    *_LLAVA,
)


@dataclass(frozen=True)
class Capabilities:
    """What a projector file has encoders for."""

    vision: bool
    audio: bool


def _vision(file: gguf.GgufFile, projector: str) -> Iterator[str]:
    if projector not in _WITHOUT_PATCHES:
        yield "v.patch_embd.weight"
    if projector in _TWO_FRAMES:
        yield "v.patch_embd.weight.1"
    if projector in _LEARNED_POSITIONS:
        yield "v.position_embd.weight"
    if projector == "mlp":
        last = (1, 3, 4) if "mm.3.weight" in file.tensors else (2,)
        yield from (f"mm.{i}.{kind}" for i in (0, *last) for kind in ("weight", "bias"))
    yield from _attention(file, "v", fused_bias=projector in ("qwen3vl_merger", "cogvlm"), bias=projector in _QWEN2)


def _audio(file: gguf.GgufFile, projector: str) -> Iterator[str]:
    if projector in _WHISPER:
        yield "a.position_embd.weight"
        yield from _attention(file, "a", fused_bias=False, bias=False)


def _attention(file: gguf.GgufFile, prefix: str, *, fused_bias: bool, bias: bool) -> Iterator[str]:
    for name in file.tensors:
        match = re.fullmatch(rf"({prefix}\.blk\.\d+\.)attn_out\.weight", name)
        if match is None:
            continue
        fused = f"{match[1]}attn_qkv"
        if f"{fused}.weight" in file.tensors or fused_bias:
            yield from [f"{fused}.weight", f"{fused}.bias"][: 1 + fused_bias]
        else:
            for part in "qkv":
                yield from [f"{match[1]}attn_{part}.weight", f"{match[1]}attn_{part}.bias"][: 1 + bias]


def _number(file: gguf.GgufFile, key: str) -> int:
    value = file.metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _wrong_sizes(file: gguf.GgufFile, kind: str, projector: str) -> str:
    """Say which sizes contradict each other, where upstream would find out on a thread that cannot report it."""
    if kind == "audio" and projector in _WHISPER and _number(file, "clip.audio.block_count") < 1:
        return "an audio encoder without layers"
    patch = _number(file, "clip.vision.patch_size")
    if kind == "vision" and projector in _LLAVA and patch > 0:
        positions = file.tensors["v.position_embd.weight"].shape[-1]
        needed = (_number(file, "clip.vision.image_size") // patch) ** 2 + ("v.class_embd" in file.tensors)
        if positions < needed:
            return f"{positions} position embeddings for {needed} patches"
    return ""


def check_projector(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is no projector, or lacks what upstream would read all the same.

    Raises:
        ModelNotFoundError: There is no such file.
        InvalidModelError: It is damaged or no projector.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise ModelNotFoundError(f"loading {name}: there is no such file", hint="check the path")
    file = gguf.check(name)
    arch = file.metadata.get("general.architecture")
    if arch != "clip":
        raise InvalidModelError(
            f"loading {name}: it is a model of architecture {arch!r}, not a multimodal projector",
            hint="give the mmproj file that comes with the model",
        )
    encoders = [kind for kind in ("vision", "audio") if file.metadata.get(f"clip.has_{kind}_encoder") is True]
    if not encoders:
        raise InvalidModelError(f"loading {name}: it has neither an image nor an audio encoder")
    for kind in encoders:
        own = file.metadata.get(f"clip.{kind}.projector_type", "")
        projector = str(file.metadata.get("clip.projector_type") or own)
        for needed in (_vision if kind == "vision" else _audio)(file, projector):
            if needed not in file.tensors:
                raise InvalidModelError(
                    f"loading {name}: the {projector} projector lacks the tensor {needed}",
                    hint="download or convert it again",
                )
        wrong = _wrong_sizes(file, kind, projector)
        if wrong:
            raise InvalidModelError(f"loading {name}: it has {wrong}", hint="download or convert it again")


def capabilities(path: str | os.PathLike[str]) -> Capabilities:
    """Say what a projector file has encoders for, without loading it (upstream: `mtmd_get_cap_from_file`).

    Raises:
        ModelNotFoundError: There is no such file.
        InvalidModelError: It is damaged or no projector.
    """
    check_projector(path)
    backend.init()
    vision, audio = ffi.new("bool *"), ffi.new("bool *")
    mark = log.mark()
    status = lib.llc_mtmd_caps(path_bytes(os.fspath(path)), vision, audio)
    if status != lib.LLC_OK:
        raise_status(status, f"reading {os.fspath(path)}", InvalidModelError, mark=mark)
    return Capabilities(vision=bool(vision[0]), audio=bool(audio[0]))
