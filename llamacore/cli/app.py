"""Registers the commands, nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from . import steer
from .bench_spec import spec
from .capture import capture
from .generate import generate
from .run import run

app = typer.Typer(
    name="llamacore",
    help="Run language models of the GGUF format on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command()(run)
app.command()(capture)
app.add_typer(steer.app, name="steer")
bench = typer.Typer(help="Measure a model on this machine.", no_args_is_help=True)
bench.command()(spec)
app.add_typer(bench, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        import llamacore
        from llamacore.core import backend

        typer.echo(f"llamacore {llamacore.__version__} (llama.cpp {backend.versions()['llama.cpp']})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the versions and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
