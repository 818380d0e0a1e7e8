"""What a generation reports: frozen records, from the single token to the finished completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "cancelled", "timeout"]


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probability of a generated token under the model, before sampling changed the distribution.

    Attributes:
        token: Token id.
        text: Its text; U+FFFD where it is a part of a character.
        logprob: Natural logarithm of its probability.
        top: The most likely tokens at its place with theirs, best first, as many as were asked for.
    """

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Activation:
    """The output of a layer at one place of a text.

    Attributes:
        layer: The layer, from 0.
        phase: "input" at the last token of the prompt, "response" at a generated one.
        token_index: Tokens that were generated up to there, that one included; 0 in the prompt.
        values: float32 [n_embd].
        elapsed_ms: Milliseconds since the request was made.
    """

    layer: int
    phase: Literal["input", "response"]
    token_index: int
    values: NDArray[np.float32]
    elapsed_ms: float


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, in the OpenAI API's words.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens that were generated.
        cached_tokens: Tokens of the prompt that the prefix cache had, so that they were not computed.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Wall-clock times of a request in milliseconds; the first token's sampling counts as prompt time.

    Attributes:
        prompt_ms: From the moment a sequence was free for it to its first token.
        predicted_ms: From its first token to its end.
        prompt_per_second: Prompt tokens that were computed (not those of the cache) per second.
        predicted_per_second: Generated tokens per second.
        queued_ms: Waiting for a free sequence.
    """

    prompt_ms: float
    predicted_ms: float
    prompt_per_second: float
    predicted_per_second: float
    queued_ms: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """A piece of a running generation.

    Attributes:
        text: New text, whole characters; never a part of a stop string.
        tokens: Tokens generated since the chunk before; their text may still be held back.
        logprobs: One entry per token when log-probabilities were asked for.
        finish_reason: Set on the last chunk of a sample only.
        result: The whole completion, on the last chunk of a sample only.
        index: Which sample it belongs to, when several were asked for.
        activations: Outputs of layers since the chunk before, when they were asked for.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    result: Completion | None = None
    index: int = 0
    activations: tuple[Activation, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A finished generation.

    Attributes:
        text: All text.
        tokens: All generated tokens, the end-of-generation token left out.
        finish_reason: "stop" (end of generation or a stop string), "length" (max_tokens or the context is full),
            "timeout" (its deadline or time limit) or "cancelled".
        stop: The stop string that ended it, which is not in the text.
        logprobs: One entry per token when log-probabilities were asked for.
        usage: Counts of tokens.
        timings: Times and rates.
        model: Name of the model.
        index: Which sample it is, when several were asked for.
        shifted_tokens: Tokens that were dropped from the context on the way, because it was full.
        activations: Outputs of layers, when they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stop: str | None
    logprobs: tuple[TokenLogprob, ...]
    usage: Usage
    timings: Timings
    model: str
    index: int = 0
    shifted_tokens: int = 0
    activations: tuple[Activation, ...] = ()
