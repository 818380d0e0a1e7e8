"""What a context reports of its time and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PerfData:
    """Times and counts of a context since it was made or since `perf_reset()`.

    Attributes:
        t_start_ms: When it started, on upstream's clock.
        t_load_ms: Time that loading the model took.
        t_p_eval_ms: Time spent on prompts (batches of more than one token).
        t_eval_ms: Time spent on single tokens.
        n_p_eval: Tokens of prompts.
        n_eval: Single tokens.
        n_reused: Graphs that could be reused.
    """

    t_start_ms: float
    t_load_ms: float
    t_p_eval_ms: float
    t_eval_ms: float
    n_p_eval: int
    n_eval: int
    n_reused: int


@dataclass(frozen=True)
class MemoryUse:
    """Bytes allocated in one type of buffer: by the model, by the context, and for temporary results."""

    buffer_type: str
    model: int
    context: int
    compute: int
