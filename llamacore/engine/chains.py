"""Sampler chains for requests: one request after another mostly asks for the same, so chains are used again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

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
        self._asked: Any = None
        self._idle: list[Sampler] = []

    def take(self, sampling: SamplingParams, min_tokens: int) -> tuple[Sampler, Callable[[], None]]:
        """Return what `SamplingParams.chain` builds, as good as new, and what gives it back."""
        asked = _snapshot(sampling, min_tokens)
        if asked is not None:
            with self._lock:
                if self._idle and self._asked == asked:
                    chain = self._idle.pop()
                    return chain, partial(self._give_back, chain, asked)
        chain = sampling.chain(self._model, min_tokens=min_tokens)
        return chain, chain.close if asked is None else partial(self._give_back, chain, asked)

    def _give_back(self, chain: Sampler, asked: Any) -> None:
        """Keep a chain for the next request that asks for the same, instead of those kept for another one."""
        spent = [chain]
        if _is_reset(chain):
            with self._lock:
                if self._asked != asked:
                    self._asked, spent, self._idle = asked, self._idle, [chain]
                elif len(self._idle) < self._size:
                    self._idle.append(chain)
                    spent = []
        for old in spent:
            old.close()


def _snapshot(sampling: SamplingParams, min_tokens: int) -> Any:
    """What a chain depends on, as it is now: a caller may change its dicts and lists later. None if it serves once."""
    if sampling.grammar is not None or sampling.json_schema is not None or sampling.reasoning_budget_tokens >= 0:
        return None  # such a chain has seen the opening of the reply, which a reset forgets
    return sampling, min_tokens, tuple(sampling.logit_bias.items()), tuple(sampling.dry_sequence_breakers)


def _is_reset(chain: Sampler) -> bool:
    """Bring a chain to its beginning; False when it was closed meanwhile, with its model."""
    try:
        chain.reset()
    except LlamaCoreError:
        return False
    return True
