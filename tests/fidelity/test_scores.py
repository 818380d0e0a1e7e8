"""Scores are those of upstream's perplexity tool, window by window and all together."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from upstream_tools import UpstreamTools

import llamacore as lc
from llamacore.engine.scoring import Scorer


def test_the_perplexity_of_each_window_is_that_of_llama_perplexity(
    llama: lc.Llama, upstream: UpstreamTools, tmp_path: Path
) -> None:
    """Upstream counts the second half of each full window; the first half is our prefix."""
    n_ctx = 128
    text = llama.generate("Once upon a time", max_tokens=5 * n_ctx, ignore_eos=True, seed=1).text.rstrip("\n")
    file = tmp_path / "text"
    file.write_text(text, encoding="utf-8")
    sizes = ("-c", str(n_ctx), "-b", str(n_ctx))
    answer = upstream.run("llama-perplexity", "-f", str(file), "--no-escape", "--no-warmup", *sizes)
    output = answer.stdout + answer.stderr
    expected = [float(value) for value in re.findall(rb"\[\d+\]([0-9.]+),", output)]
    final = re.search(rb"Final estimate: PPL = ([0-9.]+)", output)
    assert final is not None
    vocab = llama.model.vocab
    tokens, half = vocab.tokenize(text), n_ctx // 2 + 1
    losses: list[float] = []
    with Scorer(llama.model, n_ctx=n_ctx, n_threads=1) as scorer:
        for start in range(0, len(tokens) - n_ctx + 1, n_ctx):
            window = tokens[start : start + n_ctx]
            if vocab.add_bos:
                window = [vocab.bos or 0, *window[1:]]
            score = scorer.score(window[half:], prefix=window[:half])
            assert score.n_logprobs == n_ctx - half
            losses += (-score.logprobs).tolist()
            assert math.exp(np.mean(losses)) == pytest.approx(expected[start // n_ctx], rel=1e-4)
    assert len(losses) == len(expected) * (n_ctx - half)
    assert math.exp(np.mean(losses)) == pytest.approx(float(final[1]), rel=1e-4)
