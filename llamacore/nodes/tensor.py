"""The envelope of numbers: activations and embeddings."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Dtype = Literal["f32", "i32"]

_DTYPES: tuple[Dtype, ...] = ("f32", "i32")  # their place is their number on the wire
_NUMPY = {"f32": "<f4", "i32": "<i4"}


@dataclass(frozen=True)
class Tensor:
    """Numbers in one block, the last dimension running fastest.

    Attributes:
        data: The numbers as bytes, little endian; a numpy array is turned into them.
        shape: Sizes of its dimensions; left out, those of the array, or one for all of the bytes.
        dtype: "f32" or "i32" (or their numbers 0 and 1); left out, that of the array, "f32" for bytes.
        metadata: More about it.
    """

    data_type: ClassVar[str] = "tensor"

    data: bytes | NDArray[Any]
    shape: Sequence[int] | None = None
    dtype: Dtype | Literal[0, 1] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, Mapping):
            raise InvalidArgumentError(f"metadata is a {type(self.metadata).__name__}", hint="give a dict")
        if not isinstance(self.shape, (Sequence, type(None))):
            raise InvalidArgumentError(f"shape={self.shape!r}", hint="give the sizes of the dimensions")
        given, dtype = self.data, _dtype(self.dtype)
        shape = None if self.shape is None else tuple(self.shape)
        if isinstance(given, (bytes, bytearray, memoryview)):
            raw, dtype = bytes(given), dtype or "f32"
        else:
            import numpy as np

            array = np.asarray(given)
            if array.dtype.kind not in "fiub":
                raise InvalidArgumentError(f"a tensor of {array.dtype}", hint="give float32 or int32 numbers")
            dtype = dtype or ("f32" if array.dtype.kind == "f" else "i32")
            raw, shape = array.astype(_NUMPY[dtype]).tobytes(), shape if shape is not None else array.shape
        if shape is None:
            shape = (len(raw) // 4,)
        if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) * 4 != len(raw):
            raise InvalidArgumentError(
                f"a tensor of the shape {list(shape)} with {len(raw)} bytes", hint="a number has 4 bytes"
            )
        for name, value in (("data", raw), ("shape", shape), ("dtype", dtype)):
            object.__setattr__(self, name, value)

    @property
    def array(self) -> NDArray[np.float32] | NDArray[np.int32]:
        """The numbers as a numpy array of their own, float32 or int32, of the tensor's shape."""
        import numpy as np

        shape: Any = self.shape
        numbers: NDArray[Any] = np.frombuffer(self.data, _NUMPY[str(self.dtype)]).reshape(shape).copy()
        return numbers

    def _fields(self) -> dict[str, Any]:
        data, dtype = self.data, self.dtype
        assert isinstance(data, bytes)
        assert dtype in _DTYPES
        return {"data": base64.b64encode(data).decode(), "shape": list(self.shape or ()), "dtype": _DTYPES.index(dtype)}


def _dtype(given: Any) -> Dtype | None:
    if given is None:
        return None
    for number, name in enumerate(_DTYPES):
        if given == name or (given == number and type(given) is int):
            return name
    raise InvalidArgumentError(f"dtype={given!r}", hint='give "f32" (0) or "i32" (1)')
