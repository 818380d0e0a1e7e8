"""Many streams on one context against upstream's llama-server and llama-batched-bench; see docs/benchmarks.md.

python benchmarks/engine.py [--upstream-bin FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # behind everything installed: the package that is measured stays the installed one

from generate import N_VOCAB, Requirement, cpus, model_file  # noqa: E402
from upstream import tools_folder  # noqa: E402

import llamacore_sys  # noqa: E402
from build_support.cache import cache_dir  # noqa: E402
from llamacore.hub import demo_model_path  # noqa: E402

STREAMS = (1, 4, 16)
N_SHARED, N_OWN, N_PREDICT = 100, 21, 128
N_PREFIX = 2000
MOST_PYTHON_US = 40.0
MOST_FIRST_TOKEN = 3.0
SETTLE_SECONDS = 1.0  # compute threads spin for a while after their last work


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Throughput of the engine against upstream's server and batch bench.")
    parser.add_argument("--upstream-bin", type=Path, help="folder of upstream's tools; default: built once, cached")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--streams", type=int, action="append", help="numbers of streams (default: 1, 4 and 16)")
    parser.add_argument("--threads", type=int, default=len(cpus()), help="threads (default: a thread for each CPU)")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench", help="folder for the models")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a requirement is missed")
    options = parser.parse_args()
    options.streams = options.streams or list(STREAMS)
    return options


def prompts_of(n_streams: int, seed: int) -> list[list[int]]:
    """Prompts with a beginning that all rounds share, and an end of their own."""
    shared = random.Random(0)
    own = random.Random(seed)
    prefix = [shared.randrange(1000, N_VOCAB - 100) for _ in range(N_SHARED)]
    return [prefix + [own.randrange(1000, N_VOCAB - 100) for _ in range(N_OWN)] for _ in range(n_streams)]


@contextmanager
def child(settings: dict[str, Any]) -> Iterator[Any]:
    """A process with a `Llama`; yields a function that asks it something."""
    command = [sys.executable, str(HERE / "engine_loop.py"), json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        source, target = process.stdout, process.stdin
        assert source.readline().strip() == "ready", "llamacore did not start"

        def ask(question: dict[str, Any]) -> Any:
            time.sleep(SETTLE_SECONDS)
            target.write(json.dumps(question) + "\n")
            target.flush()
            return json.loads(source.readline())

        yield ask
        target.close()


@contextmanager
def server(tools: Path, model: Path, n_threads: int) -> Iterator[Any]:
    """A llama-server with 16 slots; yields a function that generates from prompts and returns tokens per second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    n_parallel = max(STREAMS)
    command = [str(tools / "llama-server"), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-np", str(n_parallel), "-c", str(256 * n_parallel), "-t", str(n_threads), "--no-webui"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(url + "/health") as answer:
                    if answer.status == 200:
                        break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit("llama-server ended early") from None
                time.sleep(0.1)

        def complete(prompt: list[int], done: list[int]) -> None:
            body = {"prompt": prompt, "n_predict": N_PREDICT, "temperature": 0, "ignore_eos": True, "stream": False}
            asked = urllib.request.Request(url + "/completion", json.dumps(body).encode())
            with urllib.request.urlopen(asked) as answer:
                done.append(json.load(answer)["tokens_predicted"])

        def run(prompts: list[list[int]]) -> float:
            time.sleep(SETTLE_SECONDS)
            done: list[int] = []
            threads = [threading.Thread(target=complete, args=(prompt, done)) for prompt in prompts]
            started = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - started
            assert sum(done) == N_PREDICT * len(prompts), done
            return sum(done) / seconds

        yield run
    finally:
        process.terminate()
        process.wait()


def batch_bench(tools: Path, model: Path, n_threads: int, streams: list[int]) -> dict[int, tuple[float, float]]:
    """Of llama-batched-bench: generated tokens per second over all of the time, and of its generation alone."""
    time.sleep(SETTLE_SECONDS)
    command = [str(tools / "llama-batched-bench"), "-m", str(model), "-t", str(n_threads)]
    command += ["-c", str(256 * max(STREAMS))]
    command += ["-npp", str(N_SHARED + N_OWN), "-ntg", str(N_PREDICT), "-npl", ",".join(map(str, streams))]
    command += ["--output-format", "jsonl"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["pl"]: (row["tg"] * row["pl"] / row["t"], row["speed_tg"]) for row in rows}


def throughput(options: argparse.Namespace, tools: Path) -> dict[int, dict[str, float]]:
    """Medians of all contestants for each number of streams."""
    model = model_file("0.1b", options.cache)
    settings = {
        "model": str(model), "n_ctx": 256 * max(STREAMS), "n_parallel": max(STREAMS), "n_threads": options.threads,
        "kv_unified": False,  # as llama-server with a given number of slots
    }  # fmt: skip
    rates: dict[int, dict[str, list[float]]] = {n: {} for n in options.streams}

    def note(n: int, name: str, value: float) -> None:
        rates[n].setdefault(name, []).append(value)

    with (
        child({**settings, "overhead": False}) as ours,
        child({**settings, "overhead": True}) as watched,
        server(tools, model, options.threads) as theirs,
    ):
        for turn in range(options.rounds + 1):
            found = batch_bench(tools, model, options.threads, options.streams)
            for n in options.streams:
                asked = {"prompts": prompts_of(n, 200 * turn + n), "n_predict": N_PREDICT, "stream": False}
                ours_rate = ours(asked)["tokens_per_second"]
                server_rate = theirs(asked["prompts"])
                streamed = {**asked, "prompts": prompts_of(n, 200 * turn + 100 + n), "stream": True}
                streamed_rate = ours(streamed)["tokens_per_second"]
                if turn == 0:
                    continue  # everyone's first one
                note(n, "llamacore", ours_rate)
                note(n, "llamacore, streamed", streamed_rate)
                note(n, "llama-server", server_rate)
                note(n, "batched-bench", found[n][0])
                note(n, "batched-bench, generation alone", found[n][1])
                note(n, "over llama-server", ours_rate / server_rate)
                note(n, "streamed over llama-server", streamed_rate / server_rate)
                note(n, "over batched-bench", ours_rate / found[n][0])
        for n in options.streams:
            asked = {"prompts": prompts_of(n, n), "n_predict": N_PREDICT, "stream": True}
            note(n, "python us per token", watched(asked)["python_us_per_token"])
    return {n: {name: statistics.median(values) for name, values in row.items()} for n, row in rates.items()}


def first_tokens(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time to the first token behind a cached prefix, in single-token decodes, of an attention and a hybrid model."""
    models = {"0.1b": (model_file("0.1b", options.cache), N_VOCAB), "demo (hybrid)": (demo_model_path(), 1500)}
    found = {}
    for name, (path, n_vocab) in models.items():
        drawn = random.Random(1)
        prefix = [drawn.randrange(300, n_vocab - 100) for _ in range(N_PREFIX)]
        settings = {"model": str(path), "n_ctx": 4096, "n_parallel": 4, "n_threads": options.threads}
        settings |= {"kv_unified": True, "overhead": False}
        with child(settings) as ask:
            found[name] = ask({"prefix": prefix, "rounds": 11})
        found[name]["decodes"] = found[name]["first_token_ms"] / found[name]["token_ms"]
    return found


def main() -> int:
    """Measure and report."""
    options = parse_arguments()
    if hasattr(os, "sched_setaffinity") and options.threads < len(cpus()):
        os.sched_setaffinity(0, cpus()[: options.threads])
    tools = options.upstream_bin or tools_folder(("llama-server", "llama-batched-bench"))
    rates, firsts = throughput(options, tools), first_tokens(options)
    requirements = []
    for n, row in rates.items():
        requirements.append(Requirement(f"{n} streams / llama-server", row["over llama-server"], 1.0, at_least=True))
    most = rates[max(options.streams)]
    requirements.append(
        Requirement(f"{max(options.streams)} streams / batched-bench", most["over batched-bench"], 0.9, at_least=True)
    )
    requirements.append(
        Requirement("Python per token and stream, us", most["python us per token"], MOST_PYTHON_US, at_least=False)
    )
    for name, row in firsts.items():
        requirements.append(
            Requirement(f"first token, {name}, decodes", row["decodes"], MOST_FIRST_TOKEN, at_least=False)
        )
    if options.json:
        print(json.dumps({"upstream": list(llamacore_sys.UPSTREAM), "streams": rates, "first_token": firsts}))
    else:
        for n, row in rates.items():
            print(f"{n} streams")
            for name, value in row.items():
                print(f"    {name:<34}{value:>10.3f}")
        for name, row in firsts.items():
            print(f"first token behind {N_PREFIX} cached tokens, {name}")
            for what, value in row.items():
                print(f"    {what:<34}{value:>10.3f}")
        for item in requirements:
            sign = ">=" if item.at_least else "<="
            print(f"{'held  ' if item.held else 'MISSED'}  {item.name:<36}{item.value:>9.3f} {sign} {item.limit:g}")
    return int(options.check and not all(item.held for item in requirements))


if __name__ == "__main__":
    sys.exit(main())
