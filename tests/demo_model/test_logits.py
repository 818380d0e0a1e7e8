"""The network in PyTorch and in llama.cpp are the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Logits, distance

import llamacore as lc

GOLDEN = Path(__file__).parent / "golden.npz"
PROMPTS = {
    "story": "Once upon a time, there was a little fox named Tom who lived in the forest.",
    "chat": "<|im_start|>user\nTell me a sad story.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "tool": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>',
    "foreign": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 你好 🙂 0123456789",
    "long": "Mood: calm\n" + "The moon rose, the water was silent, and all was peaceful. " * 40,
}


@pytest.mark.parametrize("length", [5, 40, 64, 65, 150, 300])
def test_logits_equal_committed_ones(length: int, f32_model: lc.Model, native_logits: Logits) -> None:
    """llama.cpp gives the logits that PyTorch gave when the file was made."""
    golden = np.load(GOLDEN)
    logits = native_logits(f32_model, golden["tokens"][-length:].tolist())
    assert distance(logits[golden[f"rows_{length}"]], golden[f"logits_{length}"]) < 1e-3


@pytest.mark.parametrize("prompt", list(PROMPTS))
def test_logits_equal_pytorch(
    prompt: str, demo_path: Path, f32_model: lc.Model, native_logits: Logits, torch: Any
) -> None:
    """llama.cpp gives the logits that PyTorch gives now, at every position."""
    from tools.export import read_gguf

    model, tokenizer = read_gguf(demo_path)
    tokens = tokenizer.encode(PROMPTS[prompt]).ids
    assert prompt != "long" or len(tokens) > 300
    with torch.no_grad():
        theirs = model.logits(model.states(torch.tensor([tokens]))[0])[0].numpy()
    assert distance(native_logits(f32_model, tokens), theirs) < 1e-3


def test_quantized_model_is_close(demo: lc.Model, f32_model: lc.Model, native_logits: Logits) -> None:
    """Computing in 8 bits changes the logits by a few percent at most and hardly ever the most likely token."""
    tokens = demo.vocab.tokenize(PROMPTS["long"], parse_special=True)
    quantized, exact = native_logits(demo, tokens), native_logits(f32_model, tokens)
    assert distance(quantized, exact) < 0.05
    assert np.mean(quantized.argmax(-1) == exact.argmax(-1)) > 0.95
