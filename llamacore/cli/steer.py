"""`llamacore steer`: make, use and look at control vectors."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from llamacore.errors import InvalidArgumentError
from llamacore.hub import demo_model_path

from . import _sampling as opt
from ._devices import gpu_layers_of
from ._errors import EXIT_INTERRUPTED, reported
from ._inside import (
    GpuLayerCount,
    JsonOutput,
    ModelFile,
    Quiet,
    Threads,
    counting,
    layers_of,
    lines_of,
    opened,
    table,
)
from ._terminal import loading_progress, note
from .generate import read_prompt, write_out

app = typer.Typer(
    help="Control vectors: directions that are added to a model's layers while it writes.", no_args_is_help=True
)


@app.command()
def train(
    positive: Annotated[
        Path, typer.Option("--positive-file", "--positive", help="Texts of what is wanted, one a line.")
    ],
    negative: Annotated[
        Path,
        typer.Option(
            "--negative-file", "--negative", help="Texts of the opposite, one a line; as many are taken as pairs."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")] = Path("control_vector.gguf"),
    method: Annotated[
        str, typer.Option("--method", help="mean (difference of the means) or pca (principal component).")
    ] = "mean",
    rows: Annotated[
        str, typer.Option("--rows", help="What stands for a text: mean (of its tokens) or last (its last token).")
    ] = "mean",
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Layers from 1, as in 3,5-7; default: all but the last one.", show_default=False),
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of the texts that the quality is measured on.")
    ] = 0.25,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Of the choice of those.")] = 0,
    model: ModelFile = None,
    threads: Threads = None,
    gpu_layers: GpuLayerCount = None,
    json_output: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Make a control vector from texts that show what is wanted and texts that show the opposite."""
    with reported():
        from llamacore.steering import train_control_vector
        from llamacore.steering.directions import Method

        if method not in get_args(Method):
            raise InvalidArgumentError(f"--method {method}", hint=f"use one of: {', '.join(get_args(Method))}")
        if rows not in ("last", "mean"):
            raise InvalidArgumentError(f"--rows {rows}", hint="use last or mean")
        wanted, opposite = lines_of(positive), lines_of(negative)
        with opened(model, gpu_layers, quiet) as loaded:
            trained = train_control_vector(
                loaded, wanted, opposite,
                layers=None if layers is None else layers_of(layers, loaded.n_layer, first=1),
                method=method, rows=rows, held_out=held_out, seed=seed,  # type: ignore[arg-type]
                n_threads=threads, progress=counting(quiet),
            )  # fmt: skip
        path = trained.vector.save(output)
        norms = {layer: math.sqrt(float(row @ row)) for layer, row in trained.vector.directions.items()}
        if json_output:
            quality = {layer: vars(found) for layer, found in trained.quality.items()}
            print(json.dumps({
                "file": str(path), "layers": list(norms), "norms": list(norms.values()), "method": method,
                "n_positive": trained.n_positive, "n_negative": trained.n_negative, "best_layer": trained.best_layer,
                "quality": quality,
            }))  # fmt: skip
        elif not quiet:
            lines = []
            for layer, norm in norms.items():
                found = trained.quality.get(layer)
                pairs = None if found is None else found.pair_accuracy
                lines.append((
                    str(layer), f"{norm:.3g}", "" if found is None else f"{found.accuracy:.1%}",
                    "" if pairs is None else f"{pairs:.1%}", "" if found is None else f"{found.separation:.1f}",
                ))  # fmt: skip
            print(table(("layer", "norm", "accuracy", "pairs", "separation"), lines))
            note(f"{path}: made from {trained.n_positive} and {trained.n_negative} texts")


@app.command()
def apply(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; '-' or nothing reads standard input.")] = None,
    control_vector: Annotated[
        list[Path] | None, typer.Option("--control-vector", help="Control vector to add (repeat).")
    ] = None,
    control_vector_scaled: Annotated[
        list[str] | None, typer.Option("--control-vector-scaled", help="The same with a scale: FILE:SCALE (repeat).")
    ] = None,
    layer_range: Annotated[
        tuple[int, int] | None,
        typer.Option("--control-vector-layer-range", help="First and last layer to steer.", show_default=False),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-sys", help="System prompt of the chat.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is: no chat template.")] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", "--n-predict", help="Most tokens to generate.", show_default=False),
    ] = None,
    seed: opt.Seed = None,
    temperature: opt.Temperature = None,
    ctx_size: Annotated[
        int | None, typer.Option("-c", "--ctx-size", help="Tokens of context.", show_default=False)
    ] = None,
    model: ModelFile = None,
    threads: Threads = None,
    gpu_layers: GpuLayerCount = None,
    quiet: Quiet = False,
) -> None:
    """Generate text from a prompt with control vectors added, and stream it to standard output."""
    with reported():
        from llamacore.core.control_vector import ControlVector
        from llamacore.llama import Llama

        files = [*((path, 1.0) for path in control_vector or []), *map(_scaled, control_vector_scaled or [])]
        if not files:
            raise InvalidArgumentError("there is no control vector", hint="give one: --control-vector FILE")
        steering = {ControlVector.load(path): scale for path, scale in files}
        if layer_range is not None:
            steering = {vector.for_layers(*layer_range): scale for vector, scale in steering.items()}
        text = read_prompt(prompt, None)
        if model is None:
            note(f"no --model given: using the bundled demo model {demo_model_path().name}", quiet=quiet)
        sampling: dict[str, Any] = {"seed": seed, "temperature": temperature}
        with Llama(
            model, n_gpu_layers=gpu_layers_of(gpu_layers), n_threads=threads, n_parallel=1, n_ctx=ctx_size, taps=True,
            progress=loading_progress(quiet),
        ) as llama:  # fmt: skip
            if raw or llama.model.chat_template() is None:
                tokens = llama.tokenize(text)
            else:
                messages = [{"role": "system", "content": system}] if system is not None else []
                tokens = llama.chat_prompt([*messages, {"role": "user", "content": text}])
            generation = llama.stream(
                tokens, max_tokens=max_tokens, steering=steering,
                **{name: value for name, value in sampling.items() if value is not None},
            )  # fmt: skip
            completion = write_out(generation, stream=True)
        if completion.finish_reason == "cancelled":
            raise typer.Exit(EXIT_INTERRUPTED)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A control vector.")],
    json_output: JsonOutput = False,
) -> None:
    """Say what a control vector has: its layers, the length of each direction, the model it was made for."""
    with reported():
        from llamacore.core.control_vector import ControlVector

        vector = ControlVector.load(file)
        norms = {layer: math.sqrt(float(row @ row)) for layer, row in vector.directions.items()}
        if json_output:
            about = {"model_hint": vector.model_hint, "n_embd": vector.n_embd, "delta_norm": vector.delta_norm}
            print(json.dumps({"file": str(file), **about, "layers": list(norms), "norms": list(norms.values())}))
            return
        print(f"{file}: {len(norms)} layers of {vector.n_embd} numbers for {vector.model_hint or 'an unknown model'}")
        print(table(("layer", "norm"), [(str(layer), f"{norm:.4g}") for layer, norm in norms.items()]))
        sys.stdout.flush()


def _scaled(item: str) -> tuple[Path, float]:
    path, _, scale = item.rpartition(":")
    try:
        return Path(path), float(scale)
    except ValueError:
        raise InvalidArgumentError(
            f"--control-vector-scaled {item}", hint="write FILE:SCALE, as in v.gguf:0.8"
        ) from None
