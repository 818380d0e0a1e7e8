"""The sampling options of the command line, under upstream's names, and the fields of `SamplingParams` they set.

Each option is declared once here; commands take the ones that the user gave as a mapping of field name to value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from llamacore.errors import InvalidArgumentError
from llamacore.sampling import SAMPLER_CHARS, SamplingParams

from ._option import option

if TYPE_CHECKING:
    from llamacore.sampling import SamplingOptions

_option = partial(option, "Sampling (default: llama.cpp's own)")

Seed = Annotated[int | None, _option("Seed of the random numbers; the default is a random one.", "--seed", "-s")]
Temperature = Annotated[
    float | None, _option("Temperature; 0 or less takes the most likely token.", "--temp", "--temperature")
]
TopK = Annotated[int | None, _option("Keep the k most likely tokens; 0 for all.", "--top-k")]
TopP = Annotated[float | None, _option("Keep the most likely tokens that make up probability p.", "--top-p")]
MinP = Annotated[float | None, _option("Drop tokens below p times the highest probability.", "--min-p")]
TopNSigma = Annotated[
    float | None, _option("Keep logits within n standard deviations; -1 for all.", "--top-nsigma", "--top-n-sigma")
]
XtcProbability = Annotated[float | None, _option("XTC: probability of cutting the top choices.", "--xtc-probability")]
XtcThreshold = Annotated[
    float | None, _option("XTC: probability above which a token is a top choice.", "--xtc-threshold")
]
Typical = Annotated[float | None, _option("Locally typical sampling p; 1 is off.", "--typical", "--typical-p")]
RepeatLastN = Annotated[int | None, _option("Tokens that penalties look back; 0 is off.", "--repeat-last-n")]
RepeatPenalty = Annotated[float | None, _option("Penalty for repeated tokens; 1 is off.", "--repeat-penalty")]
PresencePenalty = Annotated[
    float | None, _option("Penalty for tokens that are present; 0 is off.", "--presence-penalty")
]
FrequencyPenalty = Annotated[
    float | None, _option("Penalty per occurrence of a token; 0 is off.", "--frequency-penalty")
]
DryMultiplier = Annotated[float | None, _option("DRY: strength; 0 is off.", "--dry-multiplier")]
DryBase = Annotated[float | None, _option("DRY: base of the penalty.", "--dry-base")]
DryAllowedLength = Annotated[int | None, _option("DRY: length of repetition that is free.", "--dry-allowed-length")]
DryPenaltyLastN = Annotated[int | None, _option("DRY: tokens to look back; 0 is off.", "--dry-penalty-last-n")]
DrySequenceBreaker = Annotated[
    list[str] | None,
    _option("DRY: text that ends a repetition (repeat); 'none' for no breaker.", "--dry-sequence-breaker"),
]
AdaptiveTarget = Annotated[
    float | None, _option("Adaptive-p: probability to aim at; negative is off.", "--adaptive-target")
]
AdaptiveDecay = Annotated[float | None, _option("Adaptive-p: decay of its average.", "--adaptive-decay")]
DynatempRange = Annotated[float | None, _option("Dynamic temperature: range; 0 is off.", "--dynatemp-range")]
DynatempExp = Annotated[float | None, _option("Dynamic temperature: exponent.", "--dynatemp-exp")]
Mirostat = Annotated[int | None, _option("Mirostat version; 0 is off, 1 or 2.", "--mirostat")]
MirostatLr = Annotated[float | None, _option("Mirostat: learning rate (eta).", "--mirostat-lr")]
MirostatEnt = Annotated[float | None, _option("Mirostat: target entropy (tau).", "--mirostat-ent")]
MinKeep = Annotated[int | None, _option("Tokens that truncating samplers must keep.", "--min-keep")]
LogitBias = Annotated[list[str] | None, _option("TOKEN_ID(+/-)BIAS, as in 15043+1 (repeat).", "--logit-bias", "-l")]
IgnoreEos = Annotated[bool | None, _option("Never end: forbid end-of-generation tokens.", "--ignore-eos")]
Samplers = Annotated[str | None, _option("Order of the samplers, separated by ';'.", "--samplers")]
SamplerSeq = Annotated[
    str | None, _option("Order of the samplers, a letter each, as 'edskypmxt'.", "--sampler-seq", "--sampling-seq")
]
Grammar = Annotated[str | None, _option("GBNF grammar that the text must follow.", "--grammar")]
GrammarFile = Annotated[Path | None, _option("File with a GBNF grammar.", "--grammar-file")]
JsonSchema = Annotated[str | None, _option("JSON schema that the text must follow.", "--json-schema", "-j")]
JsonSchemaFile = Annotated[Path | None, _option("File with a JSON schema.", "--json-schema-file", "-jf")]


PLAIN_FIELDS = frozenset({
    "seed", "temperature", "top_k", "top_p", "min_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "typ_p",
    "penalty_last_n", "penalty_repeat", "penalty_present", "penalty_freq", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "adaptive_target", "adaptive_decay", "dynatemp_range",
    "dynatemp_exponent", "mirostat", "mirostat_eta", "mirostat_tau", "min_keep", "ignore_eos",
})  # fmt: skip
"""Fields of `SamplingParams` that an option sets as it stands."""


def read_text(path: Path) -> str:
    """Read a UTF-8 file; a clear error if it is not one."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidArgumentError(f"{path} is not UTF-8 text (byte {exc.start})", hint="convert it first") from exc


def sampling_options(
    given: Mapping[str, Any],
    *,
    logit_bias: Sequence[str] | None,
    breakers: Sequence[str] | None,
    samplers: str | None,
    sampler_seq: str | None,
    grammar: str | None,
    grammar_file: Path | None,
    json_schema: str | None,
    json_schema_file: Path | None,
) -> SamplingOptions:
    """Collect the options that were given as fields of `SamplingParams`.

    Raises:
        InvalidArgumentError: Options that exclude one another, or values that do not parse.
    """
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if logit_bias:
        chosen["logit_bias"] = dict(_parse_bias(item) for item in logit_bias)
    if breakers:
        chosen["dry_sequence_breakers"] = () if list(breakers) == ["none"] else tuple(breakers)
    if samplers is not None:
        chosen["samplers"] = tuple(name.strip() for name in samplers.split(";") if name.strip())
    if sampler_seq is not None:
        if samplers is not None:
            raise InvalidArgumentError("--samplers and --sampler-seq exclude one another", hint="give one of them")
        unknown = sorted(set(sampler_seq) - set(SAMPLER_CHARS))
        if unknown:
            known = ", ".join(f"{letter} {name}" for letter, name in SAMPLER_CHARS.items())
            raise InvalidArgumentError(f"--sampler-seq has {unknown[0]!r}", hint=f"the letters are: {known}")
        chosen["samplers"] = tuple(SAMPLER_CHARS[letter] for letter in sampler_seq)
    constraints = {
        "--grammar": grammar,
        "--grammar-file": grammar_file,
        "--json-schema": json_schema,
        "--json-schema-file": json_schema_file,
    }
    named = [name for name, value in constraints.items() if value is not None]
    if len(named) > 1:
        raise InvalidArgumentError(f"{' and '.join(named)} exclude one another", hint="give one of them")
    if grammar is not None or grammar_file is not None:
        chosen["grammar"] = grammar if grammar_file is None else read_text(grammar_file)
    if json_schema is not None or json_schema_file is not None:
        chosen["json_schema"] = json_schema if json_schema_file is None else read_text(json_schema_file)
    SamplingParams(**chosen)  # what is wrong is said before a model is loaded
    return cast("SamplingOptions", chosen)


def _parse_bias(item: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+)([+-](?:\d+(?:\.\d*)?|\.\d+|inf))", item.strip())
    if match is None:
        raise InvalidArgumentError(f"--logit-bias {item!r}", hint="write TOKEN_ID(+/-)BIAS, as in 15043+1 or 15043-inf")
    return int(match[1]), float(match[2])
