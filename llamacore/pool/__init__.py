"""Several `Llama`s behind one object."""

from __future__ import annotations

from .llama_pool import LlamaPool

__all__ = ["LlamaPool"]
