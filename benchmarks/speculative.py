"""Speculative decoding against upstream's llama-speculative-simple, and what it gains; see docs/benchmarks.md.

python benchmarks/speculative.py [--json] [--check] [--rounds N] [--part upstream|gains|costs]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # behind everything installed: the package that is measured stays the installed one

import upstream_speculative  # noqa: E402
from generate import N_VOCAB, Requirement, cpus, model_file  # noqa: E402

import llamacore_sys  # noqa: E402
from build_support.cache import cache_dir  # noqa: E402
from llamacore import quantize  # noqa: E402
from llamacore.hub import demo_draft_path, demo_model_path  # noqa: E402
from llamacore.testing import bench_model  # noqa: E402
from llamacore.testing.vocabularies import WORDS  # noqa: E402

PARTS = ("upstream", "gains", "costs")
RATES = ((0.8, 0.6, 0.45), (0.5, 0.25, 0.1))  # of each drafted token to be accepted, whatever the model says
LEAST_RATE = 0.95  # of the example's tokens per second
MOST_ASTRAY = 4  # standard errors of the mean tokens per step from what the rates mean; more is no chance
N_CTX = 2048
STREAMS = (1, 8)
BENCH = {  # size, type and vocabulary of models with random weights: flat with a large head, deep with a small one
    f"{shape} {dtype.upper()}": (size, dtype, n_vocab)
    for shape, size, n_vocab in (("flat", "0.1b-mtp", N_VOCAB), ("deep", "0.16b-mtp", 8192))
    for dtype in ("q8_0", "q4_0")
}
ASK, ANSWER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
STORIES = [
    f"{ASK}Tell me {mood} story about a {animal}.{ANSWER}"
    for mood in ("a happy", "a sad", "an angry", "a calm")
    for animal in ("fox", "goat", "robot", "dragon")
]
SETTLE_SECONDS = 0.5  # compute threads spin for a while after their last work


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Speed of speculative decoding.")
    parser.add_argument("--part", action="append", choices=PARTS, help="what to measure; default: all")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--n-predict", type=int, default=512, help="tokens beside upstream (default: %(default)s)")
    parser.add_argument("--streams", type=int, action="append", help="texts at a time for gains (default: 1 and 8)")
    parser.add_argument("--threads", type=int, default=len(cpus()), help="threads (default: a thread for each CPU)")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench", help="folder for the models")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of tables")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a requirement is missed")
    options = parser.parse_args()
    options.part = options.part or list(PARTS)
    options.streams = options.streams or list(STREAMS)
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.rounds < 1 or not 16 <= options.n_predict <= N_CTX - 256:
        parser.error(f"at least 1 round, and 16 to {N_CTX - 256} tokens")
    return options


@contextmanager
def child(settings: Mapping[str, Any]) -> Iterator[Any]:
    """A process with a `Llama`; yields a function that has it write texts."""
    command = [sys.executable, str(HERE / "speculative_loop.py"), json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        source, target = process.stdout, process.stdin

        def answer() -> str:
            line = source.readline()
            if not line:
                raise SystemExit("llamacore ended early; its error is above")
            return line

        assert answer().strip() == "ready"

        def ask(question: Mapping[str, Any]) -> Any:
            time.sleep(SETTLE_SECONDS)
            target.write(json.dumps(question) + "\n")
            target.flush()
            return json.loads(answer())

        yield ask
        target.close()


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Everyone once, begun by the next one each turn."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def beside_upstream(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """MTP and a draft model at given rates of acceptance, in `Llama` and in upstream's example."""
    program = upstream_speculative.build()
    drafter = model_file("0.02b", options.cache)
    methods: dict[str, tuple[Path, dict[str, Any], list[str]]] = {
        "MTP": (bench_file("flat Q8_0", options), {"method": "Mtp"}, ["--spec-type", "draft-mtp"]),
        "draft model": (
            model_file("0.1b", options.cache),
            {"method": "DraftModel", "model": str(drafter)},
            ["--spec-type", "draft-simple", "-md", str(drafter)],
        ),
    }
    prompt = " ".join(WORDS)
    return {
        f"{name} {rates[0]:g}": beside_example(program, model, ours, theirs, prompt, rates, options)
        for name, (model, ours, theirs) in methods.items()
        for rates in RATES
    }


def beside_example(
    program: Path,
    model: Path,
    method: Mapping[str, Any],
    switches: Sequence[str],
    prompt: str,
    rates: Sequence[float],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Figures of one method at one set of rates.

    How many tokens are accepted is chance. So rates are compared for the mean that the given rates of acceptance mean:
    decodes per second, of a draft and its verification each, times that mean.
    """
    n_max, per_step = len(rates), 1 + sum(rates)
    speculative = {**method, "n_max": n_max, "synthetic_rates": list(rates), "adaptive": False}
    settings = {
        "model": str(model), "n_ctx": N_CTX, "n_parallel": 1, "n_threads": options.threads, "speculative": speculative,
    }  # fmt: skip
    asked = {"prompts": [prompt], "n_streams": 1, "n_predict": options.n_predict, "ignore_eos": True}
    greedy = ["--samplers", "top_k", "--top-k", "1", "--temp", "0"]
    arguments = ["-m", str(model), "-p", prompt, "-n", str(options.n_predict), "-c", str(N_CTX)]
    arguments += ["-t", str(options.threads), "--spec-draft-n-max", str(n_max), *switches, *greedy]
    found: dict[str, list[tuple[int, int, float]]] = {"ours": [], "theirs": []}  # tokens, steps and seconds
    with child(settings) as ask:
        for turn in range(options.rounds):
            for name in rotated(("ours", "theirs"), turn):
                if name == "ours":
                    run = ask(asked)
                    # the first token and one step are the prompt's
                    tokens, steps = len(run["tokens"][0]) - 1, run["steps"] - 1
                    found[name].append((tokens, steps, run["predicted_seconds"]))
                else:
                    time.sleep(SETTLE_SECONDS)
                    drafted = upstream_speculative.run(program, [*arguments, "-s", str(turn)], rates)
                    steps = drafted.n_tokens - drafted.n_accepted
                    found[name].append((drafted.n_tokens, steps, drafted.seconds))
    figures: dict[str, float] = {"tokens per step meant": per_step}
    for name, runs in found.items():
        n_steps = sum(run[1] for run in runs)
        taken = figures[f"{name}, tokens per step"] = sum(run[0] for run in runs) / n_steps
        figures[f"{name}, tokens/s"] = sum(run[0] for run in runs) / sum(run[2] for run in runs)
        figures[f"{name}, tokens/s at the mean"] = statistics.median(run[1] / run[2] for run in runs) * per_step
        if abs(taken - per_step) > MOST_ASTRAY * (n_max / 2) / n_steps**0.5:  # n_max / 2: the widest that it can spread
            raise SystemExit(f"{name}: {taken:.2f} tokens a step where the rates mean {per_step:.2f}")
    figures["ratio as it came"] = figures["ours, tokens/s"] / figures["theirs, tokens/s"]
    figures["ratio"] = statistics.median(
        (ours[1] / ours[2]) / (theirs[1] / theirs[2])
        for ours, theirs in zip(found["ours"], found["theirs"], strict=True)
    )
    return figures


def bench_file(name: str, options: argparse.Namespace) -> Path:
    """One of the random-weight models of `BENCH`, written if it is not there."""
    size, dtype, n_vocab = BENCH[name]
    path: Path = options.cache / f"bench-{size}-{n_vocab}-{dtype}.gguf"
    return path if path.exists() else bench_model(path, size=size, n_vocab=n_vocab, dtype=dtype)


def demo_files(options: argparse.Namespace) -> dict[str, Path]:
    """The demo model in each type."""
    files = {"Q8_0": demo_model_path()}
    for kind in ("Q4_0", "F16", "BF16"):
        files[kind] = options.cache / f"demo-{kind}.gguf"
        files[kind].unlink(missing_ok=True)
        quantize(demo_model_path(), files[kind], kind, allow_requantize=True)
    return files


def gains(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Every method over plain decoding: stories of the demo model, and larger models with made-up acceptance."""
    mtp: dict[str, Any] = {"method": "Mtp", "adaptive": False}
    drafter = {"method": "DraftModel", "model": str(demo_draft_path()), "n_max": 3, "adaptive": False}
    demo_methods: dict[str, Any] = {
        "plain": None,
        **{f"MTP, {n}": {**mtp, "n_max": n} for n in (2, 3, 4)},
        "draft model, 3": drafter,
        "n-grams, 4": {"method": "Ngram", "type": "ngram-simple", "size_n": 3, "n_max": 4, "adaptive": False},
        "auto": "auto",
    }
    given = {f"MTP, 3, {rates[0]:g}": {**mtp, "n_max": 3, "synthetic_rates": list(rates)} for rates in RATES}
    bench_methods = {"plain": None, **given}
    stories = {"prompts": STORIES, "n_predict": 160, "ignore_eos": False}
    words = {"prompts": [" ".join(WORDS)] * 8, "n_predict": 64, "ignore_eos": True}
    found = {}
    for n_streams in options.streams:
        asked = {"n_streams": n_streams}
        for kind, path in demo_files(options).items():
            runs = methods_in_turn(path, demo_methods, {**stories, **asked}, options)
            found[f"demo {kind}, {n_streams}"] = {name: gain(rows, runs["plain"]) for name, rows in runs.items()}
        for kind in BENCH:
            runs = methods_in_turn(bench_file(kind, options), bench_methods, {**words, **asked}, options)
            found[f"{kind}, {n_streams}"] = {name: gain(rows, runs["plain"]) for name, rows in runs.items()}
    return found


def methods_in_turn(
    model: Path, methods: Mapping[str, Any], asked: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """The runs of every method on a model, each a process of its own."""
    n_streams = asked["n_streams"]
    settings = {
        "model": str(model), "n_ctx": 512 * n_streams, "n_parallel": n_streams, "n_threads": options.threads,
    }  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    with ExitStack() as stack:
        asks = {
            name: stack.enter_context(child({**settings, "speculative": method})) for name, method in methods.items()
        }
        for turn in range(options.rounds):
            for name in rotated(list(methods), turn):
                runs[name].append(asks[name](asked))
    return runs


def gain(runs: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of one method; rates are over all of the time, prompts included."""
    rates, before = ([sum(map(len, run["tokens"])) / run["seconds"] for run in rows] for rows in (runs, plain))
    same = [ours == theirs for ours, theirs in zip(runs[0]["tokens"], plain[0]["tokens"], strict=True)]
    figures = {
        "tokens/s": statistics.median(rates),
        "gain": statistics.median(a / b for a, b in zip(rates, before, strict=True)),
        "equal texts": sum(same) / len(same),
    }
    for place, (drafted, accepted) in enumerate(runs[-1]["positions"][:4], 1):
        figures[f"accepted {place}"] = accepted / drafted if drafted else 0.0
    return figures


def costs(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of a decode of one token, and of 1, 2 and 4 tokens in a context that can roll back, over that."""
    models = {f"demo {kind}": path for kind, path in demo_files(options).items()}
    models |= {name: bench_file(name, options) for name in BENCH}
    found = {}
    for name, path in models.items():
        time.sleep(SETTLE_SECONDS)
        command = [sys.executable, str(HERE / "batch_costs.py"), str(path), str(options.threads)]
        found[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def requirements_of(report: Mapping[str, Any], options: argparse.Namespace) -> list[Requirement]:
    """What the figures are held to."""
    held = [
        Requirement(f"{name} / llama-speculative-simple", row["ratio"], LEAST_RATE, at_least=True)
        for name, row in report.get("upstream", {}).items()
    ]
    if "gains" in report:
        best = max(
            row["gain"]
            for kind in ("Q4_0", "F16")
            for name, row in report["gains"][f"demo {kind}, {min(options.streams)}"].items()
            if name.startswith("MTP")
        )
        held.append(Requirement("demo, MTP over plain, Q4_0 or F16", best, 1.0, at_least=True))
    return held


def table(report: Mapping[str, Any], requirements: Sequence[Requirement]) -> Iterator[str]:
    """The report as lines of text."""
    for name, row in report.get("upstream", {}).items():
        yield f"{name}"
        yield from (f"    {what:<34}{value:>10.3f}" for what, value in row.items())
    for name, rows in report.get("gains", {}).items():
        yield f"{name} at a time"
        for method, row in rows.items():
            yield f"    {method:<16}" + "".join(f"{what}: {value:<10.3f}" for what, value in row.items())
    for name, row in report.get("costs", {}).items():
        yield f"{name:<12}" + "".join(f"{what:>10}: {value:.3f}" for what, value in row.items())
    for item in requirements:
        sign = ">=" if item.at_least else "<="
        yield f"{'held  ' if item.held else 'MISSED'}  {item.name:<44}{item.value:>9.3f} {sign} {item.limit:g}"


def main() -> int:
    """Measure and report."""
    options = parse_arguments()
    if hasattr(os, "sched_setaffinity") and options.threads < len(cpus()):
        os.sched_setaffinity(0, cpus()[: options.threads])  # the contestants inherit it
    report: dict[str, Any] = {"upstream version": list(llamacore_sys.UPSTREAM), "threads": options.threads}
    if "upstream" in options.part:
        report["upstream"] = beside_upstream(options)
    if "gains" in options.part:
        report["gains"] = gains(options)
    if "costs" in options.part:
        report["costs"] = costs(options)
    requirements = requirements_of(report, options)
    report["requirements"] = [{**asdict(item), "held": item.held} for item in requirements]
    print(json.dumps(report, indent=2) if options.json else "\n".join(table(report, requirements)))
    return int(options.check and not all(item.held for item in requirements))


if __name__ == "__main__":
    sys.exit(main())
