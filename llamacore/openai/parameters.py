"""The parameters of requests as keyword arguments, for type checkers; `requests` checks their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from ..engine.request import Overflow
from ..sampling import GrammarTrigger


class SharedParameters(TypedDict, total=False):
    """What completions and chat have in common. None stands for "not given".

    Attributes:
        model: Name to answer with.
        max_tokens: Most tokens to generate; -1 or None for as many as fit into the context.
        max_completion_tokens: The same under the API's newer name.
        n: Choices.
        stop: Strings at which to stop; they are not part of the text.
        seed: Choice `i` is sampled with this seed + `i`; negative or None for a random one.
        logit_bias: Added to the logits of tokens; False forbids a token.
        stream_options: `{"include_usage": True}`: a last piece counts the tokens.
        response_format: `{"type": "text"}`, `{"type": "json_object"}` (which may have a "schema") or
            `{"type": "json_schema", "json_schema": {"schema": ...}}`.
        grammar: GBNF.
        frequency_penalty: `penalty_freq` of `SamplingParams`, which has the others under their own names too.
        presence_penalty: `penalty_present`.
        repeat_penalty: `penalty_repeat`.
        repetition_penalty: `penalty_repeat`.
        repeat_last_n: `penalty_last_n`.
        typical_p: `typ_p`.
        mirostat_mode: `mirostat`.
        min_tokens: Tokens that are generated before the text may end by itself.
        priority: Higher ones are served first.
        deadline: Seconds, waiting included, after which it ends with what it has.
        time_limit: Seconds from the first token after which it ends with what it has.
        overflow: When the context is full: "stop", "shift" or "error".
        n_keep: Tokens at the start that "shift" never drops.
        cache_prompt: Use the prefix cache, and leave the text there.
        user: No effect, like the other parameters about the service behind an API.
    """

    model: str | None
    max_tokens: int | None
    max_completion_tokens: int | None
    n: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    logit_bias: Mapping[Any, float] | None
    stream_options: Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    grammar: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    typ_p: float | None
    typical_p: float | None
    top_n_sigma: float | None
    min_keep: int | None
    xtc_probability: float | None
    xtc_threshold: float | None
    dynatemp_range: float | None
    dynatemp_exponent: float | None
    penalty_last_n: int | None
    repeat_last_n: int | None
    penalty_repeat: float | None
    repeat_penalty: float | None
    repetition_penalty: float | None
    penalty_freq: float | None
    frequency_penalty: float | None
    penalty_present: float | None
    presence_penalty: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_penalty_last_n: int | None
    dry_sequence_breakers: Sequence[str] | None
    adaptive_target: float | None
    adaptive_decay: float | None
    mirostat: int | None
    mirostat_mode: int | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    samplers: Sequence[str] | None
    ignore_eos: bool | None
    grammar_lazy: bool | None
    grammar_triggers: Sequence[GrammarTrigger] | None
    min_tokens: int | None
    priority: int | None
    deadline: float | None
    time_limit: float | None
    overflow: Overflow | None
    n_keep: int | None
    cache_prompt: bool | None
    user: str | None
    tfs_z: float | None
    stopping_criteria: None
    logits_processor: None


class CompletionParameters(SharedParameters, total=False):
    """Parameters of a completion.

    Attributes:
        suffix: Text that comes after the completion, which is then filled in between.
        logprobs: Report log-probabilities, with this many alternatives for each token.
        echo: Put the prompt before the completion.
        best_of: Only as many as `n`.
    """

    suffix: str | None
    logprobs: int | bool | None
    echo: bool | None
    best_of: int | None


class ChatParameters(SharedParameters, total=False):
    """Parameters of a reply.

    Attributes:
        tools: What the model may call.
        tool_choice: "auto", "none", "required" or `{"type": "function", "function": {"name": ...}}`.
        parallel_tool_calls: Whether several calls may be made at once.
        logprobs: Report log-probabilities.
        top_logprobs: With this many alternatives for each token.
        enable_thinking: Whether the model thinks first; None for its template's default.
        thinking_budget: Most tokens of thinking.
        reasoning_effort: Handed to the template; "none" is `enable_thinking=False`.
        chat_template_kwargs: Further names for the template.
    """

    tools: Sequence[Any] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    logprobs: bool | None
    top_logprobs: int | None
    enable_thinking: bool | None
    thinking_budget: int | None
    reasoning_effort: str | None
    chat_template_kwargs: Mapping[str, Any] | None


class EmbeddingParameters(TypedDict, total=False):
    """Parameters of embeddings.

    Attributes:
        model: Name to answer with.
        encoding_format: "float" for numbers, "base64" for little-endian float32.
        dimensions: Keep this many numbers of each, normalised anew.
        user: No effect.
    """

    model: str | None
    encoding_format: Literal["float", "base64"] | None
    dimensions: int | None
    user: str | None
