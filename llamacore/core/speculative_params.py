"""How a speculation session drafts."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidArgumentError
from ..params import StrPath
from .sampler_checks import probability, real, whole

_MAX_DRAFT = 1024  # as upstream's tools


@dataclass(frozen=True)
class SpeculativeConfig:
    """Configuration of a `SpeculativeSession`. None means upstream's default.

    Attributes:
        types: Upstream's names of the types that draft, one or several: at most one that needs a draft context
            ("draft-simple", "draft-mtp", "draft-eagle3", "draft-dflash", "draft-dspark"), and any that look n-grams up
            in the text ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"). They are asked in
            upstream's order, n-grams first, until one has a draft.
        n_seq: Sequences, numbered from 0; with a draft context as many as that has.
        n_draft_max: Most tokens of a draft that a draft context makes.
        n_min: Shorter drafts are dropped.
        p_min: Probability below which drafting stops, 0 to 1.
        backend_sampling: Choose the tokens of a draft in the graph of the draft context.
        trims: Let the session cut the memory of the draft context (steps 2 and 5 of `SpeculativeSession`, there for the
            target alone then). A sequence of which that memory has lost the end is not drafted for, and begins anew
            with the next batch, instead of an error. What the target has verified is then computed together with
            the next MTP draft, which saves a decode (`SpeculativeSession.flush` computes it before).
        ngram_size_n: Tokens that must be met again, for ngram-simple, ngram-map-k and ngram-map-k4v.
        ngram_size_m: Most tokens of their drafts.
        ngram_min_hits: How often a key must have been met, for ngram-map-k4v.
        ngram_mod_n_match: Tokens that must be met again, for ngram-mod.
        ngram_mod_n_min: Shorter drafts of ngram-mod are dropped.
        ngram_mod_n_max: Most tokens of its drafts.
        lookup_cache_static: File with the n-grams of a large text, for ngram-cache.
        lookup_cache_dynamic: File with the n-grams of earlier texts, for ngram-cache.
        synthetic_rates: For benchmarks: how often each place of a draft is to be accepted, falling, one for each of the
            session's `n_draft_max` places. `RowSampler.sample_drafts` then accepts at random: the text means nothing.
        synthetic_length: The same by the mean number of tokens of a step, 1 to `n_draft_max` + 1.
        synthetic_seed: Seed of that, 32 bits.
    """

    types: str | Sequence[str] = ()
    n_seq: int = 1
    n_draft_max: int = 3
    n_min: int = 0
    p_min: float = 0.0
    backend_sampling: bool | None = None
    trims: bool = False
    ngram_size_n: int | None = None
    ngram_size_m: int | None = None
    ngram_min_hits: int | None = None
    ngram_mod_n_match: int | None = None
    ngram_mod_n_min: int | None = None
    ngram_mod_n_max: int | None = None
    lookup_cache_static: StrPath | None = None
    lookup_cache_dynamic: StrPath | None = None
    synthetic_rates: Sequence[float] | None = None
    synthetic_length: float | None = None
    synthetic_seed: int | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        given: object = self.types
        types = (given,) if isinstance(given, str) else given
        if not isinstance(types, Sequence) or not types or not all(isinstance(name, str) for name in types):
            raise InvalidArgumentError(f"types={self.types!r}", hint='name at least one, such as "draft-mtp"')
        set_field(self, "types", tuple(types))
        set_field(self, "n_seq", whole("n_seq", self.n_seq, 1))
        set_field(self, "n_draft_max", whole("n_draft_max", self.n_draft_max, 1, _MAX_DRAFT))
        set_field(self, "n_min", whole("n_min", self.n_min, 0, self.n_draft_max))
        set_field(self, "p_min", probability("p_min", self.p_min))
        for name, lowest in (
            ("ngram_size_n", 1), ("ngram_size_m", 1), ("ngram_min_hits", 1),
            ("ngram_mod_n_match", 1), ("ngram_mod_n_min", 0), ("ngram_mod_n_max", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                set_field(self, name, whole(name, value, lowest, _MAX_DRAFT))
        if self.backend_sampling not in (None, True, False):
            raise InvalidArgumentError(f"backend_sampling={self.backend_sampling!r}", hint="give True or False")
        if not isinstance(self.trims, bool):
            raise InvalidArgumentError(f"trims={self.trims!r}", hint="give True or False")
        for name in ("lookup_cache_static", "lookup_cache_dynamic"):
            path = getattr(self, name)
            if path is not None and not os.path.isfile(path):
                raise InvalidArgumentError(f"{name}={path!r} is no file", hint="make it with llama-lookup-create")
        self._check_synthetic()

    def _check_synthetic(self) -> None:
        if self.synthetic_rates is not None:
            if self.synthetic_length is not None:
                raise InvalidArgumentError("synthetic_rates and synthetic_length", hint="give one of them")
            rates = tuple(probability("synthetic_rates", rate) for rate in self.synthetic_rates)
            if not rates or any(later > earlier for earlier, later in itertools.pairwise(rates)):
                raise InvalidArgumentError(
                    f"synthetic_rates={rates!r}", hint="give rates that fall, one for each place"
                )
            object.__setattr__(self, "synthetic_rates", rates)
        if self.synthetic_length is not None:
            object.__setattr__(self, "synthetic_length", real("synthetic_length", self.synthetic_length, 1.0, math.inf))
        if self.synthetic_seed is not None:
            object.__setattr__(self, "synthetic_seed", whole("synthetic_seed", self.synthetic_seed, 0, 2**32 - 1))


@dataclass(frozen=True)
class MtpSessionConfig(SpeculativeConfig):
    """Configuration of an `MtpSession`: a `SpeculativeConfig` that drafts with the model's MTP heads."""

    types: str | Sequence[str] = ("draft-mtp",)
