"""A device against upstream's llama-bench and llama-batched-bench; see docs/benchmarks.md.

python benchmarks/gpu.py [--device NAME] [--rpc HOST:PORT] [--shape tiny|0.5b|8b] [--streams N] [--json] [--check]

Any device will do, the CPU too. Tokens per second of prompts and of generation at several numbers of streams, with and
without MTP; memory of the device before, during and after; time that cancelling a prompt takes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # behind everything installed: the package that is measured stays the installed one

from generate import Requirement, cpus  # noqa: E402
from upstream import tools_folder  # noqa: E402

import llamacore as lc  # noqa: E402
from build_support.cache import cache_dir  # noqa: E402
from llamacore.core import backend, rpc  # noqa: E402
from llamacore.engine.speculation.params import Mtp  # noqa: E402
from llamacore.errors import AbortedError  # noqa: E402
from llamacore.testing import bench_model  # noqa: E402

SHAPES = {"tiny": "0.02b", "0.5b": "0.5b", "8b": "8b"}
MTP_SHAPES = {"tiny": "0.1b-mtp", "0.5b": "0.5b-mtp", "8b": "8b-mtp"}
MTP_STREAMS = (1, 8)
ACCEPTED = (0.8, 0.65, 0.5)  # of drafted tokens: random weights agree with nothing, so it is set
LEAST_OF_LLAMA_BENCH = 0.97
MOST_LEFT_OF_MODEL = 0.02  # of the weights, on the device after close()
SETTLE_SECONDS = 1.0


@dataclass
class Rate:
    """Tokens per second with a number of streams."""

    streams: int
    prompt: float
    generated: float


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Speed, memory and cancelling on a device, against llama-bench.")
    parser.add_argument("--device", action="append", help="device to use (repeat); default: as a model chooses")
    parser.add_argument("--rpc", action="append", help="RPC server to use (repeat)")
    parser.add_argument("--shape", choices=sorted(SHAPES), action="append", help="models to measure (default: tiny)")
    parser.add_argument("--streams", type=int, action="append", help="numbers of streams (default: 1, 8 and 32)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--predict", type=int, default=128, help="tokens to generate (default: %(default)s)")
    parser.add_argument("--dtype", default="q8_0", help="of the weights: f16, q8_0 or q4_0 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(cpus()), help="threads of the CPU (default: one for each)")
    parser.add_argument("--no-mtp", action="store_true", help="leave out MTP")
    parser.add_argument("--upstream-bin", type=Path, help="folder of upstream's tools; default: built once, cached")
    parser.add_argument("--upstream-backend", help="back end to build them with, such as cuda; default: by the device")
    parser.add_argument("--cmake", action="append", default=[], help="option for building them (repeat)")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench", help="folder for the models")
    parser.add_argument("--json", action="store_true", help="write one JSON object instead of tables")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a requirement is missed")
    options = parser.parse_args()
    options.shape = options.shape or ["tiny"]
    options.streams = options.streams or [1, 8, 32]
    return options


def model_file(size: str, options: argparse.Namespace) -> Path:
    """The random-weight model of a size, written if it is not there."""
    options.cache.mkdir(parents=True, exist_ok=True)
    path = options.cache / f"gpu-{size}-{options.dtype}.gguf"
    return path if path.exists() else bench_model(path, size=size, dtype=options.dtype)


def prompts_of(n_streams: int, n_tokens: int, seed: int) -> list[list[int]]:
    """Prompts that have nothing in common."""
    drawn = random.Random(seed)
    return [[drawn.randrange(300, 149_000) for _ in range(n_tokens)] for _ in range(n_streams)]


def generate_all(llama: lc.Llama, prompts: Sequence[list[int]], n_predict: int) -> Rate:
    """All at a time: prompts until the last stream has its first token, generation from there on."""
    first = [0.0] * len(prompts)
    before_first = [0] * len(prompts)
    counts = [0] * len(prompts)
    everyone = threading.Event()

    def read(number: int) -> None:
        options: dict[str, Any] = {"max_tokens": n_predict, "temperature": 0.0, "ignore_eos": True}
        for chunk in llama.stream(prompts[number], cache_prompt=False, **options):
            if not counts[number] and chunk.tokens:
                first[number] = time.perf_counter()
                if all(first):
                    before_first[:] = counts
                    everyone.set()
            counts[number] += len(chunk.tokens)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(prompts))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = time.perf_counter()
    assert sum(counts) == n_predict * len(prompts), counts
    n_prompt = sum(map(len, prompts))
    generated = sum(counts) - sum(before_first) - 1  # the one that the clock starts with is the prompt's
    return Rate(len(prompts), n_prompt / (max(first) - started), generated / (ended - max(first)))


def median(rates: Sequence[Rate]) -> Rate:
    """Of each figure."""
    return Rate(
        rates[0].streams,
        statistics.median(rate.prompt for rate in rates),
        statistics.median(rate.generated for rate in rates),
    )


def open_llama(
    path: Path, names: list[str] | None, n_streams: int, options: argparse.Namespace, **more: Any
) -> lc.Llama:
    """All of a model on the devices, with a context that every stream has its own part of."""
    n_ctx = (options.prompt + options.predict + 64) * n_streams
    context = lc.ContextParams(n_ctx=n_ctx, n_seq_max=n_streams, n_outputs_max=n_streams, kv_unified=False)
    return lc.Llama(
        path, devices=names, n_gpu_layers="all", fit=False, n_parallel=n_streams, n_threads=options.threads,
        context_params=context, **more,
    )  # fmt: skip


def ours(path: Path, names: list[str] | None, n_streams: int, options: argparse.Namespace, **more: Any) -> Rate:
    """Median of the rounds; the first one is for warming up."""
    with open_llama(path, names, n_streams, options, **more) as llama:
        runs = [
            generate_all(llama, prompts_of(n_streams, options.prompt, seed), options.predict)
            for seed in range(options.rounds + 1)
        ]
    return median(runs[1:])


def upstream_options(names: list[str] | None, options: argparse.Namespace) -> list[str]:
    """What upstream's tools are told about devices."""
    given = ["-t", str(options.threads), "-ngl", "99"]
    if options.rpc:
        given += ["--rpc", ",".join(options.rpc)]
    if options.device:
        given += ["-dev", "none" if names == ["CPU"] else ",".join(options.device)]
    return given


def llama_bench(tools: Path, path: Path, names: list[str] | None, options: argparse.Namespace) -> Rate:
    """Upstream's figures of one stream."""
    time.sleep(SETTLE_SECONDS)
    command = [str(tools / "llama-bench"), "-m", str(path), "-o", "json", "-r", str(options.rounds)]
    command += ["-p", str(options.prompt), "-n", str(options.predict), *upstream_options(names, options)]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    rate = {"prompt" if row["n_prompt"] else "generated": row["avg_ts"] for row in rows}
    return Rate(1, **rate)


def batched_bench(
    tools: Path, path: Path, names: list[str] | None, n_streams: int, options: argparse.Namespace
) -> Rate:
    """Upstream's figures of several streams."""
    time.sleep(SETTLE_SECONDS)
    n_ctx = (options.prompt + options.predict + 64) * n_streams
    command = [str(tools / "llama-batched-bench"), "-m", str(path), "-c", str(n_ctx), "--output-format", "jsonl"]
    command += ["-npp", str(options.prompt), "-ntg", str(options.predict), "-npl", str(n_streams)]
    command += upstream_options(names, options)
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = next(json.loads(line) for line in output.splitlines() if line.startswith("{"))
    return Rate(n_streams, row["speed_pp"], row["speed_tg"])


def free_memory(names: list[str] | None) -> dict[str, int]:
    """Bytes free on each device that is used."""
    used = names if names is not None else list(backend.default_devices())
    return {device.name: device.memory_free for device in backend.devices() if device.name in used}


def memory(path: Path, names: list[str] | None, options: argparse.Namespace) -> dict[str, Any]:
    """Free bytes of the devices before, with a model, and after close(); the second time, when drivers have settled."""
    for _ in range(2):
        before = free_memory(names)
        with open_llama(path, names, 1, options) as llama:
            llama.generate(prompts_of(1, 16, 0)[0], max_tokens=4)
            during, size = free_memory(names), llama.model.size
        after = free_memory(names)
    return {"weights": size, "before": before, "during": during, "after": after}


def cancelling(path: Path, names: list[str] | None, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds from cancel() to the end of the decode of a long prompt, and of that prompt uncancelled."""
    n_tokens = 4000
    with (
        lc.Model.load(path, devices=names, n_gpu_layers="all") as model,
        model.context(n_ctx=4096, n_batch=4096, n_threads=options.threads) as ctx,
    ):
        batch = lc.Batch(4096)
        for position, token in enumerate(prompts_of(1, n_tokens, 0)[0]):
            batch.add(token, position, output=position == n_tokens - 1)

        def decode() -> float:
            ctx.memory.clear()
            started = time.perf_counter()
            ctx.decode(batch)
            ctx.synchronize()
            return time.perf_counter() - started

        decode()
        whole = decode()
        waits = []
        for number in range(5):
            asked: list[float] = []

            def cancel(asked: list[float] = asked) -> None:
                asked.append(time.perf_counter())
                ctx.cancel()

            timer = threading.Timer(whole * (number + 1) / 8, cancel)
            timer.start()
            try:
                decode()
            except AbortedError:
                waits.append((time.perf_counter() - asked[0]) * 1e3)
            timer.join()
            ctx.resume()
    return {"prompt_ms": whole * 1e3, "cancelled_ms": max(waits, default=float("nan")), "cancelled": len(waits)}


def measure(shape: str, names: list[str] | None, tools: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one shape."""
    path = model_file(SHAPES[shape], options)
    found: dict[str, Any] = {"memory": memory(path, names, options), "cancel": cancelling(path, names, options)}
    single = llama_bench(tools, path, names, options)
    found["llama-bench"] = [asdict(single)]
    found["llamacore"] = [asdict(ours(path, names, n, options)) for n in options.streams]
    found["batched-bench"] = [asdict(batched_bench(tools, path, names, n, options)) for n in options.streams]
    if not options.no_mtp:
        path = model_file(MTP_SHAPES[shape], options)
        loading = {"model_params": lc.ModelParams(load_mtp=True)}
        mtp = {**loading, "speculative": Mtp(n_max=len(ACCEPTED), synthetic_rates=ACCEPTED, adaptive=False)}
        found["without MTP"] = [asdict(ours(path, names, n, options, **loading)) for n in MTP_STREAMS]
        found["with MTP"] = [asdict(ours(path, names, n, options, **mtp)) for n in MTP_STREAMS]
    return found


def requirements(found: dict[str, Any]) -> list[Requirement]:
    """What a device is held to."""
    held = []
    single = next((row for row in found["llamacore"] if row["streams"] == 1), None)
    if single is not None:
        theirs = found["llama-bench"][0]
        for kind in ("prompt", "generated"):
            name = f"{kind} of one stream over llama-bench"
            held.append(Requirement(name, single[kind] / theirs[kind], LEAST_OF_LLAMA_BENCH, at_least=True))
    for name, before in found["memory"]["before"].items():
        left = (before - found["memory"]["after"][name]) / found["memory"]["weights"]
        held.append(Requirement(f"weights left on {name} after close()", left, MOST_LEFT_OF_MODEL, at_least=False))
    return held


def report(shape: str, found: dict[str, Any]) -> None:
    """Print tables."""
    print(f"\n{shape}: {'tokens per second':<28}{'streams':>8}{'prompt':>12}{'generation':>12}")
    for name in ("llama-bench", "batched-bench", "llamacore", "without MTP", "with MTP"):
        for row in found.get(name, ()):
            print(f"{'':6}{name:<28}{row['streams']:>8}{row['prompt']:>12.1f}{row['generated']:>12.1f}")
    cancel = found["cancel"]
    print(
        f"{'':6}a prompt takes {cancel['prompt_ms']:.0f} ms; cancelled it ended within {cancel['cancelled_ms']:.1f} ms"
    )
    for name in found["memory"]["before"]:
        row = [found["memory"][when][name] >> 20 for when in ("before", "during", "after")]
        print(f"{'':6}{name}: MiB free before, with the model, after close(): {row[0]}, {row[1]}, {row[2]}")
    for requirement in requirements(found):
        held = "held" if requirement.held else "MISSED"
        print(f"{'':6}{requirement.name}: {requirement.value:.3f}, {requirement.limit:g} wanted: {held}")


def main() -> int:
    """Measure and report."""
    options = parse_arguments()
    names = options.device
    remote = [device.name for endpoint in options.rpc or () for device in rpc.add_rpc_server(endpoint)]
    if names is None and remote:
        names = remote
    used = names if names is not None else list(backend.default_devices())
    kinds = {device.backend.lower() for device in backend.devices() if device.name in used}
    back_end = options.upstream_backend or next((kind for kind in sorted(kinds) if kind not in ("cpu", "")), None)
    tools = options.upstream_bin or tools_folder(["llama-bench", "llama-batched-bench"], back_end, options.cmake)
    found = {shape: measure(shape, names, tools, options) for shape in options.shape}
    if options.json:
        print(json.dumps({"devices": names, "shapes": found}))
    else:
        print(f"devices: {', '.join(names) if names else 'as a model chooses'}; weights: {options.dtype}")
        for shape, figures in found.items():
            report(shape, figures)
    missed = [r for figures in found.values() for r in requirements(figures) if not r.held]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
