"""Multimodal projectors (mmproj files) with random weights that fit a text model of a given width."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import InvalidArgumentError
from .architectures import Value
from .models import write_gguf
from .weights import Weights

_N_FF = 48  # not the width of the encoder: upstream tells the up matrix from the down matrix by it
_N_MEL = 80
_MAX_AUDIO_POSITIONS = 1500  # half the frames of the 30 seconds that one audio chunk has
_STACK = 4
_MERGE = 2


def _blocks(weights: Weights, prefix: str, n_layer: int, width: int, *, fused: bool = False) -> None:
    for i in range(n_layer):
        block = f"{prefix}.blk.{i}."
        for name in ("ln1", "ln2"):
            weights.norm(f"{block}{name}.weight", width)
            weights.normal(f"{block}{name}.bias", width)
        for name in ("attn_qkv",) if fused else ("attn_q", "attn_k", "attn_v"):
            n_out = 3 * width if fused else width
            weights.matrix(f"{block}{name}.weight", width, n_out)
            if name != "attn_k":  # upstream's audio encoder refuses one
                weights.normal(f"{block}{name}.bias", n_out)
        for name, n_in, n_out in (("attn_out", width, width), ("ffn_up", width, _N_FF), ("ffn_down", _N_FF, width)):
            weights.matrix(f"{block}{name}.weight", n_in, n_out)
            weights.normal(f"{block}{name}.bias", n_out)
    weights.norm(f"{prefix}.post_ln.weight", width)
    weights.normal(f"{prefix}.post_ln.bias", width)


def _linear(weights: Weights, name: str, n_in: int, n_out: int) -> None:
    weights.matrix(f"{name}.weight", n_in, n_out)
    weights.normal(f"{name}.bias", n_out)


def _vision(
    weights: Weights, projector: str, n_embd: int, n_layer: int, width: int, image_size: int, patch_size: int
) -> dict[str, Value]:
    std = (3 * patch_size * patch_size) ** -0.5
    weights.normal("v.patch_embd.weight", patch_size, patch_size, 3, width, std=std)
    weights.normal("v.patch_embd.bias", width)
    weights.normal("v.position_embd.weight", width, (image_size // patch_size) ** 2, std=0.5)
    _blocks(weights, "v", n_layer, width, fused=projector == "qwen3vl_merger")
    merged = width * _MERGE * _MERGE
    if projector == "mlp":
        _linear(weights, "mm.0", width, n_embd)
        _linear(weights, "mm.2", n_embd, n_embd)
    elif projector == "gemma3":
        weights.norm("mm.soft_emb_norm.weight", width)
        weights.normal("mm.input_projection.weight", n_embd, width, std=width**-0.5)
    elif projector == "idefics3":
        weights.matrix("mm.model.fc.weight", merged, n_embd)
    else:
        weights.normal("v.patch_embd.weight.1", patch_size, patch_size, 3, width, std=std)
        _linear(weights, "mm.0", merged, merged)
        _linear(weights, "mm.2", merged, n_embd)
    return {
        "image_size": image_size,
        "patch_size": patch_size,
        "preproc_image_size": 2 * image_size,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "projector.scale_factor": _MERGE,
        "spatial_merge_size": _MERGE,
    }


def _audio(weights: Weights, n_embd: int, n_layer: int, width: int) -> dict[str, Value]:
    for i, n_in in ((1, _N_MEL), (2, width)):
        weights.normal(f"a.conv1d.{i}.weight", 3, n_in, width, std=(3 * n_in) ** -0.5)
        weights.normal(f"a.conv1d.{i}.bias", 1, width)
    weights.normal("a.position_embd.weight", width, _MAX_AUDIO_POSITIONS)
    _blocks(weights, "a", n_layer, width)
    weights.norm("mm.a.norm_pre.weight", width * _STACK)
    weights.matrix("mm.a.mlp.1.weight", width * _STACK, 2 * width)
    weights.norm("mm.a.norm_mid.weight", width)
    weights.matrix("mm.a.mlp.2.weight", width, n_embd)
    return {"num_mel_bins": _N_MEL, "projector.stack_factor": _STACK}


def tiny_mmproj(
    path: str | os.PathLike[str],
    *,
    projector: str | None = "mlp",
    audio: bool = False,
    n_embd: int = 64,
    n_layer: int = 2,
    image_size: int = 32,
    patch_size: int = 8,
    seed: int = 0,
    metadata: Mapping[str, Value] | None = None,
) -> Path:
    """Write a small multimodal projector with random weights, the same file for the same arguments.

    Args:
        path: The GGUF file to write; an existing one is replaced.
        projector: Kind of image projector: mlp (a token for each patch of an image scaled to `image_size`), gemma3
            (2 x 2 patches to a token, decoded without causal attention), idefics3 (an image is cut into tiles, with
            tokens of that model's vocabulary between them) or qwen3vl_merger (any size, M-RoPE positions); None for
            no image encoder.
        audio: Add an audio encoder (ultravox): 375 tokens for each 30 seconds begun.
        n_embd: Width of the text model's input (`Model.n_embd_inp`).
        n_layer: Layers of each encoder.
        image_size: Side of the encoder's image in pixels, a multiple of `patch_size`.
        patch_size: Side of a patch in pixels.
        seed: Of the weights.
        metadata: Further keys, or other values for those that the file has.

    Returns:
        Path: The path given.

    Raises:
        InvalidArgumentError: An argument is out of range.
        UnsupportedError: The gguf package of the `test` extra is not installed.
    """
    kinds = ("mlp", "gemma3", "idefics3", "qwen3vl_merger")
    if projector is not None and projector not in kinds:
        raise InvalidArgumentError(f"projector {projector!r} is not known", hint=f"use one of {', '.join(kinds)}")
    if projector is None and not audio:
        raise InvalidArgumentError("a projector without images and without audio", hint="set projector or audio=True")
    if min(n_embd, n_layer, patch_size) < 1 or image_size < patch_size or image_size % patch_size:
        raise InvalidArgumentError(
            f"n_embd={n_embd}, n_layer={n_layer}, image_size={image_size}, patch_size={patch_size}",
            hint="all are at least 1, and image_size is a multiple of patch_size",
        )
    width = 32
    weights = Weights(seed, "f32")
    keys: dict[str, Value] = {"general.type": "mmproj", "general.name": "tiny projector", "clip.use_gelu": True}
    towers: dict[str, dict[str, Value]] = {}
    if projector is not None:
        towers["vision"] = _vision(weights, projector, n_embd, n_layer, width, image_size, patch_size)
        towers["vision"]["projector_type"] = projector
    if audio:
        towers["audio"] = _audio(weights, n_embd, n_layer, width) | {"projector_type": "ultravox"}
    for tower, own in towers.items():
        keys[f"clip.has_{tower}_encoder"] = True
        shape: dict[str, Value] = {
            "embedding_length": width,
            "attention.head_count": 2,
            "feed_forward_length": _N_FF,
            "block_count": n_layer,
            "projection_dim": n_embd,
            "attention.layer_norm_epsilon": 1e-5,
        }
        keys |= {f"clip.{tower}.{key}": value for key, value in (shape | own).items()}
    return write_gguf(path, "clip", keys | dict(metadata or {}), weights)
