"""`llamacore capture`: layer outputs of texts, into a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import typer

from llamacore.errors import InvalidArgumentError

from ._errors import reported
from ._inside import GpuLayerCount, JsonOutput, ModelFile, Quiet, Threads, counting, layers_of, lines_of, opened


def capture(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help=r"More texts, one a line; \n stands for a line break.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write (.npz).")] = Path("activations.npz"),
    layers: Annotated[str, typer.Option("--layers", help="Layers from 0, as in 3,5-7, or all.")] = "all",
    rows: Annotated[str, typer.Option("--rows", help="What is kept of each text: last, first, mean or all.")] = "last",
    model: ModelFile = None,
    threads: Threads = None,
    gpu_layers: GpuLayerCount = None,
    json_output: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Run texts through a model and write the outputs of its layers to a .npz file.

    Its arrays are layer_N (float32, rows x n_embd), texts, positions and tokens (int32, one for each row) and metadata
    (JSON).
    """
    with reported():
        from llamacore.core.tap import Rows
        from llamacore.steering import capture_activations

        given = [*(texts or []), *(lines_of(file) if file is not None else [])]
        if not given:
            raise InvalidArgumentError("there is no text", hint="give texts, or a file of them: --file")
        if rows not in get_args(Rows):
            raise InvalidArgumentError(f"--rows {rows}", hint=f"use one of: {', '.join(get_args(Rows))}")
        with opened(model, gpu_layers, quiet) as loaded:
            chosen = layers_of(layers, loaded.n_layer)
            found = capture_activations(
                loaded, given, chosen, rows=rows, n_threads=threads, progress=counting(quiet)  # type: ignore[arg-type]
            )  # fmt: skip
            path = found.save(output)
            n_rows, n_embd = found.values[chosen[0]].shape
        if json_output:
            report = {"file": str(path), "layers": list(found.layers), "rows": n_rows, "n_embd": n_embd}
            print(json.dumps({**report, "n_texts": len(given)}))
        elif not quiet:
            typer.echo(
                f"{path}: layers {', '.join(map(str, found.layers))} of {len(given)} texts, "
                f"each float32 [{n_rows}, {n_embd}]",
                err=True,
            )
