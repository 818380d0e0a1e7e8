"""What a process finds when it loads a model and computes with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..hub import demo_model_path
from .children import Tell

SENTENCE = "Once upon a time, there was a little owl who lived in a green valley. He had a warm bed and a round table."
PROMPT = "Once upon a time"
# Of the demo model and that sentence. Kernels of other processors and GPUs round differently, by far less than that.
DEMO_PERPLEXITY, TOLERANCE = 8.2, 0.15
_MAX_TOKENS = 32


def selftest(tell: Tell, model: str, device: str, threads: str) -> dict[str, Any]:
    """Load a model onto one device, score a sentence, generate twice, embed.

    Args:
        tell: Called with what it is about to do.
        model: Path of the model.
        device: Name of the GPU that all layers go to; empty for the CPU alone.
        threads: How many to compute with; empty for one per core.

    Returns:
        The fields of `SelfTest` that were found, JSON can say them.

    Raises:
        LlamaCoreError: Loading or computing failed.
    """
    tell("opening the libraries")
    from ..llama import Llama
    from ..params import ModelParams

    where = ModelParams(devices=[device] if device else [], n_gpu_layers="all" if device else "none")
    tell("loading the model")
    n_threads = int(threads) if threads else None
    with Llama(model, n_ctx=256, n_parallel=1, n_threads=n_threads, model_params=where) as llm:
        tell("scoring a sentence")
        perplexity = llm.score(SENTENCE).perplexity
        tell("generating")
        first = llm.generate(PROMPT, max_tokens=_MAX_TOKENS, temperature=0)
        second = llm.generate(PROMPT, max_tokens=_MAX_TOKENS, temperature=0)
        tell("computing an embedding")
        vectors = llm.embed(PROMPT)
        tell("closing the model")
    return {
        "perplexity": perplexity if math.isfinite(perplexity) else None,
        "predicted_per_second": second.timings.predicted_per_second,
        "text": first.text,
        "problem": _problem(model, perplexity, (first.text, second.text), [float(x) for x in vectors.ravel()]),
    }


def _problem(model: str, perplexity: float, texts: tuple[str, str], vector: list[float]) -> str:
    """What is wrong with the results; empty for nothing."""
    if not math.isfinite(perplexity):
        return f"the perplexity of a sentence is {perplexity}"
    demo = Path(model) == demo_model_path()
    if demo and abs(perplexity / DEMO_PERPLEXITY - 1) > TOLERANCE:
        return f"the perplexity of a known sentence is {perplexity:.2f}, it should be {DEMO_PERPLEXITY}"
    if texts[0] != texts[1]:
        return f"two runs of the same prompt gave {texts[0]!r} and {texts[1]!r}"
    if demo and not texts[0].strip():
        return "no text was generated"
    if not vector or not all(map(math.isfinite, vector)) or not any(vector):
        return "the embedding of a text is not finite, or all zeros"
    return ""
