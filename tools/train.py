"""Training of the demo model on the CPU: AdamW, a cosine schedule, bounded by steps and by time, resumable."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.corpus import END_OF_TEXT, chat_renderer, draw_document
from tools.model import Model, ModelConfig


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained; the defaults made the bundled file.

    Attributes:
        seed: Seed of the weights and of the text.
        steps: Updates of the weights.
        minutes: Wall-clock bound: when the machine is too slow for `steps`, the schedule ends by this time.
        tokens_per_step: Tokens of one update.
        window: Tokens of one window.
        long_window: Tokens of one window in the last part, which is `long_share` of the whole.
        long_share: Share of the training with long windows.
        lr: Highest learning rate.
        warmup: Share of the training in which the rate rises.
        weight_decay: Decay of the matrices.
        clip: Highest norm of the gradient.
        mtp_weight: Weight of the MTP block's loss.
        workers: Threads that each take an equal share of the windows of a step.
    """

    seed: int = 0
    steps: int = 4000
    minutes: float = 42.0
    tokens_per_step: int = 4096
    window: int = 512
    long_window: int = 2048
    long_share: float = 0.05
    lr: float = 3e-3
    warmup: float = 0.02
    weight_decay: float = 0.1
    clip: float = 1.0
    mtp_weight: float = 0.5
    workers: int = 2


class Windows:
    """Endless training windows: whole documents one after the other, each window starting with a new one.

    Attributes:
        rng: Source of the text; its state is part of a checkpoint.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int | str) -> None:
        self.rng = random.Random(seed)
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


class Workers:
    """Copies of a model that share its weights and compute gradients of shares of a step side by side.

    On a machine that others use too, this is far quicker than threads inside each operation: those wait for each other
    thousands of times in a step, and each wait may last until the scheduler gives the other core back.
    """

    def __init__(self, model: Model, count: int) -> None:
        self._models = [model] + [Model(model.config) for _ in range(count - 1)]
        for copy in self._models[1:]:
            for own, shared in zip(copy.parameters(), model.parameters(), strict=True):
                own.data = shared.data
        self._pool = ThreadPoolExecutor(count)
        torch.set_num_threads(1)

    def backward(self, tokens: Tensor, mtp_weight: float) -> tuple[float, float]:
        """Leaves the mean gradient of all windows `[n, T + 1]` in the model; returns trunk and MTP loss."""

        def run(model: Model, share: Tensor) -> tuple[float, float]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, trunk, draft = model(share, mtp_weight)
            loss.backward()
            return float(trunk), float(draft)

        count = len(self._models)
        losses = list(self._pool.map(run, self._models, tokens.chunk(count)))
        for parts in zip(*(model.parameters() for model in self._models), strict=True):
            grads = [part.grad for part in parts]
            total = grads[0]
            for other in grads[1:]:
                total.add_(other)
            total.div_(count)
        for copy in self._models[1:]:
            copy.zero_grad()
        return sum(trunk for trunk, _ in losses) / count, sum(draft for _, draft in losses) / count


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays the matrices and leaves norms, gates and the embedding alone."""
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "token_embd" not in n and "conv" not in n]
    chosen = {id(p) for p in decayed}
    kept = [p for p in model.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)


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


def train(tokenizer: Tokenizer, shape: ModelConfig, config: TrainConfig, checkpoint: Path) -> Model:
    """Trains a model, from the checkpoint when there is one.

    Args:
        tokenizer: Tokenizer of the text.
        shape: Shape of the network.
        config: How to train.
        checkpoint: File that is written every few minutes and at the end, and read at the start when it exists.

    Returns:
        Model: The trained model in evaluation mode.
    """
    torch.manual_seed(config.seed)
    model = Model(shape)
    optimizer = make_optimizer(model, config)
    workers = Workers(model, config.workers)
    windows = Windows(tokenizer, f"train-{config.seed}")
    done, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        windows.rng.setstate(state["rng"])
        done, spent = state["step"], state["spent"]
        print(f"resumed from {checkpoint} at step {done}")
    started = time.monotonic() - spent
    saved, step = time.monotonic(), done
    for step, progress in schedule(done, started, config):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, config)
        n_tokens = config.long_window if progress > 1 - config.long_share else config.window
        tokens = windows.draw(config.tokens_per_step // n_tokens, n_tokens + 1)
        trunk, draft = workers.backward(tokens, config.mtp_weight)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        now = time.monotonic()
        if step % 20 == 0:
            print(
                f"step {step}/{config.steps} {(now - started) / 60:.1f} min, loss {trunk:.4f}, mtp {draft:.4f}, "
                f"lr {rate_at(progress, config):.2e}, {step * config.tokens_per_step / (now - started):.0f} tokens/s",
                flush=True,
            )
        if now - saved > 120:
            saved = now
            save(checkpoint, state_of(model, optimizer, windows, step, now - started))
    save(checkpoint, state_of(model, optimizer, windows, step, time.monotonic() - started))
    print(f"trained {step} steps, {step * config.tokens_per_step} tokens, {(time.monotonic() - started) / 60:.1f} min")
    return model.eval()


def schedule(step: int, started: float, config: TrainConfig) -> Iterator[tuple[int, float]]:
    """Yields the number of each next step, from 1, and how far the training is, from 0 to 1."""
    while True:
        progress = max(step / config.steps, (time.monotonic() - started) / 60 / config.minutes)
        if progress >= 1:
            return
        step += 1
        yield step, progress


def state_of(model: Model, optimizer: torch.optim.AdamW, windows: Windows, step: int, spent: float) -> dict[str, Any]:
    """What a checkpoint holds; `spent` in seconds."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": windows.rng.getstate(),
        "step": step,
        "spent": spent,
    }
