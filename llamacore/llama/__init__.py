"""`Llama`: a model and all that it can do behind one object; what most people meet first.

_base.py          the model, the engine, and text in and out
_options.py       what a generation can be told
_chat*.py         replies, tools, structured answers
_embed.py         embedding and ranking
_score.py         scoring and infilling
_openai*.py       all of it in the OpenAI API's shapes
_state.py         saving what was computed
_adapters.py      LoRA at run time
_pretrained.py    models of the hub
"""

from __future__ import annotations

from ._adapters import AdapterMixin
from ._base import LlamaBase, Prompt
from ._openai import OpenAIMixin
from ._pretrained import PretrainedMixin
from ._state import StateMixin

__all__ = ["Llama", "Prompt"]


class Llama(OpenAIMixin, StateMixin, AdapterMixin, PretrainedMixin):  # noqa: D101 (the docstring is inherited)
    __doc__ = LlamaBase.__doc__
