"""Whether llama.cpp can be trusted with a file: what it would crash on is found here first."""

from __future__ import annotations

import os

from .reader import GgufFile, read


def check(path: str | os.PathLike[str]) -> GgufFile:
    """Read a model file and refuse what llama.cpp would crash on instead of reporting it.

    Args:
        path: A GGUF file; of a split model one part.

    Returns:
        GgufFile: What the header says.

    Raises:
        InvalidModelError: The file is damaged or describes a model that cannot be run.
        ModelNotFoundError: There is no such file.
        ModelLoadError: The file cannot be read.
    """
    return read(path)
