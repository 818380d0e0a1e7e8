"""Models and contexts for the tests of the owned objects: the demo model, real and small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from decoding import PROMPT

import llamacore as lc
from llamacore.core.batch import Batch
from llamacore.core.context import Context
from llamacore.core.model import Model
from llamacore.hub import demo_model_path


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The demo model, closed after the tests of a module."""
    with Model.load(demo_model_path()) as loaded:
        yield loaded


@pytest.fixture
def ctx(model: Model) -> Iterator[Context]:
    """A context that has decoded a few words: rows 0 to 3 have no logits, the last two have."""
    with model.context(n_ctx=128, n_batch=64, n_threads=1) as context:
        tokens = model.vocab.tokenize("Once upon a time there was a")[:6]
        batch = Batch(64)
        for position, token in enumerate(tokens):
            batch.add(token, pos=position, seq_ids=(0,), output=position >= 4)
        context.decode(batch)
        yield context


@pytest.fixture
def logits() -> np.ndarray:
    """Logits of 400 tokens without a model, the same each time."""
    return np.random.default_rng(3).normal(0.0, 2.0, 400).astype(np.float32)


@pytest.fixture(scope="session")
def reference(exact_path: Path) -> lc.Completion:
    """What the CPU writes after PROMPT: 32 tokens, the most likely ones."""
    with lc.Llama(exact_path, n_ctx=512, n_threads=1) as llama:
        return llama.generate(PROMPT, max_tokens=32, temperature=0)
