"""From `SpeculativeConfig` to the shim's `llc_spec_config`."""

from __future__ import annotations

import os
from typing import Any

from ._native import ffi, lib, path_bytes, text
from .speculative_params import SpeculativeConfig


def native_config(config: SpeculativeConfig) -> tuple[Any, list[Any]]:
    """Fill an `llc_spec_config`; the second value must live during the call."""
    native = ffi.new("struct llc_spec_config *", lib.llc_spec_default_config())
    names = [ffi.new("char[]", name.encode()) for name in config.types]
    types = ffi.new("char *[]", names)
    native.types, native.n_types = ffi.cast("const char **", types), len(names)
    native.n_seq, native.n_max = config.n_seq, config.n_draft_max
    native.n_min, native.p_min, native.trims = config.n_min, config.p_min, config.trims
    keep: list[Any] = [names, types]
    for name in (
        "backend_sampling", "ngram_size_n", "ngram_size_m", "ngram_min_hits",
        "ngram_mod_n_match", "ngram_mod_n_min", "ngram_mod_n_max",
    ):  # fmt: skip
        value = getattr(config, name)
        if value is not None:
            setattr(native, name, value)
    for name in ("lookup_cache_static", "lookup_cache_dynamic"):
        path = getattr(config, name)
        if path is not None:
            keep.append(ffi.new("char[]", path_bytes(os.fspath(path))))
            setattr(native, name, keep[-1])
    if config.synthetic_rates is not None:
        keep.append(ffi.new("double[]", list(config.synthetic_rates)))
        native.synth_rates, native.n_synth_rates = keep[-1], len(config.synthetic_rates)
    if config.synthetic_length is not None:
        native.synth_length = config.synthetic_length
    if config.synthetic_seed is not None:
        native.synth_seed = config.synthetic_seed
    return native, keep


def hint_for(reason: str) -> str:
    """What to do about a refusal of the shim."""
    for sign, hint in (
        ("n_rs_seq", "make the target with n_rs_seq of at least n_draft_max, and n_ubatch larger than that"),
        ("there is no type", "types are " + text(lib.llc_spec_all_types()).partition(",")[2].replace(",", ", ")),
        ("not of type MTP", "make it with mtp_context(target)"),
        ("do not fit", "use a draft model with the same vocabulary, see require_compatible()"),
        ("must be equal", "make both contexts with the same n_seq_max"),
        ("another speculation session", "a context takes part in one session at a time"),
    ):
        if sign in reason:
            return hint
    return ""
