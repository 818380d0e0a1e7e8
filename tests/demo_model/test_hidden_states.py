"""What a tap reads of a layer is what PyTorch computes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import distance

import llamacore as lc
from llamacore.core.control_vector import ControlVector
from llamacore.core.tap import LayerTap

TEXT = "Mood: calm\n" + "The moon rose, the water was silent, and all was peaceful. " * 12


@pytest.mark.parametrize("n_ubatch", [512, 40])
def test_layer_outputs_equal_pytorch(n_ubatch: int, demo_path: Path, f32_model: lc.Model, torch: Any) -> None:
    """At every layer and position, with an untouched stream and with a steered one."""
    from tools.export import read_gguf
    from tools.model import rotary

    model, tokenizer = read_gguf(demo_path)
    tokens = tokenizer.encode(TEXT).ids
    assert len(tokens) > 100
    steering = {2: np.random.default_rng(0).normal(size=f32_model.n_embd).astype(np.float32)}
    for directions in ({}, steering):
        theirs = []
        with torch.no_grad():
            cos, sin = rotary(model.config, len(tokens))
            stream = model.token_embd(torch.tensor([tokens]))
            for number, layer in enumerate(model.layers):
                stream = layer(stream, cos, sin, False)
                if number in directions:
                    stream = stream + torch.from_numpy(directions[number])
                theirs.append(stream[0].numpy())
        tap = LayerTap(range(f32_model.n_layer))
        with f32_model.context(
            n_ctx=512, n_ubatch=n_ubatch, n_threads=1, type_k="f32", type_v="f32", flash_attn="disabled", capture=tap
        ) as context:
            if directions:
                tap.steer(0, {ControlVector(directions): 1.0})
            batch = lc.Batch(n_tokens=len(tokens))
            batch.add_tokens(tokens, outputs="all")
            context.decode(batch)
            for number, wanted in enumerate(theirs):
                assert distance(tap.layer(number), wanted) < 1e-3
