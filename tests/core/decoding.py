"""Batches and short decodes, for the tests."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from llamacore.core.batch import Batch
from llamacore.core.context import Context
from llamacore.core.model import Model

PROMPT = "Once upon a time"
ARCHS = ("llama", "gemma3", "qwen35", "mamba", "bert", "t5")
DECODERS = ("llama", "gemma3", "qwen35", "mamba")


def words(count: int, seed: int = 0) -> list[int]:
    """Token ids that every tiny vocabulary has."""
    return [int(token) for token in np.random.default_rng(seed).integers(5, 350, count)]


def filled(tokens: Iterable[int], pos: int = 0, seq_id: int = 0, outputs: str = "last", n_seq_max: int = 1) -> Batch:
    """A batch of one sequence."""
    tokens = list(tokens)
    batch = Batch(max(len(tokens), 1), n_seq_max=n_seq_max)
    batch.add_tokens(tokens, pos=pos, seq_id=seq_id, outputs=outputs)  # type: ignore[arg-type]
    return batch


def feed(ctx: Context, tokens: Iterable[int], pos: int | None = None, seq_id: int = 0) -> NDArray[np.float32]:
    """Decode tokens after those that the sequence has, and return the logits of the last."""
    start = ctx.memory.seq_pos_max(seq_id) + 1 if pos is None else pos
    ctx.decode(filled(tokens, pos=start, seq_id=seq_id))
    return ctx.logits()


def open_pair(path: str, **options: object) -> tuple[Model, Context]:
    """A model and a context of it."""
    model = Model.load(path)
    return model, model.context(**{"n_ctx": 256, "n_threads": 1, **options})  # type: ignore[arg-type]
