"""Whether drafting pays: a running estimate from the steps of an engine, with drafts and without."""

from __future__ import annotations

_STEPS = 12  # a look at one of the two ways
_WARM_UP = 4  # steps after a change that do not count: graphs are built, and drafts have little to go by
_FIRST_PAUSE = 128  # steps until the way that lost is looked at again; doubled each time that it loses
_LONGEST_PAUSE = 4096
_MARGIN = 0.02  # so much quicker must it be to be changed to
_MEMORY = 0.9  # weight of what was known, for each look and for each `_STEPS` steps of the way that is used


class _Way:
    """Generated tokens per second, with drafts or without."""

    def __init__(self) -> None:
        self.rate = 0.0  # 0 while it is not known
        self._begin()

    def _begin(self) -> None:
        self._steps = self._tokens = 0
        self._seconds = 0.0

    def note(self, tokens: int, seconds: float) -> bool:
        """Count a step; True when another look is complete."""
        self._steps += 1
        self._tokens += tokens
        self._seconds += seconds
        if self._steps < _STEPS:
            return False
        fresh = self._tokens / self._seconds if self._seconds > 0 else 0.0
        self.rate = fresh if not self.rate else _MEMORY * self.rate + (1 - _MEMORY) * fresh
        self._begin()
        return True

    def restart(self) -> None:
        """Forget what is known: it was long ago."""
        self.rate = 0.0
        self._begin()


class _Load:
    """The estimate for about as many texts at a time."""

    def __init__(self) -> None:
        self.ways = {True: _Way(), False: _Way()}
        self._pause = _FIRST_PAUSE
        self._left = _FIRST_PAUSE
        self._use(True, looking=True)

    def _use(self, drafting: bool, *, looking: bool) -> None:
        self.drafting = drafting
        self._looking = looking  # at the way in use now, which is not known yet
        self._warm_up = _WARM_UP

    def note(self, drafted: bool, tokens: int, seconds: float) -> None:
        if self._warm_up and drafted == self.drafting:
            self._warm_up -= 1
            return
        complete = self.ways[drafted].note(tokens, seconds)
        if drafted != self.drafting:
            return
        if self._looking:
            if complete:
                self._decide()
            return
        self._left -= 1
        if self._left <= 0:  # what has not been used is looked at again
            self.ways[not self.drafting].restart()
            self._use(not self.drafting, looking=True)

    def _decide(self) -> None:
        other = self.ways[not self.drafting]
        if not other.rate:  # the first look at either
            self._use(not self.drafting, looking=True)
            return
        self._looking = False
        challenger = self.ways[self.drafting]
        if challenger.rate > other.rate * (1 + _MARGIN):
            self._pause = _FIRST_PAUSE
        else:
            self._use(not self.drafting, looking=False)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self._left = self._pause

    @property
    def gain(self) -> float | None:
        with_drafts, without = self.ways[True].rate, self.ways[False].rate
        return with_drafts / without if with_drafts and without else None


class GainEstimate:
    """Decides for each step whether to draft.

    Speculation trades a larger batch for fewer steps; whether that wins depends on the model, its quantisation, the
    device, on how much of the drafts is right, and on how many texts share the batch already. So it is measured, for
    each power of two of texts at a time.

    Args:
        adaptive: Switch; without it only the rate with drafts is known.
    """

    def __init__(self, adaptive: bool) -> None:
        self._adaptive = adaptive
        self._loads: dict[int, _Load] = {}
        self._last: _Load | None = None

    def drafting(self, n_texts: int) -> bool:
        """Whether to draft in a step that generates so many texts."""
        load = self._loads.get(n_texts.bit_length())
        if load is None:
            load = self._loads[n_texts.bit_length()] = _Load()
        self._last = load
        return load.drafting or not self._adaptive

    def note(self, drafted: bool, tokens: int, seconds: float) -> None:
        """Count a step that only generated: how many tokens came out of it, and how long it took."""
        if self._last is not None:
            self._last.note(drafted, tokens, seconds)

    @property
    def active(self) -> bool:
        """Whether the last step was one to draft in."""
        return not self._adaptive or self._last is None or self._last.drafting

    @property
    def gain(self) -> float | None:
        """Tokens per second with drafts over those without, at the load of the last step; None while not known."""
        return None if self._last is None else self._last.gain
