"""What reading and steering layers costs beside a context without a tap; see docs/benchmarks.md.

python benchmarks/capture.py [--json] [--check] [--rounds N] [--size SIZE] [--threads N]

On a busy machine take `--threads 1` and look at the CPU time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # behind everything installed: the package that is measured stays the installed one

import numpy as np  # noqa: E402
from generate import N_VOCAB, cpus, model_file  # noqa: E402

import llamacore as lc  # noqa: E402
from build_support.cache import cache_dir  # noqa: E402
from llamacore.core.control_vector import ControlVector  # noqa: E402
from llamacore.core.tap import LayerTap  # noqa: E402

SETTLE_SECONDS = 0.4  # compute threads spin for a while after their last work
MOST_COST = {"off": 0.02, "two layers read": 0.10, "two layers steered": 0.10}  # of the time of a token
N_PROMPT, N_PREDICT, N_CTX = 256, 64, 512


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Cost of a tap.")
    parser.add_argument("--size", default="0.1b", help="model with random weights (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each context (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(cpus()), help="threads (default: a thread for each CPU)")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench", help="folder for the models")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="fail when it costs more than promised")
    return parser.parse_args()


class Contestant:
    """A context that decodes the same tokens each time.

    Args:
        model: The model.
        tap: Its tap, None for a context without.
        set_up: Switches the tap.
        layers: Layers that are read after each token.
    """

    def __init__(
        self, model: lc.Model, threads: int, tap: LayerTap | None, set_up: Callable[[LayerTap], None], layers: list[int]
    ) -> None:
        self.ctx = model.context(n_ctx=N_CTX, n_batch=N_PROMPT, n_threads=threads, capture=tap)
        self._tap, self._layers = tap, layers
        if tap is not None:
            set_up(tap)
        generator = random.Random(0)
        self._tokens = [generator.randrange(N_VOCAB - 100) for _ in range(N_PROMPT + N_PREDICT)]
        self._prompt = lc.Batch(N_PROMPT)
        self._prompt.add_tokens(self._tokens[:N_PROMPT])

    def run(self) -> tuple[float, float, float]:
        """Milliseconds of a prompt token and of a generated one, and CPU time of the latter; tokens are not used."""
        time.sleep(SETTLE_SECONDS)
        self.ctx.memory.clear()
        started = time.perf_counter()
        self.ctx.decode(self._prompt)
        self.ctx.logits(-1)
        prompted, busy = time.perf_counter(), time.process_time()
        batch = lc.Batch(1)
        for number in range(N_PREDICT):
            batch.clear()
            batch.add(self._tokens[N_PROMPT + number], N_PROMPT + number, output=True)
            self.ctx.decode(batch)
            self.ctx.logits(-1).argmax()
            for layer in self._layers:
                assert self._tap is not None and len(self._tap.layer(layer)) == 1
        ended, done = time.perf_counter(), time.process_time()
        return (
            (prompted - started) * 1e3 / N_PROMPT,
            (ended - prompted) * 1e3 / N_PREDICT,
            (done - busy) * 1e3 / N_PREDICT,
        )


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of each contestant, and the medians of their ratios to the one without a tap in the same round."""
    with lc.Model.load(model_file(options.size, options.cache)) as model, ExitStack() as stack:
        layers = [model.n_layer // 3, 2 * model.n_layer // 3]
        rng = np.random.default_rng(0)
        vector = ControlVector({layer: rng.normal(size=model.n_embd) * 0.01 for layer in layers})
        kinds: dict[str, tuple[LayerTap | None, Callable[[LayerTap], None], list[int]]] = {
            "no tap": (None, lambda tap: None, []),
            "off": (LayerTap(), lambda tap: None, []),
            "two layers read": (LayerTap(), lambda tap: tap.capture(layers), layers),
            "two layers steered": (LayerTap(), lambda tap: tap.steer(0, {vector: 1}), []),
            "all layers read": (LayerTap(), lambda tap: tap.capture(range(model.n_layer)), list(range(model.n_layer))),
        }
        contestants = {name: Contestant(model, options.threads, *kind) for name, kind in kinds.items()}
        for contestant in contestants.values():
            stack.callback(contestant.ctx.close)
            contestant.run()
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contestants}
        for number in range(options.rounds):
            names = list(contestants)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                runs[name].append(contestants[name].run())
    report = {}
    for name, found in runs.items():
        ratios = [
            [mine[part] / theirs[part] - 1 for mine, theirs in zip(found, runs["no tap"], strict=True)]
            for part in range(3)
        ]
        report[name] = {
            "prompt_ms": statistics.median(run[0] for run in found),
            "token_ms": statistics.median(run[1] for run in found),
            "token_cpu_ms": statistics.median(run[2] for run in found),
            "prompt_cost": statistics.median(ratios[0]),
            "token_cost": statistics.median(ratios[1]),
            "token_cpu_cost": statistics.median(ratios[2]),
        }
    return report


def main() -> None:
    """Measure and report."""
    options = parse_arguments()
    report = measure(options)
    if options.json:
        print(json.dumps({"size": options.size, "threads": options.threads, **report}))
    else:
        for name, found in report.items():
            print(
                f"{name:18}  prompt {found['prompt_ms']:7.3f} ms a token ({found['prompt_cost']:+.1%})  "
                f"generation {found['token_ms']:7.3f} ms ({found['token_cost']:+.1%}), "
                f"CPU {found['token_cpu_ms']:7.3f} ms ({found['token_cpu_cost']:+.1%})"
            )
    wrong = [
        f"{name}: {report[name]['token_cost']:.1%}"
        for name, most in MOST_COST.items()
        if report[name]["token_cost"] > most
    ]
    if options.check and wrong:
        raise SystemExit("more than promised: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
