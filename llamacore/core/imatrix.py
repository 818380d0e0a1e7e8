"""Importance matrices: how much each column of a tensor matters, for quantisation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import gguf
from ..errors import InvalidArgumentError, ModelNotFoundError, QuantizeError
from ..params import StrPath
from . import backend, log, sampler_checks
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Imatrix:
    """The native array of an importance matrix, valid as long as this object.

    Attributes:
        array: The terminated `llama_model_imatrix_data` array.
        sizes: Tensor name to number of weights.
        source: File it came from, or an empty string.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], source: str = "") -> None:
        import numpy as np

        self.source = source
        self.sizes: dict[str, int] = {}
        self.array: Any = ffi.new("struct llama_model_imatrix_data[]", len(weights) + 1)  # zeroed: a NULL name ends it
        self._keep: list[Any] = []
        for slot, (name, values) in zip(self.array, weights.items(), strict=False):
            data = np.ascontiguousarray(values, dtype=np.float32).ravel()
            if not data.size or not np.isfinite(data).all():
                raise InvalidArgumentError(f"the importance matrix of {name!r} is empty or not finite")
            raw = ffi.new("char[]", sampler_checks.utf8("a tensor name", name))
            native = ffi.from_buffer("float[]", data)
            slot.name, slot.data, slot.size = raw, native, data.size
            self._keep += [raw, data, native]
            self.sizes[name] = int(data.size)

    @classmethod
    def of(cls, given: StrPath | Mapping[str, NDArray[np.float32]]) -> Imatrix:
        """Take over a mapping, or read a file as upstream's `imatrix` tool writes it (GGUF or the older format).

        Raises:
            ModelNotFoundError: There is no such file.
            QuantizeError: The file is no importance matrix.
            InvalidArgumentError: A number is not finite.
        """
        if isinstance(given, Mapping):
            return cls(given)
        path = os.fspath(given)
        return cls(load_imatrix(path), path)


def load_imatrix(path: StrPath) -> dict[str, NDArray[np.float32]]:
    """Read an importance matrix file: tensor name to mean squared activations, float32 [columns * experts].

    Raises:
        ModelNotFoundError: There is no such file.
        InvalidModelError: It is a damaged GGUF file.
        QuantizeError: It is no importance matrix.
    """
    import numpy as np

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise ModelNotFoundError(f"there is no importance matrix file {name}", hint="check the path")
    with open(name, "rb") as file:
        is_gguf = file.read(4) == b"GGUF"
        sound = is_gguf or _is_older_format(file, os.path.getsize(name))
    if is_gguf:
        sound = all(tensor.storage.name == "f32" for tensor in gguf.read(name).tensors.values())
    if not sound:
        raise QuantizeError(f"{name} is no importance matrix", hint="make one with upstream's imatrix tool")
    backend.init()
    out = ffi.new("struct llc_imatrix **")
    mark = log.mark()
    status = lib.llc_imatrix_load(path_bytes(name), out)
    if status != lib.LLC_OK:
        raise_status(status, f"{name} is no importance matrix", QuantizeError, mark=mark)
    try:
        data, size = ffi.new("const float **"), ffi.new("size_t *")
        found = {}
        for index in range(lib.llc_imatrix_count(out[0])):
            key = text(lib.llc_imatrix_entry(out[0], index, data, size))
            found[key] = np.frombuffer(ffi.buffer(data[0], size[0] * 4), dtype=np.float32).copy()
        if not found:
            raise QuantizeError(f"{name} is no importance matrix: it has no entries")
        return found
    finally:
        lib.llc_imatrix_free(out[0])


def _is_older_format(file: BinaryIO, size: int) -> bool:
    """Whether the entries of a file in the format before GGUF lie inside the file: upstream believes what it says."""

    def number() -> int:
        raw = file.read(4)
        return int.from_bytes(raw, "little", signed=True) if len(raw) == 4 else -1

    file.seek(0)
    entries = number()
    if entries < 1:
        return False
    for _ in range(entries):
        for width in (1, 4):  # the name, then the weights
            if width == 4:
                number()  # calls
            count = number()
            if count < 1 or file.tell() + count * width > size:
                return False
            file.seek(count * width, os.SEEK_CUR)
    return True
