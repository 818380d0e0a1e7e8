"""Generation through `Llama.stream` against the same work in C, and against llama-cpp-python; see docs/benchmarks.md.

python benchmarks/generate.py [--peer-python PYTHON] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Behind everything installed: the package that is measured stays the installed one.
sys.path.append(str(HERE.parent))

from rounds import Contestant, Run, median_ratio, summary, take_turns, write_prompt  # noqa: E402

import llamacore  # noqa: E402
import llamacore_sys  # noqa: E402
from build_support.cache import cache_dir  # noqa: E402
from build_support.program import Libraries, compile_program  # noqa: E402

N_VOCAB = 150_000
LEAST_RATE = {"0.04b": 0.93, "0.1b": 0.97}  # of the C loop's tokens per second
LEAST_PREFILL = 0.97
MOST_MEMORY_MIB = 60.0
MOST_IMPORT_SECONDS = 0.15


@dataclass(frozen=True)
class Requirement:
    """One figure and the limit that it is held to."""

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def held(self) -> bool:
        """Whether the figure is within its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Speed of Llama.stream against the same loop in C.")
    parser.add_argument("--size", action="append", choices=sorted(LEAST_RATE), help="model to measure; default: each")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--n-prompt", type=int, default=512, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--n-predict", type=int, default=96, help="tokens to generate (default: %(default)s)")
    parser.add_argument("--n-ctx", type=int, default=1024, help="tokens of context (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(cpus()), help="threads (default: a thread for each CPU)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the sampling (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sampling (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench", help="folder for the models")
    parser.add_argument("--peer-python", metavar="PYTHON", help="interpreter that has llama-cpp-python")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a requirement is missed")
    options = parser.parse_args(arguments)
    options.size = options.size or sorted(LEAST_RATE)
    if options.n_prompt + options.n_predict > options.n_ctx or options.n_predict < 2 or options.rounds < 1:
        parser.error("n-prompt and n-predict must fit into n-ctx, with at least 2 tokens and 1 round")
    return options


def cpus() -> list[int]:
    """CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def model_file(size: str, folder: Path) -> Path:
    """The random-weight model of a size, written if it is not there."""
    from llamacore.testing import bench_model

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{size}-{N_VOCAB}.gguf"
    return path if path.exists() else bench_model(path, size=size, n_vocab=N_VOCAB)


def measure_size(size: str, options: argparse.Namespace) -> dict[str, list[Run]]:
    """All runs of all contestants on one model."""
    model = model_file(size, options.cache)
    folder = Path(llamacore_sys.lib_dir)
    loop = compile_program("native_loop", [HERE / "native_loop.c"], Libraries(folder, llamacore_sys.UPSTREAM.commit))
    generator = random.Random(0)
    tokens = [generator.randrange(N_VOCAB - 100) for _ in range(options.n_prompt)]  # the last ones are control tokens
    with tempfile.TemporaryDirectory() as aside, ExitStack() as stack:
        prompt = write_prompt(Path(aside, "prompt"), tokens)
        given = [options.n_predict, options.n_ctx, options.threads, options.temperature, options.seed]
        arguments = [str(model), str(prompt), *map(str, given)]
        commands = {
            "native": [str(loop), str(folder), *arguments],
            "llamacore": [sys.executable, str(HERE / "stream_loop.py"), *arguments],
        }
        if options.peer_python:
            commands["peer"] = [options.peer_python, str(HERE / "peer_loop.py"), *arguments]
        contestants = [stack.enter_context(closing(Contestant(name, command))) for name, command in commands.items()]
        runs = take_turns(contestants, options.rounds)
    expected = runs["native"][0].tokens
    if len(expected) != options.n_predict or any(run.tokens != expected for run in runs["native"] + runs["llamacore"]):
        raise SystemExit("the runs did not generate the same tokens: their times cannot be compared")
    return runs


def import_seconds(statement: str, times: int = 10) -> float:
    """Median time of an import statement in a fresh interpreter."""
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(times)]
    return statistics.median(map(float, outputs))


def compare(size: str, runs: dict[str, list[Run]], n_prompt: int) -> tuple[dict[str, Any], list[Requirement]]:
    """Figures of one model, and what they are held to."""
    contestants = {name: summary(of, n_prompt) for name, of in runs.items()}
    native, ours = runs["native"], runs["llamacore"]
    rate = median_ratio([run.tokens_per_second for run in ours], [run.tokens_per_second for run in native])
    prefill = median_ratio([run.prompt_ms for run in native], [run.prompt_ms for run in ours])
    memory = contestants["llamacore"]["peak_rss_mib"] - contestants["native"]["peak_rss_mib"]
    per_token = statistics.median(
        (a.predicted_ms - b.predicted_ms) / (len(a.tokens) - 1) * 1e3 for a, b in zip(ours, native, strict=True)
    )
    figures: dict[str, Any] = {
        "contestants": contestants,
        "rate_over_native": rate,
        "best_rate_over_native": contestants["llamacore"]["tokens_per_second_best"]
        / contestants["native"]["tokens_per_second_best"],
        "prefill_over_native": prefill,
        "cpu_over_native": median_ratio([run.cpu_ms for run in ours], [run.cpu_ms for run in native]),
        "microseconds_per_token_over_native": per_token,
        "memory_over_native_mib": memory,
    }
    requirements = [
        Requirement(f"{size} generation / C loop", rate, LEAST_RATE[size], at_least=True),
        Requirement(f"{size} prefill / C loop", prefill, LEAST_PREFILL, at_least=True),
        Requirement(f"{size} memory over C loop, MiB", memory, MOST_MEMORY_MIB, at_least=False),
    ]
    if "peer" in runs:
        ahead = median_ratio([run.tokens_per_second for run in ours], [run.tokens_per_second for run in runs["peer"]])
        figures["rate_over_peer"] = ahead
        figures["peer_has_same_tokens"] = all(run.tokens == native[0].tokens[: len(run.tokens)] for run in runs["peer"])
        requirements.append(Requirement(f"{size} generation / llama-cpp-python", ahead, 1.0, at_least=True))
    return figures, requirements


def table(report: dict[str, Any], requirements: Sequence[Requirement]) -> Iterator[str]:
    """The report as lines of text."""
    how = f"{report['threads']} threads, temperature {report['temperature']:g}"
    yield f"{report['machine']}, llama.cpp {report['upstream']}, {how}"
    for size, figures in report["models"].items():
        yield ""
        yield f"{size:<10}{'tokens/s':>10}{'best':>10}{'prompt/s':>10}{'text ms':>10}{'cpu ms':>10}{'peak MiB':>10}"
        for name, row in figures["contestants"].items():
            yield f"{name:<10}" + "".join(f"{value:>10.1f}" for value in row.values())
        yield (
            f"over the C loop: {figures['microseconds_per_token_over_native']:.0f} us a token, "
            f"best / best {figures['best_rate_over_native']:.3f}, cpu {figures['cpu_over_native']:.3f}"
        )
    yield ""
    for statement, seconds in report["import_seconds"].items():
        yield f"{statement}: {seconds:.3f} s"
    yield ""
    for item in requirements:
        sign = ">=" if item.at_least else "<="
        yield f"{'held  ' if item.held else 'MISSED'}  {item.name:<36}{item.value:>9.3f} {sign} {item.limit:g}"


def main() -> int:
    """Measure and report."""
    options = parse_arguments()
    available = cpus()
    if hasattr(os, "sched_setaffinity") and options.threads < len(available):
        os.sched_setaffinity(0, available[: options.threads])  # the contestants inherit it
    statements = ("import llamacore", "from llamacore import Llama")
    imports = {statement: import_seconds(statement) for statement in statements}
    requirements = [Requirement("import llamacore, s", imports[statements[0]], MOST_IMPORT_SECONDS, at_least=False)]
    models = {}
    for size in options.size:
        models[size], more = compare(size, measure_size(size, options), options.n_prompt)
        requirements += more
    report = {
        "machine": f"{platform.machine()} {platform.system()}, {len(available)} CPUs",
        "python": platform.python_version(),
        "llamacore": llamacore.__version__,
        "upstream": " ".join(llamacore_sys.UPSTREAM),
        "threads": options.threads,
        "temperature": options.temperature,
        "rounds": options.rounds,
        "n_prompt": options.n_prompt,
        "n_predict": options.n_predict,
        "import_seconds": imports,
        "models": models,
        "requirements": [{**asdict(item), "held": item.held} for item in requirements],
    }
    print(json.dumps(report, indent=2) if options.json else "\n".join(table(report, requirements)))
    return 1 if options.check and not all(item.held for item in requirements) else 0


if __name__ == "__main__":
    sys.exit(main())
