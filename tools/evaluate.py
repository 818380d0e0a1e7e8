"""Perplexity and draft accuracy of a GGUF file of the demo model, computed in PyTorch from its weights.

`python -m tools.evaluate llamacore/data/llamacore-demo-q8_0.gguf`; with `--draft FILE` how well a draft model guesses
too.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer

from tools.draft_model import DraftModel
from tools.export import read_gguf
from tools.model import Model
from tools.train import Windows

N_DRAFT = 4


@dataclass(frozen=True)
class Scores:
    """Scores on fresh text.

    Attributes:
        perplexity: Of the trunk, per token.
        accuracy: Share of tokens that the trunk's most likely one hits.
        draft_accuracy: Share of tokens that the MTP block's most likely one hits.
        draft_agreement: Share of tokens where the MTP block and the trunk say the same, which is what a greedy
            speculative decoder accepts: for each of `N_DRAFT` runs, one on the other.
        n_tokens: Tokens scored.
    """

    perplexity: float
    accuracy: float
    draft_accuracy: float
    draft_agreement: tuple[float, ...]
    n_tokens: int


@torch.no_grad()
def evaluate(model: Model, tokenizer: Tokenizer, seed: str, n_window: int = 64, window: int = 512) -> Scores:
    """Scores a model on `n_window` windows of `window` tokens of the stream of `seed`."""
    text = Windows(tokenizer, seed).draw(n_window, window + 1)
    loss, hit, draft_hit, agree, count = 0.0, 0, 0, [0] * N_DRAFT, 0
    for rows in text.split(8):
        trunk, *drafts = model.states(rows[:, :-1], n_draft=N_DRAFT)
        logits, target = model.logits(trunk), rows[:, 1:]
        loss += float(F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"))
        best, drafted = logits.argmax(-1), [model.logits(draft).argmax(-1) for draft in drafts]
        hit += int((best == target).sum())
        draft_hit += int((drafted[0] == target).sum())
        agree = [agreed + int((tokens == best).sum()) for agreed, tokens in zip(agree, drafted, strict=True)]
        count += target.numel()
    return Scores(math.exp(loss / count), hit / count, draft_hit / count, tuple(a / count for a in agree), count)


@torch.no_grad()
def agreement(
    draft: DraftModel, model: Model, tokenizer: Tokenizer, seed: str, n_window: int = 64, window: int = 512
) -> float:
    """Share of tokens where a draft model's most likely one is the model's, on the text that `evaluate` scores."""
    tokens = Windows(tokenizer, seed).draw(n_window, window)
    same = [
        draft.logits(rows).argmax(-1) == model.logits(model.states(rows, n_draft=0)[0]).argmax(-1)
        for rows in tokens.split(8)
    ]
    return float(torch.cat(same).float().mean())


def main() -> None:
    """Prints the scores of a file on training text and on held-out text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("--draft", type=Path, help="GGUF file of a draft model")
    options = parser.parse_args()
    model, tokenizer = read_gguf(options.model)
    draft = read_gguf(options.draft)[0] if options.draft else None
    for seed in ("train-0", "held-out-0"):
        print(seed, evaluate(model, tokenizer, seed))
        if draft is not None:
            print(seed, f"draft model says the same: {agreement(draft, model, tokenizer, seed):.4f}")


if __name__ == "__main__":
    main()
