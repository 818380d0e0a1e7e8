"""Control vectors: a direction for each of some layers, and the files that upstream's tools keep them in."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from .. import gguf
from ..errors import AdapterError, InvalidArgumentError, InvalidModelError
from ..params import StrPath
from . import sampler_checks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ARCHITECTURE = "controlvector"
_TENSOR = re.compile(r"direction\.(\d{1,9})(?!\d)")
_ALIGNMENT = 32
_MAX_LAYER = 2**16


@dataclass(frozen=True, eq=False)
class ControlVector:
    """A direction for each of some layers, to be added to their outputs. Vectors can be added up and scaled.

    Equal to itself alone, so that it can be a key of a mapping to scales.

    Args:
        directions: float32 [n_embd] by layer; layers count from 0, and layer 0 cannot be steered. They are copied.
        model_hint: Architecture of the model it was made for, or an empty string.

    Raises:
        InvalidArgumentError: There is no direction, they have unequal lengths, or a number is not finite.
    """

    directions: Mapping[int, NDArray[np.float32]]
    model_hint: str = ""

    def __post_init__(self) -> None:
        import numpy as np

        given: object = self.directions
        if not isinstance(given, Mapping) or not given:
            raise InvalidArgumentError(
                "a control vector needs directions", hint="give {layer: numbers} with at least one layer"
            )
        checked: dict[int, NDArray[np.float32]] = {}
        for layer in sorted(sampler_checks.whole("a layer of a control vector", key, 1) for key in self.directions):
            try:
                with _overflow_is_infinite():
                    direction = np.array(self.directions[layer], dtype=np.float32)
            except (TypeError, ValueError) as exc:
                raise InvalidArgumentError(f"the direction of layer {layer} is no array of numbers") from exc
            if direction.ndim != 1 or not direction.size:
                raise InvalidArgumentError(
                    f"the direction of layer {layer} has the shape {direction.shape}", hint="give [n_embd] numbers"
                )
            if not np.isfinite(direction).all():
                raise InvalidArgumentError(f"the direction of layer {layer} has a number that is not finite")
            direction.flags.writeable = False
            checked[layer] = direction
        lengths = {len(direction) for direction in checked.values()}
        if len(lengths) > 1:
            raise InvalidArgumentError(f"the directions have unequal lengths: {sorted(lengths)}")
        object.__setattr__(self, "directions", MappingProxyType(checked))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a direction, ascending."""
        return tuple(self.directions)

    @property
    def n_embd(self) -> int:
        """Numbers of a direction."""
        return len(next(iter(self.directions.values())))

    @property
    def delta_norm(self) -> float:
        """Euclidean norm of all directions together: how much is added with a scale of 1."""
        return math.sqrt(sum(float(part @ part) for part in self.directions.values()))

    def __add__(self, other: ControlVector) -> ControlVector:
        if not isinstance(other, ControlVector):
            return NotImplemented
        if other.n_embd != self.n_embd:
            raise AdapterError(
                f"control vectors of {self.n_embd} and {other.n_embd} numbers", hint="add vectors of one model"
            )
        sums = dict(self.directions)
        with _overflow_is_infinite():
            for layer, direction in other.directions.items():
                sums[layer] = sums[layer] + direction if layer in sums else direction
        return ControlVector(sums, self.model_hint if self.model_hint == other.model_hint else "")

    def __mul__(self, scale: float) -> ControlVector:
        import numpy as np

        factor = np.float32(sampler_checks.real("the scale of a control vector", scale))
        with _overflow_is_infinite():  # which is refused
            scaled = {layer: part * factor for layer, part in self.directions.items()}
        return ControlVector(scaled, self.model_hint)

    __rmul__ = __mul__

    def __neg__(self) -> ControlVector:
        return self * -1.0

    def __sub__(self, other: ControlVector) -> ControlVector:
        if not isinstance(other, ControlVector):
            return NotImplemented
        return self + -other

    def for_layers(self, first: int = 1, last: int | None = None) -> ControlVector:
        """Return the part of it from one layer to another, both inclusive; None is its last one.

        Raises:
            InvalidArgumentError: It has no direction there.
        """
        end = self.layers[-1] if last is None else sampler_checks.whole("last", last, 1)
        start = sampler_checks.whole("first", first, 0)
        part = {layer: row for layer, row in self.directions.items() if start <= layer <= end}
        if not part:
            raise InvalidArgumentError(
                f"the control vector has no direction from layer {first} to {end}", hint=f"it has {list(self.layers)}"
            )
        return ControlVector(part, self.model_hint)

    def to_array(self, n_layer: int) -> NDArray[np.float32]:
        """Return float32 [n_layer - 1, n_embd] for `Context.set_control_vector`: row 0 is for layer 1.

        Raises:
            AdapterError: It has directions for more layers than that.
        """
        import numpy as np

        if self.layers[-1] >= n_layer:
            raise AdapterError(
                f"a control vector for layer {self.layers[-1]} of a model of {n_layer} layers",
                hint="use one that was made for this model, or a part of it: for_layers()",
            )
        rows = np.zeros((n_layer - 1, self.n_embd), dtype=np.float32)
        for layer, direction in self.directions.items():
            rows[layer - 1] = direction
        return rows

    @classmethod
    def from_array(cls, rows: NDArray[np.float32], *, model_hint: str = "") -> ControlVector:
        """Make one of an array.

        Args:
            rows: Numbers [layers, n_embd], row 0 for layer 1; rows of zeros are left out. They are copied.
            model_hint: Architecture of the model it was made for, or an empty string.

        Raises:
            InvalidArgumentError: It is no array of finite numbers of that shape, or has nothing but zeros.
        """
        import numpy as np

        try:
            given = np.asarray(rows, dtype=np.float32)
        except (TypeError, ValueError) as exc:
            raise InvalidArgumentError("the control vector is no array of numbers") from exc
        if given.ndim != 2:
            raise InvalidArgumentError(f"the control vector has the shape {given.shape}", hint="give [layers, n_embd]")
        return cls({layer: row for layer, row in enumerate(given, start=1) if row.any()}, model_hint)

    @classmethod
    def load(cls, path: StrPath) -> ControlVector:
        """Read a GGUF file of ours or of upstream's tools.

        Raises:
            ModelNotFoundError: There is no such file.
            InvalidModelError: The file is damaged.
            AdapterError: It is no control vector.
        """
        import numpy as np

        name = os.fspath(path)
        file = gguf.read(name)

        def fail(why: str) -> AdapterError:
            return AdapterError(
                f"{name} is no control vector: {why}",
                hint="`llamacore steer train` and llama-cvector-generator make some",
            )

        if not file.tensors:
            raise fail("it has no tensors")
        sums: dict[int, NDArray[np.float32]] = {}
        with open(name, "rb") as stream:
            for tensor in file.tensors.values():
                match = _TENSOR.match(tensor.name)
                layer = int(match[1]) if match else 0
                if not 0 < layer < _MAX_LAYER:
                    raise fail(f"the tensor {tensor.name!r} is not called direction.N with a layer N from 1")
                if tensor.storage.name != "f32" or len([size for size in tensor.shape if size != 1]) > 1:
                    raise fail(f"{tensor.name} is {tensor.storage.name} of shape {list(tensor.shape)}")
                stream.seek(tensor.offset)
                row = np.frombuffer(stream.read(tensor.nbytes), dtype="<f4").astype(np.float32)
                if len(row) * 4 != tensor.nbytes or not np.isfinite(row).all():
                    raise InvalidModelError(f"{name}: the numbers of {tensor.name} are damaged", hint="get it again")
                if len(row) == 0 or len(row) != len(next(iter(sums.values()), row)):
                    raise fail(f"{tensor.name} has {len(row)} numbers")
                with _overflow_is_infinite():
                    sums[layer] = sums[layer] + row if layer in sums else row  # upstream adds them up, too
        hint = file.metadata.get(f"{_ARCHITECTURE}.model_hint", "")
        return cls(sums, hint if isinstance(hint, str) else "")

    def save(self, path: StrPath) -> Path:
        """Write a GGUF file that upstream's tools read (`--control-vector`), aside first and then in place.

        Raises:
            OSError: It cannot be written.
        """
        target = Path(path)
        aside = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            aside.write_bytes(_as_gguf(self))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        return target

    def __repr__(self) -> str:
        return f"<ControlVector layers {list(self.layers)} of {self.n_embd} numbers, norm {self.delta_norm:.4g}>"


def mix(
    vectors: Mapping[ControlVector, float] | Iterable[tuple[ControlVector, float]],
) -> dict[int, NDArray[np.float32]]:
    """Add up vectors with their scales: float32 [n_embd] by layer, without those that come to zero.

    Raises:
        InvalidArgumentError: An entry is no control vector with a number.
        AdapterError: They have unequal lengths.
    """
    pairs: Iterable[Sequence[object]]
    try:
        pairs = list(vectors.items() if isinstance(vectors, Mapping) else vectors)
        entries = [(vector, scale) for vector, scale in pairs]
    except (TypeError, ValueError) as exc:
        raise InvalidArgumentError(f"{vectors!r} steers nothing", hint="give {ControlVector: scale}") from exc
    total: ControlVector | None = None
    for vector, scale in entries:
        if not isinstance(vector, ControlVector):
            raise InvalidArgumentError(f"{vector!r} is no ControlVector", hint="load it: ControlVector.load(path)")
        scaled = vector * scale  # type: ignore[operator]
        total = scaled if total is None else total + scaled
    return {} if total is None else {layer: row for layer, row in total.directions.items() if row.any()}


def _overflow_is_infinite() -> AbstractContextManager[object]:
    import numpy as np

    return np.errstate(over="ignore")


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _as_gguf(vector: ControlVector) -> bytes:
    string, int32 = int(gguf.ValueType.STRING), int(gguf.ValueType.INT32)
    keys = [
        _text("general.architecture") + struct.pack("<I", string) + _text(_ARCHITECTURE),
        _text(f"{_ARCHITECTURE}.model_hint") + struct.pack("<I", string) + _text(vector.model_hint),
        _text(f"{_ARCHITECTURE}.layer_count") + struct.pack("<Ii", int32, len(vector.layers)),
    ]
    size = vector.n_embd * 4
    step = -(-size // _ALIGNMENT) * _ALIGNMENT
    table = [
        _text(f"direction.{layer}") + struct.pack("<IQIQ", 1, vector.n_embd, 0, index * step)
        for index, layer in enumerate(vector.layers)
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(table), len(keys)) + b"".join(keys) + b"".join(table)
    data = [row.astype("<f4").tobytes().ljust(step, b"\0") for row in vector.directions.values()]
    return head.ljust(-(-len(head) // _ALIGNMENT) * _ALIGNMENT, b"\0") + b"".join(data)
