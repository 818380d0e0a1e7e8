"""Making smaller model files: quantisation (upstream: `llama_model_quantize`)."""

from __future__ import annotations

import glob
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import gguf
from ..errors import InvalidArgumentError, UnsupportedError
from ..params import StrPath, merge
from . import backend
from .ftype import Ftype
from .quantize_job import Job, Progress, QuantizedTensor
from .quantize_params import QuantizeOptions, QuantizeParams

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Ftype", "Progress", "QuantizeOptions", "QuantizeParams", "QuantizeResult", "QuantizedTensor", "quantize"]


_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class QuantizeResult:
    """What was made.

    Attributes:
        source: The file read (the first part of a split model).
        outputs: The files written; none for a dry run.
        ftype: File type; None for a copy.
        tensors: Tensors in the order in which they were written.
        n_fallback: Tensors whose shape did not fit the type they should have had.
        requires_imatrix: A dry run's warning that the real run needs an importance matrix.
        seconds: Time taken.
    """

    source: str
    outputs: tuple[str, ...]
    ftype: Ftype | None
    tensors: tuple[QuantizedTensor, ...]
    n_fallback: int
    requires_imatrix: bool
    seconds: float

    @property
    def size_before(self) -> int:
        """Bytes of the tensors as they were."""
        return sum(tensor.nbytes_before for tensor in self.tensors)

    @property
    def size_after(self) -> int:
        """Bytes of the tensors as they are now."""
        return sum(tensor.nbytes_after for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Average size of a weight in the output."""
        weights = sum(math.prod(tensor.shape) for tensor in self.tensors)
        return 8 * self.size_after / weights if weights else 0.0


def quantize(
    source: StrPath,
    output: StrPath | None = None,
    ftype: Ftype | str | None = None,
    params: QuantizeParams | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[QuantizeOptions],
) -> QuantizeResult:
    """Quantise a GGUF model file.

    The output is made aside and renamed when it is complete. Upstream cannot stop a quantisation: an exception in
    `progress`, Ctrl-C included, is raised when the run has ended, and no output is left.

    Args:
        source: The file, or the first part of a split model.
        output: The file to write, replaced if it exists; None for `<stem>-<ftype>.gguf` beside the input. With
            `keep_split` the name of the parts without `-00001-of-0000N.gguf`.
        ftype: File type, by name or member; may be left out for `only_copy`.
        params: How to do it.
        progress: Called in this thread as tensors are begun.
        **options: Fields of `QuantizeParams`, put over `params`.

    Returns:
        What was made.

    Raises:
        ModelNotFoundError: There is no such input.
        InvalidModelError: The input is damaged.
        InvalidArgumentError: An option is wrong, or the output would replace the input.
        UnsupportedError: Upstream cannot make that file type.
        QuantizeError: The options do not fit the model, or the run failed; no output is left.
    """
    params = merge(params or QuantizeParams(), options)
    if ftype is None and not params.only_copy:
        raise InvalidArgumentError("there is no file type", hint='give ftype="Q4_K_M" or another, or only_copy=True')
    kind = None if ftype is None or params.only_copy else Ftype.parse(ftype)
    if kind is not None and not kind.quantizable:
        raise UnsupportedError(f"this llama.cpp cannot make {kind.name} files", hint="choose another file type")
    start = time.monotonic()
    source = os.fspath(source)
    parts = [gguf.check(path) for path in _parts(source)]
    backend.init()
    job = Job(source, parts, kind, params)
    plan = job.plan()
    outputs: tuple[str, ...] = ()
    if not params.dry_run:
        target = _target(source, output, kind, bool(params.keep_split))
        with _aside(target, parts, bool(params.keep_split)) as (aside, finish):
            job.run(aside, target, progress)
            outputs = finish()
    return QuantizeResult(
        source=source,
        outputs=outputs,
        ftype=kind,
        tensors=job.tensors(plan, outputs),
        n_fallback=plan.n_fallback,
        requires_imatrix=plan.needs_imatrix,
        seconds=time.monotonic() - start,
    )


def _parts(source: str) -> list[str]:
    """Name all files of a split model whose first part is given."""
    match = re.search(r"-00001-of-(\d{5})\.gguf$", source)
    if match is None:
        return [source]
    count = int(match[1])
    return [f"{source[: match.start()]}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def _target(source: str, output: StrPath | None, kind: Ftype | None, keep_split: bool) -> str:
    if output is not None:
        target = os.fspath(output)
    else:
        stem = _SPLIT.sub("", os.path.splitext(source)[0])
        target = f"{stem}-{'copy' if kind is None else kind.name.lower()}.gguf"
    if keep_split and target.endswith(".gguf"):
        target = target[: -len(".gguf")]
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise InvalidArgumentError(f"there is no folder {folder} for the output", hint="make it first")
    if os.path.isdir(target):
        raise InvalidArgumentError(f"the output {target} is a folder", hint="give a file name")
    return target


@contextmanager
def _aside(
    target: str, parts: Sequence[gguf.GgufFile], keep_split: bool
) -> Iterator[tuple[str, Callable[[], tuple[str, ...]]]]:
    """Give a name to write to, and a function that moves what was written to its place."""
    aside = f"{target}.{os.getpid()}.{threading.get_ident()}.part"
    moves = [(aside, target)]
    if keep_split:
        ends = [f"-{i + 1:05d}-of-{len(parts):05d}.gguf" for i in range(len(parts))]
        moves = [(aside + end, target + end) for end in ends]
    for _, final in moves:
        if os.path.exists(final) and any(os.path.samefile(final, part.path) for part in parts):
            raise InvalidArgumentError(f"the output {final} is the input", hint="give another name")

    def finish() -> tuple[str, ...]:
        for written, _ in moves:
            gguf.check(written)
        for written, final in moves:
            os.replace(written, final)
        return tuple(final for _, final in moves)

    try:
        yield aside, finish
    finally:
        for left in glob.glob(glob.escape(aside) + "*"):
            os.unlink(left)
