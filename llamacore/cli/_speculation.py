"""The options of speculation, and what they ask for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from llamacore.engine.speculation.params import DraftModel, Mtp, Ngram, Speculative
from llamacore.engine.stats import SpeculationStats
from llamacore.errors import InvalidArgumentError
from llamacore.hub import demo_draft_path

from ._option import option

_option = partial(option, "Speculation (drafts for more speed, the same text)")
_FITTING = {
    "mtp": ("--draft-max", "--draft-min", "--draft-p-min", "--draft-model"),
    "draft": ("--draft-max", "--draft-min", "--draft-p-min", "--draft-model"),
    "ngram": ("--draft-max",),
    "auto": (),
}

Spec = Annotated[
    str | None,
    _option("Who drafts: mtp (the model's own layers), draft (a model), ngram (the text) or auto.", "--spec"),
]
DraftMax = Annotated[int | None, _option("Most tokens of a draft.", "--draft-max", "--draft")]
DraftMin = Annotated[int | None, _option("Drafts of fewer tokens are not used.", "--draft-min")]
DraftPMin = Annotated[float | None, _option("A draft ends before a token less likely than this.", "--draft-p-min")]
DraftModelFile = Annotated[
    Path | None,
    _option(
        "GGUF file of the draft model, or of MTP layers; default for the demo model: its draft model.",
        "--draft-model",
        "-md",
    ),
]


def speculative(
    spec: str | None,
    *,
    draft_max: int | None,
    draft_min: int | None,
    draft_p_min: float | None,
    draft_model: Path | None,
    demo: bool,
) -> Speculative | Literal["auto"] | None:
    """Return the value of `Llama(speculative=)`.

    Args:
        spec: The value of --spec.
        draft_max: Of --draft-max, and so on.
        draft_min: See above.
        draft_p_min: See above.
        draft_model: See above.
        demo: The model is the bundled one, which has a draft model.

    Raises:
        InvalidArgumentError: Options without --spec, or that do not fit it; or a value that is wrong.
    """
    given = {
        "--draft-max": draft_max, "--draft-min": draft_min, "--draft-p-min": draft_p_min, "--draft-model": draft_model,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if spec is None:
        if given:
            raise InvalidArgumentError(
                f"{' and '.join(given)} without --spec", hint=f"say who drafts: --spec {' or '.join(_FITTING)}"
            )
        return None
    if spec not in _FITTING:
        raise InvalidArgumentError(f"--spec {spec}", hint=f"give one of {', '.join(_FITTING)}")
    wrong = [name for name in given if name not in _FITTING[spec]]
    if wrong:
        fitting = [other for other, names in _FITTING.items() if set(given) <= set(names)]
        raise InvalidArgumentError(
            f"{' and '.join(wrong)} with --spec {spec}", hint=f"leave it out, or use --spec {' or '.join(fitting)}"
        )
    names = {"--draft-max": "n_max", "--draft-min": "n_min", "--draft-p-min": "p_min", "--draft-model": "model"}
    options: dict[str, Any] = {names[name]: value for name, value in given.items()}
    if spec == "auto":
        return "auto"
    if spec == "ngram":
        return Ngram(**options)
    if spec == "mtp":
        return Mtp(**options)
    if demo:
        options.setdefault("model", demo_draft_path())
    if "model" not in options:
        raise InvalidArgumentError("--spec draft needs a draft model", hint="give its file with --draft-model")
    return DraftModel(**options)


def summary(stats: SpeculationStats) -> str:
    """What was drafted, in a line."""
    rate = f" ({stats.acceptance:.0%})" if stats.acceptance is not None else ""
    failure = f", ended: {stats.failure}" if stats.failure is not None else ""
    return f"{', '.join(stats.types)}: drafted {stats.drafted} tokens, accepted {stats.accepted}{rate}{failure}"
