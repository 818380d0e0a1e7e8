"""One of each sampler, for the tests."""

from __future__ import annotations

import math
from collections.abc import Callable

from llamacore.core.model import Model
from llamacore.core.sampler import Sampler

# one maker for each sampler of upstream: constructor name to a sampler that does something
MAKERS: dict[str, Callable[[Model], Sampler]] = {
    "greedy": lambda _: Sampler.greedy(),
    "dist": lambda _: Sampler.dist(7),
    "top_k": lambda _: Sampler.top_k(5),
    "top_p": lambda _: Sampler.top_p(0.9),
    "min_p": lambda _: Sampler.min_p(0.1),
    "typical": lambda _: Sampler.typical(0.5),
    "temp": lambda _: Sampler.temp(0.7),
    "temp_ext": lambda _: Sampler.temp_ext(0.7, 0.2, 1.5),
    "xtc": lambda _: Sampler.xtc(0.5, 0.1, 1, 7),
    "top_n_sigma": lambda _: Sampler.top_n_sigma(1.0),
    "mirostat": lambda model: Sampler.mirostat(model, 7),
    "mirostat_v2": lambda _: Sampler.mirostat_v2(7),
    "grammar": lambda model: Sampler.grammar(model, 'root ::= "a"+'),
    "grammar_lazy_patterns": lambda model: Sampler.grammar(model, 'root ::= "a"+', trigger_patterns=["(go)"]),
    "penalties": lambda model: Sampler.penalties(model, 16, 1.2, 0.1, 0.1),
    "dry": lambda model: Sampler.dry(model, 0.8),
    "adaptive_p": lambda _: Sampler.adaptive_p(0.3, 0.9, 7),
    "logit_bias": lambda model: Sampler.logit_bias(model, {5: -math.inf, 6: 2.0}),
    "infill": lambda model: Sampler.infill(model),
}
CHOOSE = ("greedy", "dist", "mirostat", "mirostat_v2", "adaptive_p")
