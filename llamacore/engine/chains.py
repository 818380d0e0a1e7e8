"""Sampler chains for requests: one request after another mostly asks for the same, so chains are used again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ..errors import LlamaCoreError
from ..sampling import SamplingParams

if TYPE_CHECKING:
    from ..core.model import Model
    from ..core.sampler import Sampler


class ChainPool:
    """Makes sampler chains and takes them back, from any thread.

    Args:
        model: Model whose tokens are sampled; the chains are closed with it.
        size: Most chains that wait for their next use.
    """

    def __init__(self, model: Model, size: int) -> None:
        self._model = model
        self._size = size
        self._lock = threading.Lock()
        self._asked: tuple[SamplingParams, int] | None = None
        self._idle: list[Sampler] = []

    def take(self, sampling: SamplingParams, min_tokens: int) -> Sampler:
        """Return what `SamplingParams.chain` builds, as good as new; give it back or close it."""
        with self._lock:
            if self._idle and self._asked == (sampling, min_tokens):
                return self._idle.pop()
        return sampling.chain(self._model, min_tokens=min_tokens)

    def give_back(self, chain: Sampler, sampling: SamplingParams, min_tokens: int) -> None:
        """Keep a chain for the next request that asks for the same, instead of those kept for another one."""
        spent = [chain]
        # what follows a grammar or a thought has seen the opening of the reply, which a reset forgets
        plain = sampling.grammar is None and sampling.json_schema is None and sampling.reasoning_budget_tokens < 0
        if plain and _is_reset(chain):
            with self._lock:
                if self._asked != (sampling, min_tokens):
                    self._asked, spent, self._idle = (sampling, min_tokens), self._idle, [chain]
                elif len(self._idle) < self._size:
                    self._idle.append(chain)
                    spent = []
        for old in spent:
            old.close()


def _is_reset(chain: Sampler) -> bool:
    """Bring a chain to its beginning; False when it was closed meanwhile, with its model."""
    try:
        chain.reset()
    except LlamaCoreError:
        return False
    return True
