"""One quantisation: its native parameters, a dry run that finds out what would be done, and the run itself."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import gguf
from ..errors import InvalidArgumentError, QuantizeError
from ..params import KvValue
from . import _enums, kv_override, log, sampler_checks
from ._handle import unowned_call
from ._native import ffi, lib, path_bytes
from ._status import raise_status
from .ftype import Ftype
from .imatrix import Imatrix
from .quantize_log import LineReader, TensorLine
from .quantize_params import QuantizeParams

Progress = Callable[[int, int, str], object]
"""Called with the number of the tensor that is begun, how many there are, and its name."""

MAX_PATTERN_BYTES = 256
_NO_TARGET = ("i8", "i16", "i32", "i64", "f64", "q8_1", "q8_k")  # ggml types that nothing is quantised to
_UNQUANTIZED = (Ftype.F32, Ftype.F16, Ftype.BF16)
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class QuantizedTensor:
    """One tensor of the output: its name, shape (fastest dimension first), types and sizes in bytes."""

    name: str
    shape: tuple[int, ...]
    type_before: str
    type_after: str
    nbytes_before: int
    nbytes_after: int


class Job:
    """Parameters in native form, kept as long as the job.

    Every run is preceded by a dry run: some of what upstream asserts on, in threads of its own where nothing can be
    caught, is known only once it has chosen the types.
    """

    def __init__(self, source: str, parts: Sequence[gguf.GgufFile], kind: Ftype | None, params: QuantizeParams) -> None:
        self._source = source
        self._inputs = {name: tensor for part in parts for name, tensor in part.tensors.items()}
        self._kind = kind
        self._params = params
        self._imatrix = None if params.imatrix is None else Imatrix.of(params.imatrix)
        self._keep: list[Any] = []
        self._kept_layers: list[int] = []
        native = lib.llama_model_quantize_default_params()
        for field, value in (
            ("nthread", params.n_threads),
            ("allow_requantize", params.allow_requantize),
            ("quantize_output_tensor", params.quantize_output_tensor),
            ("only_copy", params.only_copy),
            ("pure", params.pure),
            ("keep_split", params.keep_split),
            ("max_buf_size", params.max_buf_size),
        ):
            if value is not None:
                setattr(native, field, value)
        if kind is not None:
            native.ftype = kind.value
        if params.output_tensor_type is not None:
            native.output_tensor_type = _target_type("output_tensor_type", params.output_tensor_type)
        if params.token_embedding_type is not None:
            native.token_embedding_type = _target_type("token_embedding_type", params.token_embedding_type)
        if params.tensor_types:
            native.tt_overrides = self._tensor_types(params.tensor_types)
        if params.prune_layers:
            native.prune_layers = self._prune_layers(params.prune_layers, parts[0])
        if self._imatrix is not None:
            native.imatrix = self._imatrix.array
        overrides = self._overrides()
        if overrides:
            array, alive = kv_override.native(overrides)
            self._keep += [array, alive]
            native.kv_overrides = array
        self._native = ffi.new("llama_model_quantize_params *", native)

    def _overrides(self) -> dict[str, KvValue]:
        """The user's overrides, and where the importance matrix came from, as upstream's quantize tool notes it."""
        notes: dict[str, KvValue] = {}
        if self._imatrix is not None:
            if self._imatrix.source:
                name = self._imatrix.source.encode("utf-8", "replace")[: kv_override.MAX_BYTES]
                notes["quantize.imatrix.file"] = name.decode("utf-8", "ignore")
            notes["quantize.imatrix.entries_count"] = len(self._imatrix.sizes)
        return {**notes, **(self._params.kv_overrides or {})}

    def _tensor_types(self, given: Mapping[str, str]) -> Any:
        if self._kind is None or self._kind in _UNQUANTIZED:
            raise InvalidArgumentError("tensor_types has no effect on this file type", hint="choose a quantised one")
        array = ffi.new("struct llama_model_tensor_override[]", len(given) + 1)  # zeroed: a NULL pattern ends it
        for slot, (pattern, name) in zip(array, given.items(), strict=False):
            raw = sampler_checks.utf8("a pattern of tensor_types", pattern)
            try:
                found = any(re.search(pattern, tensor) for tensor in self._inputs)
            except re.error as exc:
                raise InvalidArgumentError(f"the pattern {pattern!r} of tensor_types does not parse: {exc}") from None
            if not 0 < len(raw) <= MAX_PATTERN_BYTES or not found:
                some = ", ".join(list(self._inputs)[:3])
                raise InvalidArgumentError(
                    f"the pattern {pattern[:80]!r} of tensor_types matches no tensor", hint=f"names are like {some}"
                )
            text = ffi.new("char[]", raw)
            self._keep.append(text)
            slot.pattern = text
            slot.type = _target_type(f"tensor_types[{pattern!r}]", name)
        self._keep.append(array)
        return array

    def _prune_layers(self, given: Sequence[int], part: gguf.GgufFile) -> Any:
        layers = sorted(set(given))
        count = part.metadata.get(f"{part.metadata.get('general.architecture')}.block_count")
        if not isinstance(count, int) or layers[-1] >= count or len(layers) >= count:
            raise InvalidArgumentError(
                f"prune_layers={layers}", hint=f"the model has {count} layers, numbered from 0, and one must stay"
            )
        self._kept_layers = [layer for layer in range(count) if layer not in layers]
        array = ffi.new("int32_t[]", [*layers, -1])
        self._keep.append(array)
        return array

    def _old_name(self, name: str) -> str:
        """Name that a tensor of the output had in the input, where pruning renumbers the layers."""
        match = _LAYER.search(name)
        if match is None or not self._kept_layers:
            return name
        return f"{name[: match.start(1)]}{self._kept_layers[int(match[1])]}{name[match.end(1) :]}"

    def _call(self, output: str, dry_run: bool, what: str, interval: float, progress: Progress | None) -> LineReader:
        """Run the native function in a thread, so that this one can read its log lines meanwhile."""
        with log.kept(logging.INFO):
            return self._call_logged(output, dry_run, what, interval, progress)

    def _call_logged(
        self, output: str, dry_run: bool, what: str, interval: float, progress: Progress | None
    ) -> LineReader:
        readers: list[LineReader] = []
        failures: list[BaseException] = []
        ready = threading.Event()
        self._native.dry_run = dry_run
        names = path_bytes(self._source), path_bytes(output)

        def work() -> None:
            mark = log.mark()
            readers.append(LineReader(int(lib.llc_thread_id())))
            ready.set()
            try:
                with unowned_call():
                    status = lib.llc_model_quantize(*names, self._native)
                if status != lib.LLC_OK:
                    raise_status(status, what, QuantizeError, mark=mark, hint="correct the options, or the model file")
            except BaseException as exc:
                failures.append(exc)

        thread = threading.Thread(target=work, name="llamacore-quantize")
        thread.start()
        ready.wait()
        interrupt: BaseException | None = None
        running = True
        while running:
            try:
                running = thread.is_alive()
                for line in readers[0].read():
                    if progress is not None and interrupt is None:
                        progress(line.number, line.total, line.name)
                thread.join(interval)
            except BaseException as exc:  # upstream cannot be stopped: handed on when it has ended
                interrupt = interrupt or exc
        log.drain()
        if interrupt is not None:
            raise interrupt
        if failures:
            raise failures[0]
        return readers[0]

    def plan(self) -> LineReader:
        """Find out what would be done, and refuse what would end badly."""
        for _ in range(3):  # the ring of log lines may overflow while this machine is busy
            plan = self._call("", True, f"planning the quantisation of {self._source}", 0.002, None)
            if plan.tensors and len(plan.tensors) == plan.tensors[0].total - self._n_pruned():
                break
        else:
            raise QuantizeError(
                "llama.cpp did not tell what it would do", hint="try again when the machine is less busy"
            )
        if not self._params.dry_run:
            if plan.needs_imatrix:
                wanted = self._kind.name if self._kind is not None else "a copy"
                raise QuantizeError(
                    f"{self._source} cannot become {wanted} without an importance matrix",
                    hint="give imatrix=, or choose a larger file type",
                )
            for tensor in plan.tensors:
                if tensor.before != tensor.after:
                    self._check(tensor)
        return plan

    def _n_pruned(self) -> int:
        if not self._kept_layers:
            return 0
        numbers = (_LAYER.search(name) for name in self._inputs)
        return sum(match is not None and int(match[1]) not in self._kept_layers for match in numbers)

    def _check(self, tensor: TensorLine) -> None:
        if not self._params.allow_requantize and lib.ggml_is_quantized(_enums.ggml_type(tensor.before)):
            raise QuantizeError(
                f"{tensor.name} is {tensor.before} already", hint="start from an F16 or F32 file, or allow_requantize"
            )
        if lib.ggml_quantize_requires_imatrix(_enums.ggml_type(tensor.after)):
            columns, _, *more = (*tensor.shape, 1, 1)
            sizes = {} if self._imatrix is None else self._imatrix.sizes
            if sizes.get(self._old_name(tensor.name)) != columns * more[0]:
                raise QuantizeError(
                    f"{tensor.name} cannot become {tensor.after} without an importance matrix",
                    hint="give one that has this tensor, or another type for it",
                )

    def run(self, aside: str, target: str, progress: Progress | None) -> None:
        """Write the output under the name `aside`."""
        self._call(aside, False, f"quantising {self._source} to {target}", 0.05, progress)

    def tensors(self, plan: LineReader, outputs: Sequence[str]) -> tuple[QuantizedTensor, ...]:
        """Describe what was done, or after a dry run what would be done."""
        written = {name: tensor for path in outputs for name, tensor in gguf.read(path).tensors.items()}
        found = []
        for line in plan.tensors:
            old = self._inputs[self._old_name(line.name)]
            size = lib.ggml_row_size(_enums.ggml_type(line.after), old.shape[0]) * math.prod(old.shape[1:])
            found.append(
                QuantizedTensor(
                    name=line.name,
                    shape=old.shape,
                    type_before=line.before,
                    type_after=written[line.name].storage.name if written else line.after,
                    nbytes_before=old.nbytes,
                    nbytes_after=written[line.name].nbytes if written else int(size),
                )
            )
        return tuple(found)


def _target_type(what: str, name: str) -> int:
    number = _enums.ggml_type(name)
    if name.lower() in _NO_TARGET:
        raise InvalidArgumentError(f"{what}={name!r}", hint="nothing can be quantised to this type")
    return number
