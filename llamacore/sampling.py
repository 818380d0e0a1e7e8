"""How tokens are chosen, in upstream's terms: `SamplingParams` and the sampler chain that it stands for."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from .core import sampler_checks
from .core.grammar import Schema, json_schema_to_gbnf
from .core.reasoning import opening_tokens, reasoning_budget
from .core.sampler import DEFAULT_SEED, DRY_SEQUENCE_BREAKERS, Sampler
from .core.sampler_checks import probability, real, whole
from .errors import InvalidArgumentError
from .params import merge
from .presets import own_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .core.model import Model

DEFAULT_SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""Order of the samplers unless told otherwise."""

SAMPLER_CHARS: Mapping[str, str] = {
    "d": "dry", "k": "top_k", "y": "typ_p", "p": "top_p", "s": "top_n_sigma", "m": "min_p", "t": "temperature",
    "x": "xtc", "i": "infill", "e": "penalties", "a": "adaptive_p",
}  # fmt: skip
"""The letters of upstream's `--sampling-seq`."""

_ALIASES = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p", "typical": "typ_p"}
_REGEX_SPECIAL = re.compile(r"[.^$|()*+?\[\]{}\\]")
_eog_tokens: weakref.WeakKeyDictionary[Model, tuple[int, ...]] = weakref.WeakKeyDictionary()


def sampler_name(name: str) -> str:
    """Return upstream's name of a sampler from one of the spellings that upstream takes ("top-k", "topk", "nucleus").

    Raises:
        InvalidArgumentError: There is no such sampler; the message lists them.
    """
    plain = str(name).lower().replace("-", "_")
    for known in SAMPLER_CHARS.values():
        if plain in (known, known.replace("_", "")):
            return known
    if plain in _ALIASES:
        return _ALIASES[plain]
    raise InvalidArgumentError(
        f"there is no sampler {name!r}", hint="use some of: " + ", ".join(SAMPLER_CHARS.values())
    )


@dataclass(frozen=True)
class GrammarTrigger:
    """What starts a lazy grammar (upstream: `common_grammar_trigger`).

    Attributes:
        type: "word": a text that is written. "pattern": a regular expression (ECMAScript) that is found in the text,
            the grammar applies from its first group that matched. "pattern_full": one that all of the text matches.
            "token": a token.
        value: The text, the expression, or the token.
    """

    type: Literal["word", "pattern", "pattern_full", "token"]
    value: str | int

    def __post_init__(self) -> None:
        if self.type not in ("word", "pattern", "pattern_full", "token"):
            raise InvalidArgumentError(
                f"a grammar trigger of type {self.type!r}", hint="use word, pattern, pattern_full or token"
            )
        if isinstance(self.value, int if self.type == "token" else str) and self.value != "":
            return
        wanted = "a token" if self.type == "token" else "a text"
        raise InvalidArgumentError(f"a grammar trigger of type {self.type} with {self.value!r}", hint=f"give {wanted}")

    @property
    def pattern(self) -> str:
        """The trigger as a regular expression."""
        text = str(self.value)
        if self.type == "word":
            return _REGEX_SPECIAL.sub(r"\\\g<0>", text)
        if self.type == "pattern_full":
            return ("" if text.startswith("^") else "^") + text + ("" if text.endswith("$") else "$")
        return text


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen (upstream: `common_params_sampling`, with its defaults).

    Attributes:
        seed: Seed of 32 bits; None for a random one.
        temperature: Divides the logits; 0 or less chooses the most likely token.
        top_k: Keep this many of the most likely tokens; 0 or less for all.
        top_p: Keep the most likely tokens that together reach this probability; 1 for all.
        min_p: Keep tokens at least this many times as likely as the most likely one; 0 for all.
        typ_p: Keep tokens of typical surprise that together reach this probability; 1 for all.
        top_n_sigma: Keep logits within this many standard deviations of the highest; 0 or less for all.
        min_keep: Tokens that the samplers above leave at least.
        xtc_probability: Probability of dropping all likely tokens but the least likely of them.
        xtc_threshold: Probability from which a token counts as likely for that; above 0.5 switches it off.
        dynatemp_range: How far the temperature follows the entropy down and up; 0 switches it off.
        dynatemp_exponent: How the entropy maps to that range.
        penalty_last_n: Tokens to look back for the penalties; 0 switches them off.
        penalty_repeat: Repeated tokens become less likely by this factor; 1 for none.
        penalty_freq: Taken off the logit for each time a token occurred.
        penalty_present: Taken off the logit once when a token occurred.
        dry_multiplier: Strength of the DRY penalty on continued repetitions; 0 switches it off.
        dry_base: Its growth with the length of the repetition.
        dry_allowed_length: Repetitions up to this length go unpunished.
        dry_penalty_last_n: Tokens to look back for DRY; 0 switches it off.
        dry_sequence_breakers: Strings that interrupt a repetition.
        adaptive_target: Probability that chosen tokens stay near, when `samplers` has "adaptive_p"; negative for none.
        adaptive_decay: Weight of the past for that, 0 to 0.99.
        mirostat: 1 or 2 for Mirostat instead of the samplers above; 0 for none.
        mirostat_tau: Its target surprise.
        mirostat_eta: Its learning rate.
        samplers: Names of the samplers in their order.
        logit_bias: Added to the logits of tokens; minus infinity forbids a token.
        ignore_eos: Forbid every token that ends the text.
        grammar: GBNF grammar that the text must follow, from its rule `root`.
        grammar_lazy: Let the grammar wait for a trigger.
        grammar_triggers: What it waits for.
        json_schema: JSON schema that the text must follow, instead of a grammar.
        grammar_type: "user" for a grammar of the answer, which waits while the model thinks; "output_format" and
            "tool_calls" for one of the whole reply, `generation_prompt` included, as upstream derives it.
        generation_prompt: What the prompt has of the reply.
        reasoning_budget_tokens: Tokens that a thought may have before it is ended; -1 for no limit.
        reasoning_budget_start_tag: What opens a thought.
        reasoning_budget_end_tags: What ends one; the first is what is written when the budget is used up.
        reasoning_budget_message: Written before that.
        no_perf: Skip the time measurement behind `Sampler.perf`.
    """

    seed: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typ_p: float = 1.0
    top_n_sigma: float = -1.0
    min_keep: int = 0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    penalty_last_n: int = 64
    penalty_repeat: float = 1.0
    penalty_freq: float = 0.0
    penalty_present: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: Sequence[str] = DRY_SEQUENCE_BREAKERS
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    samplers: Sequence[str] = DEFAULT_SAMPLERS
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ignore_eos: bool = False
    grammar: str | None = None
    grammar_lazy: bool = False
    grammar_triggers: Sequence[GrammarTrigger] = ()
    json_schema: Schema | None = None
    grammar_type: Literal["user", "output_format", "tool_calls"] = "user"
    generation_prompt: str = ""
    reasoning_budget_tokens: int = -1
    reasoning_budget_start_tag: str = ""
    reasoning_budget_end_tags: Sequence[str] = ()
    reasoning_budget_message: str = ""
    no_perf: bool = False

    def __post_init__(self) -> None:
        if self.seed is not None:
            sampler_checks.seed(self.seed)
        for name in ("temperature", "top_n_sigma", "dynatemp_exponent", "penalty_freq", "penalty_present"):
            real(name, getattr(self, name))
        for name in ("dynatemp_range", "mirostat_tau", "mirostat_eta"):
            real(name, getattr(self, name), 0.0)
        for name in ("top_p", "min_p", "typ_p", "xtc_probability", "xtc_threshold"):
            probability(name, getattr(self, name))
        for name in ("dry_multiplier", "dry_base"):
            real(name, getattr(self, name))
        for name in ("penalty_last_n", "dry_penalty_last_n"):
            sampler_checks.window(name, getattr(self, name))
        sampler_checks.penalty_repeat(self.penalty_repeat)
        whole("top_k", self.top_k, -(2**31))
        whole("min_keep", self.min_keep, 0)
        whole("dry_allowed_length", self.dry_allowed_length, 0)
        real("adaptive_target", self.adaptive_target, -1.0, 1.0)
        real("adaptive_decay", self.adaptive_decay, 0.0, 0.99)
        whole("mirostat", self.mirostat, 0, 2)
        sampler_checks.breakers(self.dry_sequence_breakers)
        sampler_checks.logit_bias(self.logit_bias, None)
        prompt: Any = self.generation_prompt
        if not isinstance(prompt, str):
            raise InvalidArgumentError(f"generation_prompt={prompt!r}", hint="give a text")
        if isinstance(self.samplers, str) or not isinstance(self.samplers, Iterable):
            raise InvalidArgumentError(
                f"samplers={self.samplers!r}", hint="give a list of names, such as DEFAULT_SAMPLERS"
            )
        object.__setattr__(self, "samplers", tuple(sampler_name(name) for name in self.samplers))
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidArgumentError("there is both a grammar and a json_schema", hint="give one of them")
        if self.grammar_lazy and not self.grammar_triggers:
            raise InvalidArgumentError("a lazy grammar without grammar_triggers would never apply")
        if self.grammar_triggers and not self.grammar_lazy:
            raise InvalidArgumentError("grammar_triggers are for a lazy grammar", hint="set grammar_lazy=True as well")
        if self.grammar_lazy and self.grammar is None and self.json_schema is None:
            raise InvalidArgumentError("grammar_lazy without a grammar", hint="give grammar or json_schema as well")
        if self.grammar_type not in ("user", "output_format", "tool_calls"):
            raise InvalidArgumentError(
                f"grammar_type={self.grammar_type!r}", hint="use user, output_format or tool_calls"
            )
        whole("reasoning_budget_tokens", self.reasoning_budget_tokens, -1)
        if isinstance(self.reasoning_budget_end_tags, str):
            raise InvalidArgumentError("reasoning_budget_end_tags is one string", hint="give a list of tags")
        if self.reasoning_budget_tokens >= 0 and not self._has_thoughts:
            raise InvalidArgumentError(
                "a reasoning budget without the tags of a thought",
                hint="a model whose chat format has none does not think",
            )

    @classmethod
    def for_model(cls, model: Model, **options: Unpack[SamplingOptions]) -> SamplingParams:
        """Return the parameters that a model file recommends (`general.sampling.*`), with `options` put over them.

        Upstream's tools start from these.

        Raises:
            InvalidArgumentError: An option does not exist or is out of range, or the file recommends what is.
        """
        return merge(_DEFAULTS, {**own_options(model.metadata), **options})

    def chain(self, model: Model, *, min_tokens: int = 0) -> Sampler:
        """Build the sampler chain, as upstream's `common_sampler_init` does for these parameters.

        With a grammar it is a `Sampler.constrained` of the grammar and that chain: the tokens are upstream's for the
        same seed here too.

        Args:
            model: Model whose tokens are sampled; the chain is closed with it.
            min_tokens: Tokens before which none may end the text.

        Returns:
            A chain; the caller closes it, or drops it. Show it the prompt with `Sampler.accept_prompt`.

        Raises:
            GrammarError: The grammar or the schema cannot be used.
            OutOfRangeError: `logit_bias` has a token that the model does not have.
        """
        made: list[Sampler] = []
        grammar = self.grammar if self.json_schema is None else json_schema_to_gbnf(self.json_schema)
        try:
            opening = opening_tokens(model, self.generation_prompt)
            made += self._budget(model, opening, waits=grammar is not None and self._grammar_waits)
            made += self._biases(model)
            if min_tokens:
                made.append(Sampler.min_tokens(min_tokens, eog_tokens(model)))
            made += self._mirostat(model) if self.mirostat else self._selection(model)
            made = [Sampler.chain(*made, no_perf=self.no_perf, model=model)]
            if grammar is not None:
                made.append(self._grammar(model, grammar))
                return self._constrained(model, made[1], made[0], opening)
            return made[0]
        except BaseException:
            for sampler in made:
                sampler.close()
            raise

    def _grammar(self, model: Model, grammar: str) -> Sampler:
        return Sampler.grammar(
            model,
            grammar,
            trigger_patterns=[t.pattern for t in self.grammar_triggers if t.type != "token"],
            trigger_tokens=[int(t.value) for t in self.grammar_triggers if t.type == "token"],
        )

    @property
    def _has_thoughts(self) -> bool:
        return bool(self.reasoning_budget_start_tag and self.reasoning_budget_end_tags)

    @property
    def _grammar_waits(self) -> bool:
        """Whether the grammar leaves thoughts alone: one of the whole reply describes them too, unless it is lazy."""
        return self._has_thoughts and (self.grammar_lazy or self.grammar_type == "user")

    def _constrained(self, model: Model, grammar: Sampler, chain: Sampler, opening: Sequence[int]) -> Sampler:
        lazy, waits = self.grammar_lazy, self._grammar_waits
        tag = opening_tokens(model, self.reasoning_budget_start_tag) if waits and not lazy else []
        return Sampler.constrained(
            grammar,
            chain,
            opening=() if lazy or self.grammar_type == "user" else opening,
            waits=waits,
            replay=waits and lazy,
            start=tag[0] if len(tag) == 1 else None,
        )

    def _budget(self, model: Model, opening: Sequence[int], *, waits: bool) -> list[Sampler]:
        if not waits and self.reasoning_budget_tokens < 0:
            return []
        return [
            reasoning_budget(
                model,
                self.reasoning_budget_start_tag,
                self.reasoning_budget_end_tags,
                n_tokens=self.reasoning_budget_tokens,
                message=self.reasoning_budget_message,
                opening=opening,
            )
        ]

    def _biases(self, model: Model) -> list[Sampler]:
        bias = dict(self.logit_bias)
        forbidden = [*model.vocab.suppress_tokens, *(eog_tokens(model) if self.ignore_eos else ())]
        bias.update((token, float("-inf")) for token in forbidden)
        return [Sampler.logit_bias(model, bias)] if bias else []

    def _mirostat(self, model: Model) -> list[Sampler]:
        seed = DEFAULT_SEED if self.seed is None else self.seed
        tau, eta = self.mirostat_tau, self.mirostat_eta
        last = Sampler.mirostat(model, seed, tau, eta) if self.mirostat == 1 else Sampler.mirostat_v2(seed, tau, eta)
        return [Sampler.temp(self.temperature), last]

    @property
    def _neutral(self) -> set[str]:
        """Samplers that change nothing; upstream keeps a placeholder in their place, which takes time to make."""
        unpunished = (self.penalty_repeat, self.penalty_freq, self.penalty_present) == (1.0, 0.0, 0.0)
        changes = {
            "penalties": self.penalty_last_n != 0 and not unpunished,
            "dry": self.dry_multiplier != 0.0 and self.dry_base >= 1.0 and self.dry_penalty_last_n != 0,
            "top_n_sigma": self.top_n_sigma > 0.0,
            "top_k": self.top_k > 0,
            "typ_p": self.typ_p < 1.0,
            "top_p": self.top_p < 1.0,
            "min_p": self.min_p > 0.0,
            "xtc": self.xtc_probability > 0.0 and self.xtc_threshold <= 0.5,
        }
        return {name for name, any_change in changes.items() if not any_change}

    @property
    def _is_greedy(self) -> bool:
        """Whether the token with the highest logit is chosen; upstream gets there by way of probabilities."""
        others = set(self.samplers) - self._neutral - _KEEP_THE_LIKELIEST
        cold = self.temperature <= 0 and self.dynatemp_range == 0 and self.samplers[-1:] == ("temperature",)
        return cold and others <= {"penalties", "dry"}

    def _selection(self, model: Model) -> list[Sampler]:
        seed = DEFAULT_SEED if self.seed is None else self.seed
        makers = {
            "penalties": lambda: Sampler.penalties(
                model, self.penalty_last_n, self.penalty_repeat, self.penalty_freq, self.penalty_present
            ),
            "dry": lambda: Sampler.dry(
                model,
                self.dry_multiplier,
                self.dry_base,
                self.dry_allowed_length,
                self.dry_penalty_last_n,
                self.dry_sequence_breakers,
            ),
            "top_n_sigma": lambda: Sampler.top_n_sigma(self.top_n_sigma),
            "top_k": lambda: Sampler.top_k(self.top_k),
            "typ_p": lambda: Sampler.typical(self.typ_p, self.min_keep),
            "top_p": lambda: Sampler.top_p(self.top_p, self.min_keep),
            "min_p": lambda: Sampler.min_p(self.min_p, self.min_keep),
            "xtc": lambda: Sampler.xtc(self.xtc_probability, self.xtc_threshold, self.min_keep, seed),
            "temperature": lambda: Sampler.temp_ext(self.temperature, self.dynatemp_range, self.dynatemp_exponent),
            "infill": lambda: Sampler.infill(model),
        }
        neutral = self._neutral | (_KEEP_THE_LIKELIEST if self._is_greedy else set())
        made = [makers[name]() for name in self.samplers if name != "adaptive_p" and name not in neutral]
        if self._is_greedy:
            made.append(Sampler.greedy())
        elif "adaptive_p" in self.samplers:  # it chooses, so it stands last whatever the order says
            made.append(Sampler.adaptive_p(self.adaptive_target, self.adaptive_decay, seed))
        else:
            made.append(Sampler.dist(seed))
        return made


_KEEP_THE_LIKELIEST = {"top_n_sigma", "top_k", "top_p", "min_p", "temperature"}
_DEFAULTS = SamplingParams()


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams` as keyword arguments."""

    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typ_p: float
    top_n_sigma: float
    min_keep: int
    xtc_probability: float
    xtc_threshold: float
    dynatemp_range: float
    dynatemp_exponent: float
    penalty_last_n: int
    penalty_repeat: float
    penalty_freq: float
    penalty_present: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    adaptive_target: float
    adaptive_decay: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    samplers: Sequence[str]
    logit_bias: Mapping[int, float]
    ignore_eos: bool
    grammar: str | None
    grammar_lazy: bool
    grammar_triggers: Sequence[GrammarTrigger]
    json_schema: Schema | None
    grammar_type: Literal["user", "output_format", "tool_calls"]
    generation_prompt: str
    reasoning_budget_tokens: int
    reasoning_budget_start_tag: str
    reasoning_budget_end_tags: Sequence[str]
    reasoning_budget_message: str
    no_perf: bool


def eog_tokens(model: Model) -> tuple[int, ...]:
    """Return all tokens that end a text; looked up once for each model."""
    found = _eog_tokens.get(model)
    if found is None:
        found = tuple(token for token in range(len(model.vocab)) if model.vocab.is_eog(token))
        _eog_tokens[model] = found
    return found
