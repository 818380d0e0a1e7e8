"""Random LoRA adapters for a model file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import gguf
from ..errors import InvalidArgumentError
from .models import write_gguf
from .weights import Weights


def tiny_lora(
    path: str | os.PathLike[str],
    model_path: str | os.PathLike[str],
    *,
    rank: int = 4,
    alpha: float = 8.0,
    scale: float = 1.0,
    targets: Sequence[str] = ("attn_q", "attn_v", "ffn_down"),
    seed: int = 0,
) -> Path:
    """Write a LoRA adapter with random weights that fits a model.

    Args:
        path: The GGUF file to write; an existing one is replaced.
        model_path: The model it is for, which is read for its architecture and tensor shapes.
        rank: Inner size of each pair of matrices.
        alpha: The effect is multiplied by `alpha / rank`.
        scale: Standard deviation of the change to a unit output when `alpha == rank`; 1 changes the output visibly.
        targets: Kinds of tensors to change, as in `blk.<i>.<target>.weight`, in every layer that has one.
        seed: Of the weights.

    Returns:
        Path: The path given.

    Raises:
        InvalidArgumentError: The rank is below 1, or the model has no tensor of that kind.
        InvalidModelError: The model file is not sound.
        ModelNotFoundError: There is no model file.
        UnsupportedError: The gguf package of the `test` extra is not installed.
    """
    if rank < 1:
        raise InvalidArgumentError(f"rank is {rank} and must be at least 1")
    weights = Weights(seed, "f32")
    model = gguf.read(model_path)
    arch = str(model.metadata["general.architecture"])
    pairs = [
        (tensor.name, tensor.shape[0], tensor.shape[1])
        for tensor in model.tensors.values()
        if len(tensor.shape) == 2 and tensor.name.endswith(tuple(f".{target}.weight" for target in targets))
    ]
    if not pairs:
        raise InvalidArgumentError(
            f"{os.fspath(model_path)} has no tensor named {' or '.join(targets)}", hint="name other targets"
        )
    for name, n_in, n_out in pairs:
        weights.matrix(f"{name}.lora_a", n_in, rank)
        weights.matrix(f"{name}.lora_b", rank, n_out, std=scale * float(np.sqrt(1.0 / rank)))
    return write_gguf(
        path,
        arch,
        {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(alpha)},
        weights,
    )
