"""Whether a grammar takes a text, asked of the real thing."""

from __future__ import annotations

import llamacore as lc
from llamacore.errors import SamplingError


def fits(model: lc.Model, gbnf: str, text: str) -> bool:
    """Whether the grammar takes the whole text, and the end of the text after it."""
    eos = model.vocab.eos
    assert eos is not None
    with lc.Sampler.grammar(model, gbnf) as sampler:
        try:
            for token in [*model.vocab.tokenize(text, add_special=False), eos]:
                sampler.accept(token)
        except SamplingError:
            return False
    return True
