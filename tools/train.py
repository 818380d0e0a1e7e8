"""Training of the models on the CPU: Muon and AdamW, a cosine schedule, bounded by steps, resumable."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tools.conversations import CITIES
from tools.corpus import END_OF_TEXT, chat_renderer, draw_document
from tools.stories import ANIMALS, COLOURS, HE_NAMES, MEN, MOODS, PEOPLE, SHE_NAMES, THINGS, WOMEN

Network = TypeVar("Network", bound=nn.Module)
"""A network that gives the training losses of a window when it is called, as `tools.model.Model` does."""


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained; the defaults made the bundled file.

    Attributes:
        seed: Seed of the weights and of the text.
        steps: Updates of the weights. Nothing depends on the clock: the same seed gives the same model.
        tokens_per_step: Tokens of one update.
        window: Tokens of one window.
        long_window: Tokens of one window in the last part, which is `long_share` of the whole.
        long_share: Share of the training with long windows.
        opening: Share of the training, at its start, that only teaches to look back: random ids that come twice, and
            short sentences that say the same few names again and again.
        recall_end: Progress up to which tokens that take a look back count more than others.
        mtp_start: Progress from which the MTP block is trained.
        lr: Highest learning rate.
        warmup: Share of the training in which the rate rises.
        weight_decay: Decay of the matrices.
        mtp_weight: Weight of the MTP block's loss.
        workers: Threads that each take an equal share of the windows of a step.
    """

    seed: int = 0
    steps: int = 2700
    tokens_per_step: int = 4096
    window: int = 512
    long_window: int = 2048
    long_share: float = 0.05
    opening: float = 0.1
    recall_end: float = 0.75
    mtp_start: float = 0.6
    lr: float = 2e-3
    warmup: float = 0.01
    weight_decay: float = 0.1
    mtp_weight: float = 0.5
    workers: int = 2


def drawn_words() -> list[str]:
    """The words that the generator draws without regard to what was said before."""
    return [*HE_NAMES, *SHE_NAMES, *ANIMALS, *PEOPLE, *MEN, *WOMEN, *COLOURS, *THINGS, *CITIES, *MOODS]


class Windows:
    """Endless training windows: whole documents one after the other, each window starting with a new one.

    Attributes:
        rng: Source of the text; its state is part of a checkpoint.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int | str) -> None:
        self.rng = random.Random(seed)
        spellings = [before + word for word in drawn_words() for before in ("", " ")]
        encoded = [tokenizer.encode(spelling).ids for spelling in spellings]
        self._drawn = {ids[0] for ids in encoded if len(ids) == 1}
        self._renderer = chat_renderer()
        self._tokenizer = tokenizer

    def draw(self, n_window: int, n_tokens: int, kind: str | None = None) -> Tensor:
        """Draws `n_window` windows of `n_tokens` ids each, int64 `[n_window, n_tokens]`, of documents of `kind`."""
        rows = []
        for _ in range(n_window):
            row: list[int] = []
            while len(row) < n_tokens:
                text = draw_document(self.rng, self._renderer, kind)[1] + END_OF_TEXT
                row += self._tokenizer.encode(text).ids
            rows.append(row[:n_tokens])
        return torch.tensor(rows)

    def draw_weighted(self, n_window: int, n_tokens: int, kind: str | None = None) -> tuple[Tensor, Tensor]:
        """Draws windows as `draw` does, and how much each token counts.

        A name, an animal or a colour that the document has not said before cannot be known and counts nothing; one that
        it has said counts four times, because knowing it takes a look back.
        """
        tokens = self.draw(n_window, n_tokens, kind)
        end = self._tokenizer.token_to_id(END_OF_TEXT)
        weight = torch.ones(tokens.shape)
        for row, line in enumerate(tokens.tolist()):
            said: set[int] = set()
            for column, token in enumerate(line):
                if token == end:
                    said.clear()
                elif token in self._drawn:
                    weight[row, column] = 4.0 if token in said else 0.0
                    said.add(token)
        return tokens, weight

    def draw_copies(self, n_window: int, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Draws windows of random ids, each run of them twice, and which ids belong to a second run.

        Everything else in such a window cannot be known. In real text, what must be copied is a small part of the loss,
        and a small network takes millions of tokens to find out how.
        """
        end = self._tokenizer.token_to_id(END_OF_TEXT)
        few = range(256, 256 + 128)
        rows, known = [], []
        for _ in range(n_window):
            row: list[int] = []
            second: list[bool] = []
            while len(row) < n_tokens:
                run = [self.rng.choice(few) for _ in range(self.rng.randrange(2, 24))]
                row += [*run, end, *run, end]
                second += [False] * (len(run) + 1) + [True] * (len(run) + 1)
            rows.append(row[:n_tokens])
            known.append(second[:n_tokens])
        return torch.tensor(rows), torch.tensor(known).float()


class Workers:
    """Copies of a model that share its weights and compute gradients of shares of a step side by side.

    On a machine that others use too, this is far quicker than threads inside each operation: those wait for each other
    thousands of times in a step, and each wait may last until the scheduler gives the other core back.
    """

    def __init__(self, model: nn.Module, copies: list[nn.Module]) -> None:
        self._models = [model, *copies]
        for copy in self._models[1:]:
            for own, shared in zip(copy.parameters(), model.parameters(), strict=True):
                own.data = shared.data
        self._pool = ThreadPoolExecutor(len(self._models))
        torch.set_num_threads(1)

    def backward(self, tokens: Tensor, weight: Tensor, mtp_weight: float) -> tuple[float, float]:
        """Leaves the mean gradient of all windows `[n, T + 1]` in the model; returns the two losses to report."""

        def run(model: nn.Module, share: Tensor, counted: Tensor) -> tuple[float, float]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, trunk, draft = model(share, mtp_weight, counted)
            loss.backward()
            return float(trunk), float(draft)

        count = len(self._models)
        losses = list(self._pool.map(run, self._models, tokens.chunk(count), weight.chunk(count)))
        for parts in zip(*(model.parameters() for model in self._models), strict=True):
            grads = [part.grad for part in parts if part.grad is not None]
            if not grads:
                continue
            total = grads[0]
            for other in grads[1:]:
                total.add_(other)
            total.div_(count)
        for copy in self._models[1:]:
            copy.zero_grad()
        torch.nn.utils.clip_grad_norm_(self._models[0].parameters(), 1.0)
        return sum(trunk for trunk, _ in losses) / count, sum(draft for _, draft in losses) / count

    def update(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Lets each optimizer step in a thread of its own."""
        list(self._pool.map(lambda optimizer: optimizer.step(), optimizers))
        for optimizer in optimizers:
            optimizer.zero_grad()


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, in as many parts as there are workers; AdamW without decay for all else."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and min(p.shape) >= 32 and "token_embd" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices[part :: config.workers],
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        for part in range(config.workers)
    ]
    return [*optimizers, torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def rate_at(progress: float, config: TrainConfig) -> float:
    """Learning rate at `progress` between 0 and 1: linear rise, then a cosine down to a hundredth."""
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    fall = (progress - config.warmup) / (1 - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fall)))


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint aside and renames it."""
    aside = path.with_name(path.name + ".part")
    torch.save(state, aside)
    os.replace(aside, path)


def train(tokenizer: Tokenizer, build: Callable[[], Network], config: TrainConfig, checkpoint: Path) -> Network:
    """Trains a model, from the checkpoint when there is one.

    Args:
        tokenizer: Tokenizer of the text.
        build: Makes the network with fresh weights.
        config: How to train.
        checkpoint: File that is written every few minutes and at the end, and read at the start when it exists.

    Returns:
        Network: The trained model in evaluation mode.
    """
    torch.manual_seed(config.seed)
    model = build()
    optimizers = make_optimizers(model, config)
    workers = Workers(model, [build() for _ in range(config.workers - 1)])
    windows = Windows(tokenizer, f"train-{config.seed}")
    done, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_state)
        windows.rng.setstate(state["rng"])
        done, spent = state["step"], state["spent"]
        print(f"resumed from {checkpoint} at step {done}")
    started = time.monotonic() - spent
    saved, step = time.monotonic(), done
    for step in range(done + 1, config.steps + 1):
        progress = (step - 1) / config.steps
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(progress, config)
        n_tokens = config.long_window if progress > 1 - config.long_share else config.window
        n_window = config.tokens_per_step // n_tokens
        if progress < config.opening and step % 2:
            tokens, weight = windows.draw_copies(2 * n_window, n_tokens // 2 + 1)
        elif progress < config.opening:
            tokens, weight = windows.draw_weighted(2 * n_window, n_tokens // 2 + 1, "who_did_what")
        elif progress < config.recall_end:
            tokens, weight = windows.draw_weighted(n_window, n_tokens + 1)
        else:
            tokens = windows.draw(n_window, n_tokens + 1)
            weight = torch.ones(tokens.shape)
        mtp_weight = config.mtp_weight if progress >= config.mtp_start else 0.0
        trunk, draft = workers.backward(tokens, weight, mtp_weight)
        workers.update(optimizers)
        now = time.monotonic()
        if step % 20 == 0:
            print(
                f"step {step}/{config.steps} {(now - started) / 60:.1f} min, loss {trunk:.4f}, draft {draft:.4f}, "
                f"lr {rate_at(progress, config):.2e}, {step * config.tokens_per_step / (now - started):.0f} tokens/s",
                flush=True,
            )
        if now - saved > 120:
            saved = now
            save(checkpoint, state_of(model, optimizers, windows, step, now - started))
    save(checkpoint, state_of(model, optimizers, windows, step, time.monotonic() - started))
    print(f"trained {step} steps, {step * config.tokens_per_step} tokens, {(time.monotonic() - started) / 60:.1f} min")
    return model.eval()


def state_of(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], windows: Windows, step: int, spent: float
) -> dict[str, Any]:
    """What a checkpoint holds; `spent` in seconds."""
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rng": windows.rng.getstate(),
        "step": step,
        "spent": spent,
    }
