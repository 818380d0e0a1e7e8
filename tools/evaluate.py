"""Perplexity and draft accuracy of a GGUF file of the demo model, computed in PyTorch from its weights.

`python -m tools.evaluate llamacore/data/llamacore-demo-q8_0.gguf`
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer

from tools.export import read_gguf
from tools.model import Model
from tools.train import Windows


@dataclass(frozen=True)
class Scores:
    """Scores on fresh text.

    Attributes:
        perplexity: Of the trunk, per token.
        accuracy: Share of tokens that the trunk's most likely one hits.
        draft_accuracy: Share of tokens that the MTP block's most likely one hits.
        draft_agreement: Share of tokens where the MTP block and the trunk say the same, which is what a greedy
            speculative decoder accepts.
        n_tokens: Tokens scored.
    """

    perplexity: float
    accuracy: float
    draft_accuracy: float
    draft_agreement: float
    n_tokens: int


@torch.no_grad()
def evaluate(model: Model, tokenizer: Tokenizer, seed: str, n_window: int = 64, window: int = 512) -> Scores:
    """Scores a model on `n_window` windows of `window` tokens of the stream of `seed`."""
    tokens = Windows(tokenizer, seed).draw(n_window, window + 1)
    loss, hit, draft_hit, agree, count = 0.0, 0, 0, 0, 0
    for rows in tokens.split(8):
        trunk, draft = model.states(rows[:, :-1])
        logits, target = model.logits(trunk), rows[:, 1:]
        loss += float(F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"))
        best, drafted = logits.argmax(-1), model.logits(draft).argmax(-1)
        hit += int((best == target).sum())
        draft_hit += int((drafted == target).sum())
        agree += int((drafted == best).sum())
        count += target.numel()
    return Scores(math.exp(loss / count), hit / count, draft_hit / count, agree / count, count)


def main() -> None:
    """Prints the scores of a file on training text and on held-out text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file")
    model, tokenizer = read_gguf(parser.parse_args().model)
    for seed in ("train-0", "held-out-0"):
        print(seed, evaluate(model, tokenizer, seed))


if __name__ == "__main__":
    main()
