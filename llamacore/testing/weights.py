"""Random tensors of one model, in the storage type asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError

# GGUF names of storage types and their numbers in `enum ggml_type`; `enum llama_ftype` has the number of the file type
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
_GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}
_BLOCK = 32


class Weights:
    """Tensors by name. Shapes are given as llama.cpp states them: the fastest dimension first.

    Args:
        seed: Of every random number.
        dtype: Storage type of matrices: f32, f16, q8_0 or q4_0. Other tensors are F32, as llama.cpp wants them, and so
            are matrices whose rows are no whole number of blocks.
        alike: Give all matrices of one shape the same numbers, and the same memory.
    """

    def __init__(self, seed: int, dtype: str, *, alike: bool = False) -> None:
        if dtype not in _GGML_TYPES:
            raise InvalidArgumentError(f"dtype {dtype!r} is not known here", hint=f"use one of {', '.join(FILE_TYPES)}")
        self._rng = np.random.default_rng(seed)
        self._dtype = dtype
        self._drawn: dict[tuple[object, ...], tuple[NDArray[Any], int]] | None = {} if alike else None
        self.n_parameters = 0
        self.arrays: dict[str, tuple[NDArray[Any], int]] = {}

    def put(self, name: str, array: NDArray[np.float32]) -> None:
        """Add an F32 tensor as it is; its last axis is the fastest."""
        self.n_parameters += array.size
        self.arrays[name] = (np.ascontiguousarray(array, dtype=np.float32), _GGML_TYPES["f32"])

    def normal(self, name: str, *shape: int, mean: float = 0.0, std: float = 0.02) -> None:
        """Add an F32 tensor of normally distributed values."""
        values = self._rng.standard_normal(shape[::-1], dtype=np.float32)
        self.put(name, values * np.float32(std) + np.float32(mean))

    def norm(self, name: str, n: int) -> None:
        """Add the scale of a normalisation, near one."""
        self.normal(name, n, mean=1.0, std=0.05)

    def matrix(self, name: str, n_in: int, *n_out: int, std: float | None = None) -> None:
        """Add a matrix `[n_in, *n_out]` that keeps the variance of its input."""
        std = n_in**-0.5 if std is None else std
        key = (n_in, n_out, std)
        if self._drawn is not None and key in self._drawn:
            self.n_parameters += n_in * int(np.prod(n_out, dtype=np.int64))
            self.arrays[name] = self._drawn[key]
            return
        self._draw_matrix(name, n_in, n_out, std)
        if self._drawn is not None:
            self._drawn[key] = self.arrays[name]

    def _draw_matrix(self, name: str, n_in: int, n_out: tuple[int, ...], std: float) -> None:
        rows = n_out[::-1]
        if self._dtype in ("f32", "f16") or n_in % _BLOCK:
            self.normal(name, n_in, *n_out, std=std)
            if self._dtype == "f16":
                array, _ = self.arrays[name]
                self.arrays[name] = (array.astype(np.float16), _GGML_TYPES["f16"])
            return
        # random blocks directly: the integers are uniform, so their standard deviation sets the block scale
        n_levels, n_bytes = (255, _BLOCK) if self._dtype == "q8_0" else (16, _BLOCK // 2)
        blocks = np.empty((*rows, n_in // _BLOCK, 2 + n_bytes), dtype=np.uint8)
        scale = np.float16(std / ((n_levels**2 - 1) / 12) ** 0.5)
        blocks[..., :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
        blocks[..., 2:] = self._rng.integers(0, 256, blocks[..., 2:].shape, dtype=np.uint8)
        if self._dtype == "q8_0":  # -128 is no level of Q8_0
            np.copyto(blocks[..., 2:], np.uint8(127), where=blocks[..., 2:] == 128)
        self.n_parameters += n_in * int(np.prod(rows, dtype=np.int64))
        self.arrays[name] = (blocks.reshape(*rows, -1), _GGML_TYPES[self._dtype])

    def quieten(self, name: str, rows: Sequence[int]) -> None:
        """Make some rows of a matrix added before so small that they give the least of all outputs."""
        array, kind = self.arrays[name]
        if self._drawn is not None:
            array = array.copy()
            self.arrays[name] = (array, kind)
        if array.dtype != np.uint8:
            array[rows] *= array.dtype.type(1e-3)
            return
        blocks = array.reshape(len(array), -1, 2 + (_BLOCK if kind == _GGML_TYPES["q8_0"] else _BLOCK // 2))
        scale = np.frombuffer(blocks[0, 0, :2].tobytes(), dtype=np.float16) * np.float16(1e-2)
        blocks[rows, :, :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
