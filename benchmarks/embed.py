"""Embeddings of many short texts against the best rate of upstream's `llama-bench -embd 1`; see docs/embeddings.md.

python benchmarks/embed.py [--model bert|decoder] [--rounds N] [--json] [--check]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Behind everything installed: the package that is measured stays the installed one.
sys.path.append(str(HERE.parent))

from generate import Requirement  # noqa: E402
from rounds import SETTLE_SECONDS  # noqa: E402

import llamacore  # noqa: E402
import llamacore_sys  # noqa: E402
from build_support.cache import cache_dir  # noqa: E402
from build_support.program import Libraries, compile_program, upstream_source  # noqa: E402

LEAST_RATE = 0.85  # of the best rate of llama-bench
MOST_DIFFERENCE = 1e-4  # of the cosine from 1, packed against one at a time
PROMPT_LENGTHS = (32, 64, 128, 256, 512)  # of llama-bench
# 22 and 58 million parameters; f16, because quantised weights round the activations too, which makes small errors large
MODELS: dict[str, dict[str, Any]] = {
    "bert": {
        "arch": "bert", "n_layer": 6, "n_embd": 384, "n_head": 12, "n_ff": 1536, "n_vocab": 30_000, "n_ctx_train": 512,
    },
    "decoder": {
        "arch": "llama", "n_layer": 10, "n_embd": 512, "n_head": 8, "n_head_kv": 2, "n_ff": 1536, "n_vocab": 32_000,
        "n_ctx_train": 4096,
    },
}  # fmt: skip


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description="Rate of packed embeddings against llama-bench.")
    parser.add_argument("--model", action="append", choices=sorted(MODELS), help="model to measure; default: each")
    parser.add_argument("--dtype", default="f16", help="of the weights (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=1000, help="number of texts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--n-batch", type=int, help="tokens that share a decode (default: the package's own)")
    parser.add_argument("--threads", type=int, default=cpus, help="threads (default: a thread for each CPU)")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench", help="folder for the models")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a requirement is missed")
    options = parser.parse_args(arguments)
    options.model = options.model or sorted(MODELS)
    return options


def model_file(name: str, dtype: str, folder: Path) -> Path:
    """The random-weight model of a name, written if it is not there."""
    from llamacore.testing import tiny_model

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"embed-{name}-{dtype}.gguf"
    return path if path.exists() else tiny_model(path, dtype=dtype, **MODELS[name])


def compile_llama_bench() -> Path:
    """Upstream's tool, linked with the libraries that are measured."""
    libraries = Libraries(Path(llamacore_sys.lib_dir), llamacore_sys.UPSTREAM.commit)
    folder = upstream_source(libraries) / "tools" / "llama-bench"
    return compile_program("llama-bench", [folder / "llama-bench.cpp", folder / "main.cpp"], libraries)


def llama_bench(program: Path, model: Path, threads: int) -> dict[int, float]:
    """Tokens per second of each prompt length."""
    lengths = ",".join(map(str, PROMPT_LENGTHS))
    command = [str(program), "-m", str(model), "-embd", "1", "-n", "0", "-p", lengths, "-t", str(threads), "-o", "json"]
    time.sleep(SETTLE_SECONDS)
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=llamacore_sys.lib_dir  # where it looks for back ends
    )  # fmt: skip
    if result.returncode != 0:
        raise SystemExit(f"llama-bench failed:\n{result.stderr[-2000:]}")
    return {int(row["n_prompt"]): float(row["avg_ts"]) for row in json.loads(result.stdout)}


class Ours:
    """A process that has loaded the model and embeds the texts when told to."""

    def __init__(self, model: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, str(HERE / "embed_loop.py"), str(model), str(options.texts), str(options.threads)]
        command.append(str(options.n_batch or 0))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask(None)

    def ask(self, what: str | None) -> dict[str, Any]:
        """Say what to do ("run" or "compare"; None waits until it is ready) and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if what is not None:
            time.sleep(SETTLE_SECONDS)
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"embed_loop.py ended early with status {self._process.wait()}; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(name: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[Requirement]]:
    """Figures of one model, and what they are held to."""
    program, model = compile_llama_bench(), model_file(name, options.dtype, options.cache)
    ours = Ours(model, options)
    try:
        ours.ask("run")  # thrown away
        theirs, runs = [], []
        for number in range(options.rounds):
            for ask_ours in (True, False) if number % 2 else (False, True):
                if ask_ours:
                    runs.append(ours.ask("run"))
                else:
                    theirs.append(llama_bench(program, model, options.threads))
        compared = ours.ask("compare")
    finally:
        ours.close()
    rates = [run["tokens"] / run["seconds"] for run in runs]
    best = [max(rows.values()) for rows in theirs]
    ratio = statistics.median(rate / rate_of_best for rate, rate_of_best in zip(rates, best, strict=True))
    figures = {
        "tokens": runs[0]["tokens"],
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_best": max(rates),
        "tokenizing_share": statistics.median(run["tokenizing_seconds"] / run["seconds"] for run in runs),
        "llama_bench": {length: statistics.median(rows[length] for rows in theirs) for length in PROMPT_LENGTHS},
        "rate_over_llama_bench": ratio,
        "best_rate_over_best": max(rates) / max(best),
        "rate_over_one_at_a_time": statistics.median(rates) / (compared["tokens"] / compared["seconds"]),
        "largest_difference": compared["difference"],
    }
    return figures, [
        Requirement(f"{name} rate / llama-bench", ratio, LEAST_RATE, at_least=True),
        Requirement(f"{name} 1 - cosine, packed / alone", compared["difference"], MOST_DIFFERENCE, at_least=False),
    ]


def table(report: dict[str, Any], requirements: Sequence[Requirement]) -> Iterator[str]:
    """The report as lines of text."""
    yield f"{report['machine']}, llama.cpp {report['upstream']}, {report['threads']} threads, {report['dtype']}"
    for name, figures in report["models"].items():
        yield ""
        yield f"{name}: {report['texts']} texts, {figures['tokens']} tokens"
        best = figures["tokens_per_second_best"]
        yield f"  llamacore     {figures['tokens_per_second']:>8.0f} tokens/s, best {best:.0f}"
        yield f"  one at a time {figures['tokens_per_second'] / figures['rate_over_one_at_a_time']:>8.0f} tokens/s"
        for length, rate in figures["llama_bench"].items():
            yield f"  llama-bench   {rate:>8.0f} tokens/s at {length}"
        yield f"  best / best {figures['best_rate_over_best']:.3f}, tokenizing {figures['tokenizing_share']:.2%}"
    yield ""
    for item in requirements:
        sign = ">=" if item.at_least else "<="
        yield f"{'held  ' if item.held else 'MISSED'}  {item.name:<36}{item.value:>10.2g} {sign} {item.limit:g}"


def main() -> int:
    """Measure and report."""
    options = parse_arguments()
    models, requirements = {}, []
    for name in options.model:
        models[name], more = measure(name, options)
        requirements += more
    report = {
        "machine": f"{platform.machine()} {platform.system()}",
        "python": platform.python_version(),
        "llamacore": llamacore.__version__,
        "upstream": " ".join(llamacore_sys.UPSTREAM),
        "threads": options.threads,
        "dtype": options.dtype,
        "texts": options.texts,
        "rounds": options.rounds,
        "models": models,
        "requirements": [{**asdict(item), "held": item.held} for item in requirements],
    }
    print(json.dumps(report, indent=2) if options.json else "\n".join(table(report, requirements)))
    return 1 if options.check and not all(item.held for item in requirements) else 0


if __name__ == "__main__":
    sys.exit(main())
