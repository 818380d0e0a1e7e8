"""What a generation can be told, as keyword arguments."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from ..engine.request import GenerationParams, Overflow
from ..errors import InvalidArgumentError
from ..sampling import SamplingOptions, SamplingParams

if TYPE_CHECKING:
    from ..core.adapters import LoraAdapter
    from ..core.control_vector import ControlVector


class EndingOptions(TypedDict, total=False):
    """The fields of `GenerationParams` as keyword arguments: what ends a text, what is reported, how it is scheduled.

    Attributes:
        max_tokens: Most tokens to generate; None for as many as fit into the context, 0 to compute the prompt alone.
        min_tokens: Tokens that are generated before the text may end by itself.
        stop: Strings at which to stop; they are not part of the text.
        logprobs: Report log-probabilities, with this many alternatives for each token.
        special: Write control tokens as text.
        shown_tokens: Control tokens that are written as text even so.
        loras: LoRA adapters with their scales, for this request alone; left out, those of `Llama.set_lora`.
        priority: Higher ones are served first.
        deadline: Seconds from now, waiting included, after which it ends with what it has.
        time_limit: Seconds from the first token after which it ends with what it has.
        overflow: When the context is full: "stop", "shift" (forget the oldest) or "error".
        n_keep: Tokens at the start that "shift" never drops.
        cache_prompt: Use the prefix cache, and leave the text there.
        checkpoints: Numbers of prompt tokens after which the prefix cache keeps a state, see `GenerationParams`.
        draft_max: Most tokens that are drafted at a time, 0 for none; None for what `Llama(speculative=...)` says.
        steering: Control vectors with their scales, for this request alone; needs `Llama(..., taps=True)`.
        activation_layers: Layers whose output is put into the chunks and the completion, see `Activation`; needs taps.
        activation_every: Report every so many generated tokens, 0 for the end of the prompt alone.
    """

    max_tokens: int | None
    min_tokens: int
    stop: str | Sequence[str]
    logprobs: int | None
    special: bool
    shown_tokens: frozenset[int]
    loras: Mapping[LoraAdapter, float]
    priority: int
    deadline: float | None
    time_limit: float | None
    overflow: Overflow
    n_keep: int
    cache_prompt: bool
    checkpoints: Sequence[int]
    draft_max: int | None
    steering: Mapping[ControlVector, float]
    activation_layers: Sequence[int]
    activation_every: int


class GenerateOptions(EndingOptions, SamplingOptions, total=False):
    """All of them, and how a text prompt becomes tokens.

    Attributes:
        add_special: Let the model's own BOS and EOS be added to a text prompt; True unless told otherwise.
        parse_special: Read control tokens written in a text prompt as such; False unless told otherwise.
    """

    add_special: bool
    parse_special: bool


_ENDING = frozenset(field.name for field in dataclasses.fields(GenerationParams)) - {"n", "stream"}
_TOKENIZING = frozenset({"add_special", "parse_special"})
_KNOWN = _ENDING | _TOKENIZING | {field.name for field in dataclasses.fields(SamplingParams)}


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool], dict[str, Any]]:
    """Part options into those of `GenerationParams`, of `tokenize` and of `SamplingParams`.

    Raises:
        InvalidArgumentError: There is no such option; the message names the one that was probably meant.
    """
    for name in options.keys() - _KNOWN:
        close = difflib.get_close_matches(name, _KNOWN, 1)
        hint = f"did you mean {close[0]!r}?" if close else "see GenerateOptions for those there are"
        raise InvalidArgumentError(f"there is no option {name!r}", hint=hint)
    rest = dict(options)
    ending = {name: rest.pop(name) for name in _ENDING & rest.keys()}
    tokenizing = {name: rest.pop(name) for name in _TOKENIZING & rest.keys()}
    return ending, tokenizing, rest
