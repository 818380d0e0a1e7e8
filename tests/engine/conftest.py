"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llamacore as lc

MakeEngine = Callable[..., lc.Engine]
MakeLlama = Callable[..., lc.Llama]


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """A function that makes an engine on a model, closed after the test; `params` are those of `EngineParams`."""
    made: list[lc.Engine] = []

    def make(model: lc.Model, *, n_ctx: int = 512, n_parallel: int = 4, **options: Any) -> lc.Engine:
        names = {"max_queue", "cache_bytes", "cache_dir", "cache_dir_bytes", "on_event"}
        params = lc.EngineParams(**{name: options.pop(name) for name in names & options.keys()})
        settings = {
            "n_ctx": n_ctx,
            "n_seq_max": n_parallel,
            "n_outputs_max": n_parallel,
            "kv_unified": True,
            "n_threads": 1,
            "flash_attn": "disabled",
        }
        made.append(lc.Engine(model.context(**{**settings, **options}), params))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def make_llama() -> Iterator[MakeLlama]:
    """A function that makes a `Llama`; after the test no drafting may have failed, and all are closed."""
    made: list[lc.Llama] = []

    def llama(model: Path | lc.Model, speculative: Any = None, *, n_ctx: int = 2048, **options: Any) -> lc.Llama:
        made.append(
            lc.Llama(model, n_ctx=n_ctx, n_threads=1, flash_attn="disabled", speculative=speculative, **options)
        )
        return made[-1]

    yield llama
    try:
        for one in made:
            stats = None if one.closed else one.engine.stats().speculation
            assert stats is None or stats.failure is None
    finally:
        for one in made:
            one.close()


def greedy(**options: Any) -> lc.SamplingParams:
    """The most likely token, always."""
    return lc.SamplingParams(temperature=0.0, **options)


def ask(prompt: list[int], max_tokens: int | None = 8, *, sampling: lc.SamplingParams | None = None, **options: Any):
    """A greedy request."""
    return lc.Request(prompt, sampling or greedy(), lc.GenerationParams(max_tokens=max_tokens, **options))


def by_hand(model: lc.Model, prompt: list[int], n: int) -> list[int]:
    """Greedy tokens by the primitives, on a context of its own; goes on after an end."""
    with model.context(n_ctx=512, n_threads=1, flash_attn="disabled") as context, lc.Sampler.greedy() as sampler:
        batch = lc.Batch(512)
        batch.add_tokens(prompt)
        context.decode(batch)
        tokens = []
        for position in range(len(prompt), len(prompt) + n):
            tokens.append(sampler.sample(context, -1))
            batch.clear()
            batch.add(tokens[-1], position, output=True)
            context.decode(batch)
        return tokens
