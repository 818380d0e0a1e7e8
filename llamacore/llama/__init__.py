"""`Llama`: a model and all that it can do behind one object; what most people meet first."""

from __future__ import annotations

from ._base import LlamaBase, Prompt

__all__ = ["Llama", "Prompt"]


class Llama(LlamaBase):
    __doc__ = LlamaBase.__doc__
