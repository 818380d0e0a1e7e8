"""How tokens are drafted before the model checks them: one record for each way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...errors import InvalidArgumentError
from ...params import GpuLayers, StrPath

if TYPE_CHECKING:
    from ...core.model import Model

NgramType = Literal["ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"]
DraftType = Literal["auto", "draft-simple", "draft-eagle3", "draft-dflash", "draft-dspark"]

_NGRAM_TYPES = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")
_DRAFT_TYPES = ("auto", "draft-simple", "draft-eagle3", "draft-dflash", "draft-dspark")
_MOST = 1024


@dataclass(frozen=True, kw_only=True)
class _Drafting:
    """What all ways have in common.

    Attributes:
        n_max: Most tokens of a draft.
        adaptive: Switch drafting off where it makes the engine slower, and on again to see whether it still does.
        synthetic_rates: For benchmarks only, the text is wrong then: probability that the first, second, ... token of a
            draft is accepted, whatever it is; one for each of `n_max`, none above the one before it.
    """

    n_max: int = 3
    adaptive: bool = True
    synthetic_rates: Sequence[float] = ()

    def __post_init__(self) -> None:
        _whole("n_max", self.n_max, 1)
        if not isinstance(self.adaptive, bool):
            raise InvalidArgumentError(f"adaptive={self.adaptive!r}", hint="give True or False")
        rates: Any = self.synthetic_rates
        if isinstance(rates, str) or not isinstance(rates, Sequence) or not _are_rates(rates, self.n_max):
            hint = f"give n_max={self.n_max} probabilities, none above the one before it"
            raise InvalidArgumentError(f"synthetic_rates={rates!r}", hint=hint)


@dataclass(frozen=True, kw_only=True)
class _ModelDrafting(_Drafting):
    """What drafting with layers or a model has besides.

    Attributes:
        n_min: Drafts of fewer tokens are not used.
        p_min: A draft ends before a token that is less likely than this.
        backend_sampling: Choose the tokens of drafts inside the graph; None for doing so on devices other than the CPU,
            where it saves copying the logits.
    """

    n_min: int = 0
    p_min: float = 0.0
    backend_sampling: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole("n_min", self.n_min, 0, self.n_max)
        p_min: Any = self.p_min
        if not isinstance(p_min, (int, float)) or not 0 <= p_min <= 1:
            raise InvalidArgumentError(f"p_min={p_min!r}", hint="give a probability, 0 to 1")
        if self.backend_sampling not in (None, True, False):
            hint = "give True, False or None"
            raise InvalidArgumentError(f"backend_sampling={self.backend_sampling!r}", hint=hint)


@dataclass(frozen=True, kw_only=True)
class Mtp(_ModelDrafting):
    """Draft with the model's own next-token-prediction layers (upstream: `draft-mtp`).

    Attributes:
        model: A GGUF file or a `Model` with the layers, where the model's own file has none.
    """

    model: StrPath | Model | None = None


@dataclass(frozen=True, kw_only=True)
class DraftModel(_ModelDrafting):
    """Draft with a smaller model of the same vocabulary (upstream: `draft-simple` and the types made for a model).

    Attributes:
        model: A GGUF file, or a `Model`, which stays the caller's to close.
        type: Upstream's name of the type; "auto" for what the file says, else `draft-simple`.
        n_gpu_layers: Its layers in device memory.
    """

    model: StrPath | Model
    type: DraftType = "auto"
    n_gpu_layers: GpuLayers | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type not in _DRAFT_TYPES:
            raise InvalidArgumentError(f"type={self.type!r}", hint=f"use one of {', '.join(_DRAFT_TYPES)}")


@dataclass(frozen=True, kw_only=True)
class Ngram(_Drafting):
    """Draft what followed the same tokens earlier in the text; needs no model (upstream: the `ngram-*` types).

    Attributes:
        type: Upstream's name of the type.
        n_max: Most tokens of a draft; on recurrent models each of them costs a copy of the state.
        size_n: Tokens that must be the same, for simple, map-k and map-k4v.
        size_m: Tokens that are drafted by those; cut to `n_max`.
        min_hits: How often the tokens must have come up, for those.
        n_match: Tokens that must be the same, for mod.
        lookup_cache_static: A file of upstream's `llama-lookup-create`, for cache.
        lookup_cache_dynamic: A file that a session of upstream's wrote, for cache; it is read only.
    """

    type: NgramType = "ngram-mod"
    n_max: int = 8
    size_n: int = 12
    size_m: int = 48
    min_hits: int = 1
    n_match: int = 24
    lookup_cache_static: StrPath | None = None
    lookup_cache_dynamic: StrPath | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type not in _NGRAM_TYPES:
            raise InvalidArgumentError(f"type={self.type!r}", hint=f"use one of {', '.join(_NGRAM_TYPES)}")
        for name in ("size_n", "size_m", "min_hits", "n_match"):
            _whole(name, getattr(self, name), 1)
        for name in ("lookup_cache_static", "lookup_cache_dynamic"):
            if getattr(self, name) is not None and self.type != "ngram-cache":
                raise InvalidArgumentError(f"{name} with type={self.type!r}", hint='it is for type="ngram-cache"')


Speculative = Mtp | DraftModel | Ngram
"""A way of drafting."""


def choose(speculative: Speculative | Literal["auto"] | None, *, has_mtp: bool) -> Speculative | None:
    """Return the way that is meant: "auto" is MTP where the model has the layers for it, else n-grams.

    Raises:
        InvalidArgumentError: It is none of them.
    """
    if speculative == "auto":
        return Mtp() if has_mtp else Ngram()
    if speculative is None or isinstance(speculative, (Mtp, DraftModel, Ngram)):
        return speculative
    raise InvalidArgumentError(
        f"speculative={speculative!r}", hint='give Mtp(), DraftModel(model=...), Ngram(), "auto" or None'
    )


def _are_rates(rates: Sequence[Any], n_max: int) -> bool:
    known = len(rates) in (0, n_max) and all(isinstance(rate, (int, float)) for rate in rates)
    return known and all(0 <= rate <= before for before, rate in zip((1, *rates[:-1]), rates, strict=False))


def _whole(name: str, value: Any, lowest: int, highest: int = _MOST) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidArgumentError(f"{name}={value!r}", hint=f"give a whole number from {lowest} to {highest}")
