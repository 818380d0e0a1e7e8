"""`Llama`: a model and all that it can do behind one object; what most people meet first.

    _base.py       the model, the engine, and text in and out
    _options.py    what a generation can be told
    _state.py      saving what was computed
    _adapters.py   LoRA at run time
"""

from __future__ import annotations

from ._adapters import AdapterMixin
from ._base import LlamaBase, Prompt
from ._state import StateMixin

__all__ = ["Llama", "Prompt"]


class Llama(StateMixin, AdapterMixin, LlamaBase):
    __doc__ = LlamaBase.__doc__
