"""A test kit: small random-weight models of real architectures, for tests of code that uses llamacore.

    vocabularies.py   tokenizers of any size
    weights.py        random tensors
    architectures.py  what each architecture has in its file
    models.py         tiny_model and bench_model
    adapters.py       tiny_lora

It needs the `test` extra (the `gguf` package), which is imported when a file is written.
"""

from .adapters import tiny_lora
from .models import bench_model, tiny_model

__all__ = ["bench_model", "tiny_lora", "tiny_model"]
