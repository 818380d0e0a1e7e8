"""Registers the commands, nothing else. Each is imported when it is asked for.

So the commands that tell what is wrong with the libraries and replace them work when those cannot be opened, and one
command does not wait for the imports of another.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ._errors import reported

# Module and name in it: of a function, or of a typer app with commands of its own.
_COMMANDS = {
    "generate": ("generate", "generate"),
    "run": ("run", "run"),
    "capture": ("capture", "capture"),
    "steer": ("steer", "app"),
    "bench": ("bench_spec", "app"),
    "libs": ("libs", "app"),
    "doctor": ("doctor", "doctor"),
    "devices": ("devices", "devices"),
    "fit": ("fit", "fit"),
    "rpc": ("rpc", "app"),
}


class _Commands(TyperGroup):
    """The commands of the table, in its order."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        settings: dict[str, Any] = {}
        try:
            found = getattr(import_module(f".{module}", __package__), name)
        except ImportError as error:
            found = _cannot_run(error)
            settings = {"ignore_unknown_options": True, "help_option_names": []}
        if not isinstance(found, typer.Typer):
            holder = typer.Typer(add_completion=False)
            holder.command(cmd_name, context_settings=settings)(found)
            return typer.main.get_command(holder)
        group = typer.main.get_group(found)
        group.name = cmd_name
        return group


def _cannot_run(error: ImportError) -> Any:
    """What stands for a command whose libraries cannot be opened: it says why."""

    def command(rest: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        with reported():
            raise error

    command.__doc__ = f"(cannot be used: {error})"
    return command


app = typer.Typer(
    cls=_Commands,
    name="llamacore",
    help="Run language models of the GGUF format on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import llamacore

        with reported():
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
