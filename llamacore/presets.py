"""Recommended sampling: what a model file says itself, else what is known of its family.

Values are names and numbers of `SamplingParams` fields, so that this part needs none of the parts above it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os.path import basename
from types import MappingProxyType
from typing import Any, Literal

from .errors import InvalidArgumentError

Source = Literal["gguf", "family", "default"]
Thinks = Literal["never", "always", "optional"]


@dataclass(frozen=True)
class SamplingPreset:
    """Recommended values of `SamplingParams` fields; None leaves upstream's default.

    Attributes:
        temperature: See `SamplingParams`.
        top_p: See `SamplingParams`.
        top_k: See `SamplingParams`.
        min_p: See `SamplingParams`.
        penalty_present: See `SamplingParams`.
    """

    temperature: float
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    penalty_present: float | None = None

    def options(self) -> dict[str, Any]:
        """The fields that have a value, as options of `SamplingParams`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Family:
    """What is known of a family of models.

    Attributes:
        name: Its name: words joined by "-", which occur in this order in the name of each of its models.
        sampling: Recommended for answers without thinking; for a family that always thinks, for all of them.
        thinking: Recommended while it thinks, where that differs.
        n_ctx: Context length that its authors give.
        thinks: Whether its models think before they answer; "optional" ones do unless told otherwise.
        architectures: `general.architecture` of models that belong to it whatever their name.
    """

    name: str
    sampling: SamplingPreset
    thinking: SamplingPreset | None = None
    n_ctx: int = 0
    thinks: Thinks = "never"
    architectures: tuple[str, ...] = ()

    def preset(self, thinking: bool | None = None) -> SamplingPreset:
        """Return the values for answers with or without thinking; None for what the family does by itself."""
        thinks = self.thinks == "always" or (self.thinks == "optional" and thinking is not False)
        return self.thinking if thinks and self.thinking is not None else self.sampling


_QWEN3_THINKING = SamplingPreset(0.6, 0.95, 20, 0.0)

FAMILIES: tuple[Family, ...] = (
    Family("aya", SamplingPreset(0.7, 0.9, 40), n_ctx=8192),
    Family(
        "gemma", SamplingPreset(1.0, 0.95, 64), n_ctx=128000,
        architectures=("gemma", "gemma2", "gemma3", "gemma3n", "gemma4"),
    ),
    Family("glm-4", SamplingPreset(0.95, 0.7, 1), n_ctx=131072),
    Family(
        "granite", SamplingPreset(0.0, 1.0, 1), n_ctx=128000,
        architectures=("granite", "granitemoe", "granitehybrid"),
    ),
    Family("minicpm", SamplingPreset(0.9, 0.95, 50), n_ctx=65536, architectures=("minicpm", "minicpm3")),
    Family("ministral-reasoning", SamplingPreset(0.7, 0.95), n_ctx=256000, thinks="always"),
    Family("ministral-instruct", SamplingPreset(0.15), n_ctx=256000),
    Family("phi-4", SamplingPreset(0.8, 0.95, 50), n_ctx=16000),
    Family(
        "qwen3", SamplingPreset(0.7, 0.8, 20, 0.01), _QWEN3_THINKING, n_ctx=32768, thinks="optional",
        architectures=("qwen3", "qwen3moe"),
    ),
    Family("qwen3-thinking", _QWEN3_THINKING, n_ctx=32768, thinks="always"),
    Family("qwen3-instruct-2507", SamplingPreset(0.7, 0.8, 20, penalty_present=1.0), n_ctx=16384),
    Family("gpt-oss", SamplingPreset(1.0, 1.0, 40), n_ctx=128000, thinks="always", architectures=("gpt-oss",)),
)  # fmt: skip
"""The families that are known, by name."""


@dataclass(frozen=True)
class Recommendation:
    """Which sampling is recommended for a model, and why.

    Attributes:
        options: Options of `SamplingParams` that differ from upstream's defaults; read only.
        source: "gguf" (the file's own `general.sampling` keys), "family", or "default" (nothing is known: upstream's).
        family: The family that applies, whatever the source of the values.
        reason: Why, in words.
    """

    options: Mapping[str, Any]
    source: Source
    family: Family | None
    reason: str


@dataclass(frozen=True)
class FamilyMatch:
    """A family and what it was recognised by.

    Attributes:
        family: The family.
        key: The metadata key that names it, or "file name".
        value: What stands there.
    """

    family: Family
    key: str
    value: str


def own_options(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model file recommends itself (`general.sampling.*`), as options of `SamplingParams`.

    Values that are no numbers are left out, as upstream does.

    Args:
        metadata: Metadata of a model: `Model.metadata`, or that of a file that was read.
    """
    found: dict[str, Any] = {}
    for key, name, kind in _KEYS:
        value = metadata.get(f"general.sampling.{key}")
        if value is not None and value != "":
            try:
                found[name] = kind(value)
            except (ValueError, TypeError, OverflowError):
                continue
    sequence = metadata.get("general.sampling.sequence")
    if isinstance(sequence, str) and sequence:
        found["samplers"] = tuple(name for name in sequence.split(";") if name)
    return found


_KEYS: tuple[tuple[str, str, type[int | float]], ...] = (
    ("top_k", "top_k", int),
    ("top_p", "top_p", float),
    ("min_p", "min_p", float),
    ("xtc_probability", "xtc_probability", float),
    ("xtc_threshold", "xtc_threshold", float),
    ("temp", "temperature", float),
    ("penalty_last_n", "penalty_last_n", int),
    ("penalty_repeat", "penalty_repeat", float),
    ("mirostat", "mirostat", int),
    ("mirostat_tau", "mirostat_tau", float),
    ("mirostat_eta", "mirostat_eta", float),
)


def family(name: str) -> Family:
    """Return a family by its name.

    Raises:
        InvalidArgumentError: There is no such family; the message lists them.
    """
    for item in FAMILIES:
        if item.name == str(name).lower():
            return item
    raise InvalidArgumentError(
        f"there is no family {name!r}", hint="use one of: " + ", ".join(item.name for item in FAMILIES)
    )


def find_family(metadata: Mapping[str, Any], *, file_name: str | None = None) -> FamilyMatch | None:
    """Return the family of a model, None when none is known.

    Names are looked through for each family, the one with the longest name first: `general.name`, `general.basename`
    (with `general.finetune`), then the name of the file. The architecture decides only when no name does, since many
    models share one.

    Args:
        metadata: Metadata of a model.
        file_name: Name or path of its file.
    """
    name, base, tuned = (str(metadata.get(f"general.{key}") or "") for key in ("name", "basename", "finetune"))
    texts = [
        ("general.name", name),
        ("general.basename", f"{base}-{tuned}" if base and tuned else base),
        ("file name", basename(file_name or "")),
    ]
    for item in _LONGEST_FIRST:
        for key, text in texts:
            if text and _PATTERNS[item.name].search(text[:_MAX_NAME]):
                return FamilyMatch(item, key, text)
    arch = str(metadata.get("general.architecture") or "")
    for item in _LONGEST_FIRST:
        if arch in item.architectures:
            return FamilyMatch(item, "general.architecture", arch)
    return None


def recommend(
    metadata: Mapping[str, Any],
    *,
    file_name: str | None = None,
    thinking: bool | None = None,
    family_name: str | None = None,
) -> Recommendation:
    """Return the sampling that is recommended for a model, and why.

    The file's own values come first: they are its author's. Then those of its family, then upstream's defaults.

    Args:
        metadata: Metadata of a model.
        file_name: Name or path of its file.
        thinking: Whether it will think before it answers; None for what its family does by itself.
        family_name: Use the values of this family, whatever the file says.

    Raises:
        InvalidArgumentError: There is no family `family_name`.
    """
    if family_name is not None:
        return _of_family(family(family_name), thinking, f"the family {family_name} was asked for")
    match = find_family(metadata, file_name=file_name)
    own = own_options(metadata)
    if own:
        found = match.family if match else None
        reason = "the model file recommends " + ", ".join(sorted(own))
        return Recommendation(MappingProxyType(own), "gguf", found, reason)
    if match is not None:
        return _of_family(match.family, thinking, f"{match.key} is {match.value!r}: the family {match.family.name}")
    nothing: dict[str, Any] = {}
    reason = "neither the model file nor its family recommends anything: upstream's defaults"
    return Recommendation(MappingProxyType(nothing), "default", None, reason)


def _of_family(item: Family, thinking: bool | None, reason: str) -> Recommendation:
    preset = item.preset(thinking)
    if item.thinking is not None:
        reason += ", with thinking" if preset is item.thinking else ", without thinking"
    return Recommendation(MappingProxyType(preset.options()), "family", item, reason)


def _pattern(name: str) -> re.Pattern[str]:
    """The words of a family's name in their order, with other words between them, each a word of its own.

    A number that follows letters may stand apart or not (phi-4, phi4) and is not the beginning of another (4.5, 42);
    letters may be followed by a version (gemma3n).
    """
    words = re.findall(r"[a-z]+|\d+", name)
    parts = []
    for before, word in zip(["", *words], words, strict=False):
        gap = r"(?<![a-z0-9.])" if not before else r"[-_ ]?" if word.isdigit() and before.isalpha() else _BETWEEN
        parts.append(gap + word + (r"(?!\.?\d)(?![a-z])" if word.isdigit() else r"(?![a-z])"))
    return re.compile("".join(parts), re.IGNORECASE)


_MAX_NAME = 200  # characters of a name that are looked at
_BETWEEN = r"(?:[-_ ][a-z0-9.]+)*?[-_ ]"
_LONGEST_FIRST = sorted(FAMILIES, key=lambda item: -len(item.name))
_PATTERNS = {item.name: _pattern(item.name) for item in FAMILIES}
