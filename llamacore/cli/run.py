"""`llamacore run`: a pipeline from its manifest, fed with lines."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from llamacore.errors import InvalidArgumentError
from llamacore.nodes.manifest import Manifest
from llamacore.nodes.node import Progress
from llamacore.nodes.pipeline import Pipeline
from llamacore.nodes.session import Session

from ._envelopes import TensorFolder, Writer, read_line
from ._errors import EXIT_INTERRUPTED, reported
from ._terminal import note

_STREAMING = ("LlamaCppGenerationNode", "LlamaCppSteerNode")
_BLOCK = 1 << 16


def run(
    manifest: Annotated[Path, typer.Argument(help="The manifest, JSON or YAML.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="An input (repeat); without it every line of standard input is one."),
    ] = None,
    json_input: Annotated[
        bool, typer.Option("--json-input", help="Inputs are JSON: envelopes, or values for a Json envelope.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print a JSON line for each envelope.")] = False,
    save_tensors: Annotated[
        Path | None, typer.Option("--save-tensors", help="Folder to keep tensors in, as .npy files.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", help="Name of the session; default: a new one.", show_default=False)
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch model files that are missing from the Hugging Face Hub.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Run a pipeline: every input goes to the nodes that no other feeds, results are printed as they come."""
    with reported():
        news = _News(quiet)
        read = Manifest.load(manifest)
        pipeline = Pipeline(read, on_progress=news.show, fetch=fetch)
        for warning in pipeline.warnings:
            note(f"{manifest}: {warning}", quiet=quiet)
        writer = Writer(
            as_json=json_output,
            in_pieces=_in_pieces(read),
            label=_n_outputs(read) > 1,
            tensors=None if save_tensors is None else TensorFolder(save_tensors),
        )
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        try:
            asyncio.run(_run(pipeline, session, inputs, json_input, writer))
        except asyncio.CancelledError:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        finally:
            news.clear()


async def _run(
    pipeline: Pipeline, name: str | None, inputs: Sequence[str] | None, json_input: bool, writer: Writer
) -> None:
    """Run to the end of the input; the first Ctrl-C cancels, the second one ends the program."""
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        this.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        async with pipeline, pipeline.session(name) as session:
            feeding = asyncio.ensure_future(_feed(session, inputs, json_input))
            try:
                async for item in session:
                    writer.write(item)
                await feeding
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
                writer.end()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _feed(session: Session, inputs: Sequence[str] | None, json_input: bool) -> None:
    """Send all inputs; what came before a line that is wrong is still processed."""
    try:
        number = 0
        async for line in _listed(inputs) if inputs else _stdin_lines():
            number += 1
            if line.strip():
                await session.send(*read_line(line, number, as_json=json_input))
    finally:
        await session.finish()


async def _listed(inputs: Sequence[str]) -> AsyncIterator[str]:
    for text in inputs:
        yield text


async def _stdin_lines() -> AsyncIterator[str]:
    """Lines of standard input, without their ends, as they come."""
    if sys.stdin.isatty():
        note("write a line and press Enter; Ctrl-D ends")
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | OSError | None] = asyncio.Queue()
    wanted = threading.Semaphore(1)

    def give(item: bytes | OSError | None) -> None:
        wanted.acquire()
        loop.call_soon_threadsafe(lines.put_nowait, item)

    def read() -> None:
        # os.read and a thread that nobody waits for: Ctrl-C need not wait for the end of a line
        rest = b""
        try:
            while block := os.read(fd, _BLOCK):
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    give(line)
            if rest:
                give(rest)
            give(None)
        except OSError as exc:
            give(exc)
        except RuntimeError:
            return  # the loop is closed: nobody listens any more

    fd = sys.stdin.fileno()
    threading.Thread(target=read, name="llamacore-stdin", daemon=True).start()
    number = 0
    while (item := await lines.get()) is not None:
        if isinstance(item, OSError):
            raise item
        number += 1
        wanted.release()
        try:
            yield item.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError:
            raise InvalidArgumentError(
                f"line {number} of standard input is not UTF-8 text", hint="convert it first"
            ) from None


class _News:
    """Shows on a terminal what the nodes are doing while they get ready."""

    def __init__(self, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._shown = False

    def show(self, news: Progress) -> None:
        if not self._on:
            return
        if news.status in ("ready", "error") and not (news.node and news.status == "ready"):
            self.clear()
            return
        words = " ".join(filter(None, (f"{news.node}:" if news.node else "", news.status, news.message)))
        print(f"\r{words[:100]}\x1b[K", end="", file=sys.stderr, flush=True)
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def _in_pieces(manifest: Manifest) -> set[str]:
    """Nodes whose texts are pieces of one: those that stream, and all behind them."""
    found = {node.id for node in manifest.nodes if node.is_streaming or node.node_type in _STREAMING}
    while more := {link.to for link in manifest.connections if link.from_ in found} - found:
        found |= more
    return found


def _n_outputs(manifest: Manifest) -> int:
    inner = {link.from_ for link in manifest.connections}
    return sum(node.is_output_node or node.id not in inner for node in manifest.nodes)
