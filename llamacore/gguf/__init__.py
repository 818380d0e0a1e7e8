"""GGUF files read without native code: what they say, and whether llama.cpp can be trusted with them.

format.py       constants of the format
reader.py       header, metadata and tensor table, bounds checked
check.py        what llama.cpp would crash on, with
facts.py        what it takes for granted
model_file.py   the questions that the checks ask
vocabulary.py   what a vocabulary may do to a tokenizer
"""

from .check import check
from .format import StorageType, ValueType
from .reader import GgufFile, Metadata, Tensor, read

__all__ = ["GgufFile", "Metadata", "StorageType", "Tensor", "ValueType", "check", "read"]
