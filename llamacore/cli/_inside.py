"""What `capture` and `steer` share: options about texts, layers and the model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacore.errors import InvalidArgumentError
from llamacore.hub import demo_model_path

from ._devices import gpu_layers_of
from ._sampling import read_text
from ._terminal import loading_progress, note

if TYPE_CHECKING:
    from llamacore.core.model import Model

_MODEL_PANEL = "Model"

ModelFile = Annotated[
    Path | None,
    typer.Option("-m", "--model", help="GGUF file; default: the bundled demo model.", rich_help_panel=_MODEL_PANEL),
]
Threads = Annotated[
    int | None,
    typer.Option("-t", "--threads", help="Threads; default: physical cores.", rich_help_panel=_MODEL_PANEL),
]
GpuLayerCount = Annotated[
    str | None,
    typer.Option(
        "-ngl",
        "--gpu-layers",
        help="Layers on the GPU: a number, 'all' or 'none'.",
        rich_help_panel=_MODEL_PANEL,
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def layers_of(value: str, n_layer: int, first: int = 0) -> list[int]:
    """Return the layers of a list such as `3,5-7`; `all` is every one from the first that can be meant.

    Raises:
        InvalidArgumentError: It does not parse, or a range ends beyond the model.
    """
    if value == "all":
        return list(range(first, n_layer))
    chosen: set[int] = set()
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None:
            raise InvalidArgumentError(f"--layers {value}", hint="write numbers and ranges, as in 3,5-7, or all")
        start, end = int(match[1]), int(match[2] or match[1])
        if start > end or end >= n_layer:
            raise InvalidArgumentError(f"--layers {value}", hint=f"the model has layers 0 to {n_layer - 1}")
        chosen.update(range(start, end + 1))
    return sorted(chosen)


def lines_of(path: Path) -> list[str]:
    r"""Return the texts of a file, one a line, empty ones left out; `\n`, `\t` and `\\` stand for characters."""
    found = {"n": "\n", "t": "\t", "\\": "\\"}
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    return [re.sub(r"\\([nt\\])", lambda match: found[match[1]], line.removesuffix("\r")) for line in lines]


@contextmanager
def opened(path: Path | None, gpu_layers: str | None, quiet: bool) -> Iterator[Model]:
    """Load the model that was asked for, and close it."""
    from llamacore.core.model import Model

    if path is None:
        note(f"no --model given: using the bundled demo model {demo_model_path().name}", quiet=quiet)
    chosen = gpu_layers_of(gpu_layers)
    options: dict[str, Any] = {} if chosen is None else {"n_gpu_layers": chosen}
    with Model.load(path or demo_model_path(), progress=loading_progress(quiet), **options) as model:
        yield model


def counting(quiet: bool) -> Callable[[int, int], None] | None:
    """Return a progress callback that counts texts on a terminal; None off one."""
    if quiet or not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{done} of {total} texts", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns, aligned to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in (head, *rows))
    return "\n".join("  ".join(cell.rjust(width) for cell, width in line) for line in lines)
