"""How an option that has its place in a panel of the help is declared."""

from __future__ import annotations

from typing import Any

import typer


def option(panel: str, text: str, *names: str) -> Any:
    """Declare an option by its panel, its help and its names; a default is told by the help or not at all."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)
