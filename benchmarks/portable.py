"""The libraries of the profile `portable` against those of `native`, on the machine that both are used on.

python benchmarks/portable.py [--native DIR] [--portable DIR] [--json] [--check]

Without folders both profiles are built, each into a folder of its own; what is built already is not built again. On a
busy machine take `--threads 1` and look at the CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # behind everything installed: the package that is measured stays the installed one

from generate import N_VOCAB, Requirement, cpus, model_file  # noqa: E402
from rounds import Contestant, Run, median_ratio, summary, take_turns, write_prompt  # noqa: E402

from build_support.builder import BUILD_ROOT, build  # noqa: E402
from build_support.cache import cache_dir  # noqa: E402
from build_support.config import PROFILES, BuildConfig  # noqa: E402
from llamacore.hub import demo_model_path  # noqa: E402

LEAST_RATE = 0.95  # of the native profile's speed, for prompt and generation
DEMO_VOCAB = 1536
SYSTEM = "from llamacore.core import backend; print(backend.system_info())"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Speed of portable libraries beside native ones.")
    for profile in PROFILES:
        parser.add_argument(f"--{profile}", type=Path, metavar="DIR", help=f"folder with the {profile} libraries")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--n-prompt", type=int, default=256, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--n-predict", type=int, default=64, help="tokens to decode (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(cpus()), help="threads (default: a thread for each CPU)")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "bench", help="folder for the model")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the promise is not kept")
    return parser.parse_args()


def library_folder(profile: str, given: Path | None) -> Path:
    """The libraries of a profile, built if they are not given."""
    if given is not None:
        return given.resolve()
    package = BUILD_ROOT / f"bench-{profile}" / "llamacore_sys"
    build(BuildConfig(profile=profile), package)
    return package / "lib"


def measure(model: Path, n_vocab: int, folders: dict[str, Path], options: argparse.Namespace) -> dict[str, list[Run]]:
    """All runs of both profiles on one model."""
    generator = random.Random(0)
    tokens = [generator.randrange(n_vocab - 100) for _ in range(options.n_prompt)]
    with tempfile.TemporaryDirectory() as aside, ExitStack() as stack:
        prompt = write_prompt(Path(aside, "prompt"), tokens)
        command = [sys.executable, str(HERE / "decode_loop.py"), str(model), str(prompt)]
        command += [str(options.n_predict), str(options.threads)]
        contestants = [
            stack.enter_context(closing(Contestant(profile, command, {"LLAMACORE_LIB_DIR": str(folder)})))
            for profile, folder in folders.items()
        ]
        return take_turns(contestants, options.rounds)


def compare(runs: dict[str, list[Run]], n_prompt: int) -> dict[str, Any]:
    """Figures of one model."""
    native, portable = runs["native"], runs["portable"]
    return {
        "profiles": {profile: summary(found, n_prompt) for profile, found in runs.items()},
        "generation": median_ratio([run.predicted_ms for run in native], [run.predicted_ms for run in portable]),
        "prompt": median_ratio([run.prompt_ms for run in native], [run.prompt_ms for run in portable]),
        "cpu": median_ratio([run.cpu_ms for run in native], [run.cpu_ms for run in portable]),
    }


def features(folder: Path) -> str:
    """What ggml says that it uses of this processor."""
    environment = {**os.environ, "LLAMACORE_LIB_DIR": str(folder)}
    command = [sys.executable, "-c", SYSTEM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Measure and report."""
    options = parse_arguments()
    folders = {profile: library_folder(profile, getattr(options, profile)) for profile in PROFILES}
    models = {"demo": (demo_model_path(), DEMO_VOCAB), "0.1b": (model_file("0.1b", options.cache), N_VOCAB)}
    report: dict[str, Any] = {
        "threads": options.threads,
        "rounds": options.rounds,
        "features": {profile: features(folder) for profile, folder in folders.items()},
        "models": {
            name: compare(measure(*model, folders, options), options.n_prompt) for name, model in models.items()
        },
    }
    requirements = [
        Requirement(f"{name} {what}, portable / native", figures[what], LEAST_RATE, at_least=True)
        for name, figures in report["models"].items()
        for what in ("generation", "prompt")
    ]
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for profile, text in report["features"].items():
            print(f"{profile:10}{text}")
        for name, figures in report["models"].items():
            for profile, row in figures["profiles"].items():
                rates = (row["tokens_per_second"], row["prompt_tokens_per_second"])
                print("{:10}{:10}generation {:9.1f} tokens/s, prompt {:9.1f} tokens/s".format(name, profile, *rates))
            print(f"{name:10}CPU time, native / portable: {figures['cpu']:.3f}")
        for item in requirements:
            print(f"{'held  ' if item.held else 'MISSED'}  {item.name:<40}{item.value:>7.3f} >= {item.limit:g}")
    return 1 if options.check and not all(item.held for item in requirements) else 0


if __name__ == "__main__":
    sys.exit(main())
