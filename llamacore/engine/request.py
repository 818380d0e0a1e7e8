"""What can be asked of the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core import sampler_checks
from ..core.adapters import LoraAdapter
from ..core.control_vector import ControlVector
from ..errors import InvalidArgumentError
from ..sampling import SamplingParams

Overflow = Literal["stop", "shift", "error"]

_MAX_LOGPROBS = 1000


@dataclass(frozen=True)
class GenerationParams:
    """What ends a generation, what is reported of it, and how it is scheduled.

    Attributes:
        max_tokens: Most tokens to generate; None for as many as fit into the context, 0 for computing (and caching) the
            prompt alone.
        min_tokens: Tokens that are generated before the text may end by itself.
        stop: Strings at which to stop.
        n: Samples of the same prompt, which is computed once.
        logprobs: None for no log-probabilities; else how many alternatives to report for each token (0 for none).
        special: Write control tokens as text instead of leaving them out.
        shown_tokens: Control tokens that are written as text even so (upstream: preserved tokens).
        loras: LoRA adapters with their scales, for this request alone.
        priority: Higher ones get a free sequence, and the room for prompts in a step, first.
        deadline: Seconds from now, waiting included, after which it ends with what it has.
        time_limit: Seconds of generation, counted from the first token, after which it ends with what it has.
        overflow: What to do when the context is full: "stop" ends with "length"; "shift" forgets the older half of what
            follows the first `n_keep` tokens and goes on, where the memory can do that; "error" raises.
        n_keep: Tokens at the start that "shift" never drops.
        cache_prompt: Use the prefix cache, and leave the text there.
        checkpoints: Numbers of prompt tokens after which a model whose memory has no parts keeps its state, such as
            the ends of messages.
        draft_max: Most tokens that are drafted at a time, 0 for none; None for what the engine drafts.
        steering: Control vectors with their scales, for this request alone; needs an engine with a tap.
        activation_layers: Layers whose output is reported, at the end of the prompt and of generated tokens; needs a
            tap.
        activation_every: Report every so many generated tokens, 0 for the prompt's end alone.
        stream: Report chunks; without it only the result is reported.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: Sequence[str] = ()
    n: int = 1
    logprobs: int | None = None
    special: bool = False
    shown_tokens: frozenset[int] = frozenset()
    loras: Mapping[LoraAdapter, float] = field(default_factory=dict)
    priority: int = 0
    deadline: float | None = None
    time_limit: float | None = None
    overflow: Overflow = "stop"
    n_keep: int = 0
    cache_prompt: bool = True
    checkpoints: Sequence[int] = ()
    draft_max: int | None = None
    steering: Mapping[ControlVector, float] = field(default_factory=dict)
    activation_layers: Sequence[int] = ()
    activation_every: int = 32
    stream: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", _all("stop", self.stop, lambda stop: isinstance(stop, str) and bool(stop)))
        object.__setattr__(self, "checkpoints", _all("checkpoints", self.checkpoints, _is_whole))
        object.__setattr__(self, "shown_tokens", frozenset(_all("shown_tokens", self.shown_tokens, _is_whole)))
        loras: Any = self.loras
        if not isinstance(loras, Mapping) or not all(isinstance(lora, LoraAdapter) for lora in loras):
            raise InvalidArgumentError(f"loras={loras!r}", hint="give {adapter: scale}")
        for scale in self.loras.values():
            sampler_checks.real("the scale of an adapter", scale)
        steering: Any = self.steering
        if not isinstance(steering, Mapping) or not all(isinstance(vector, ControlVector) for vector in steering):
            raise InvalidArgumentError(f"steering={steering!r}", hint="give {ControlVector: scale}")
        for scale in self.steering.values():
            sampler_checks.real("the scale of a control vector", scale)
        layers = _all("activation_layers", self.activation_layers, _is_whole)
        object.__setattr__(self, "activation_layers", tuple(dict.fromkeys(layers)))
        _whole("activation_every", self.activation_every, 0)
        for name in ("special", "cache_prompt", "stream"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(f"{name}={getattr(self, name)!r}", hint="give True or False")
        _whole("max_tokens", self.max_tokens, 0)
        _whole("min_tokens", self.min_tokens, 0)
        _whole("n", self.n, 1)
        _whole("logprobs", self.logprobs, 0, _MAX_LOGPROBS)
        _whole("priority", self.priority, -(2**31))
        _whole("n_keep", self.n_keep, 0)
        _whole("draft_max", self.draft_max, 0)
        for name in ("deadline", "time_limit"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise InvalidArgumentError(f"{name}={value!r}", hint="give seconds, 0 or more, or None")
        if self.overflow not in ("stop", "shift", "error"):
            raise InvalidArgumentError(f"overflow={self.overflow!r}", hint='give "stop", "shift" or "error"')
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidArgumentError(
                f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}", hint="swap them"
            )


@dataclass(frozen=True)
class Request:
    """A prompt with everything that is to be done with it.

    Attributes:
        prompt: Token ids; at least one.
        sampling: How tokens are chosen.
        params: What ends it, what is reported, how it is scheduled.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    params: GenerationParams = field(default_factory=GenerationParams)


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _all(name: str, values: Any, is_right: Callable[[Any], bool]) -> tuple[Any, ...]:
    """The values as a tuple, if there are some and all are right."""
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)) else None
    if found is None or not all(map(is_right, found)):
        what = "non-empty texts" if name == "stop" else "whole numbers"
        raise InvalidArgumentError(f"{name}={values!r}", hint=f"give a sequence of {what}")
    return found


def _whole(name: str, value: Any, lowest: int, highest: int = 2**31 - 1) -> None:
    if value is None and name in ("max_tokens", "logprobs", "draft_max"):
        return
    if isinstance(value, bool) or not hasattr(value, "__index__") or not lowest <= value <= highest:
        hint = f"give a whole number of {lowest} or more" if highest >= 2**31 - 1 else f"give {lowest} to {highest}"
        raise InvalidArgumentError(f"{name}={value!r}", hint=hint)
