"""Arguments of llama-cpp-python's `Llama`, turned into ours."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from ..errors import InvalidArgumentError, UnsupportedError
from ..params import KvValue, StrPath
from .chat_formats import chat_format

_SPLIT_MODES = ("none", "layer", "row", "tensor")
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
_POOLING = ("none", "mean", "cls", "last", "rank")
_ATTENTION = ("causal", "non_causal")
_TYPES: Mapping[int, str] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 20: "iq4_nl", 30: "bf16",
}  # fmt: skip

_MODEL = ("split_mode", "main_gpu", "tensor_split", "vocab_only", "kv_overrides")
_CONTEXT = (
    "rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast",
    "yarn_beta_slow", "yarn_orig_ctx", "pooling_type", "attention_type", "offload_kqv", "op_offload", "swa_full",
    "no_perf",
)  # fmt: skip
_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "verbose": ((False,), 'show what the libraries log with logging.getLogger("llamacore.native")'),
    "embedding": ((True, False), ""),
    "logits_all": ((True, False), ""),
    "numa": ((False, 0), "start the process with numactl"),
    "last_n_tokens_size": ((64,), "give penalty_last_n= to the call"),
    "lora_base": ((), "load the adapter with llm.load_lora(path)"),
    "lora_path": ((), "load the adapter with llm.load_lora(path)"),
    "lora_scale": ((1.0,), "give the scale to llm.load_lora(path, scale)"),
    "chat_handler": ((), "the model's own chat template is used; chat_template= takes another"),
    "draft_model": ((), "give speculative=Ngram() or DraftModel(model=...)"),
    "tokenizer": ((), "the model file's own tokenizer is used"),
    "spm_infill": ((False,), "leave it out"),
}
"""Arguments with their values that change nothing here, and what to do about others."""

ARGUMENTS = frozenset({"model_path", "chat_format", "seed", "use_mmap", "use_mlock", *_MODEL, *_CONTEXT, *_NEUTRAL})
"""The arguments that llama-cpp-python's constructor has and ours has not."""


@dataclass
class Translated:
    """Arguments of llama-cpp-python in our words.

    Attributes:
        llama: Arguments of `Llama`: `model`, `chat_template`, `flash_attn`, `type_k` and `type_v`.
        model: Fields of `ModelParams`.
        context: Fields of `ContextParams`.
        seed: Seed for calls that give none.
    """

    llama: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None


def translate(given: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Translated:
    """Turn arguments of llama-cpp-python's constructor into ours. None means that one is not given.

    Args:
        given: Arguments that `Llama` does not have itself.
        own: All that it has. Of these, `model`, `chat_template`, `flash_attn`, `type_k` and `type_v` come back as they
            are to be used.

    Raises:
        InvalidArgumentError: An argument is unknown or its value is wrong, or one is given under both its names.
        UnsupportedError: An argument cannot be honoured; the hint says what to use instead.
    """
    own = own or {}
    found = Translated()
    for name, value in given.items():
        if name not in ARGUMENTS:
            near = difflib.get_close_matches(name, sorted({*own, *ARGUMENTS}), n=3)
            raise InvalidArgumentError(
                f"Llama has no argument {name!r}",
                hint="did you mean " + " or ".join(map(repr, near)) + "?" if near else "see its docstring",
            )
        if value is None:
            continue
        if name in _NEUTRAL:
            neutral, hint = _NEUTRAL[name]
            if value not in neutral:
                raise UnsupportedError(f"Llama: {name}={value!r} is not supported", hint=hint)
        elif name in _MODEL or name in _CONTEXT:
            home = found.model if name in _MODEL else found.context
            home[name] = _READERS[name](name, value) if name in _READERS else value
    _read_model(given, own, found)
    _read_rest({**own, **given}, found)
    return found


def _read_model(given: Mapping[str, Any], own: Mapping[str, Any], found: Translated) -> None:
    for name, theirs, read in (("model", "model_path", _same), ("chat_template", "chat_format", chat_format)):
        value = given.get(theirs)
        if value is not None and own.get(name) is not None:
            raise InvalidArgumentError(f"Llama: both {name} and {theirs}", hint="give one of them")
        found.llama[name] = own.get(name) if value is None else read(value)
    mmap, mlock = given.get("use_mmap"), given.get("use_mlock")
    if mmap is not None or mlock is not None:
        _flag("use_mmap", True if mmap is None else mmap)
        _flag("use_mlock", False if mlock is None else mlock)
        found.model["load_mode"] = (
            ("mlock" if mlock else "none") if mmap is False else "mmap_mlock" if mlock else "mmap"
        )


def _same(value: Any) -> Any:
    return value


def _read_rest(given: Mapping[str, Any], found: Translated) -> None:
    seed = given.get("seed")
    if seed is not None:
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise InvalidArgumentError(f"Llama: seed={seed!r}", hint="give a whole number")
        found.seed = int(seed) % 2**32 if seed >= 0 and seed != 0xFFFFFFFF else None
    flash = given.get("flash_attn")
    found.llama["flash_attn"] = ("enabled" if flash else "disabled") if isinstance(flash, bool) else flash
    for name in ("type_k", "type_v"):
        value = given.get(name)
        found.llama[name] = value if value is None or isinstance(value, str) else _ggml_type(name, value)


def _flag(name: str, value: Any) -> None:
    if value is not True and value is not False:
        raise InvalidArgumentError(f"Llama: {name}={value!r}", hint="give True or False")


def _ggml_type(name: str, value: Any) -> str:
    if isinstance(value, bool) or value not in _TYPES:
        raise InvalidArgumentError(f"Llama: {name}={value!r}", hint='give the name of a type, like "q8_0"')
    return _TYPES[int(value)]


def _named(names: tuple[str, ...], *, unset: str | None = None) -> Callable[[str, Any], str]:
    """A reader of a number of an enum of llama.cpp, or of its name here; -1 is `unset`."""

    def read(name: str, value: Any) -> str:
        if isinstance(value, str) and value in (*names, unset):
            return str(value)
        if hasattr(value, "__index__") and not isinstance(value, bool):
            if 0 <= value < len(names):
                return names[int(value)]
            if value == -1 and unset is not None:
                return unset
        raise InvalidArgumentError(f"Llama: {name}={value!r}", hint="give one of " + ", ".join(names))

    return read


_READERS: Mapping[str, Callable[[str, Any], str]] = {
    "split_mode": _named(_SPLIT_MODES),
    "rope_scaling_type": _named(_ROPE_SCALING, unset="unspecified"),
    "pooling_type": _named(_POOLING, unset="unspecified"),
    "attention_type": _named(_ATTENTION, unset="unspecified"),
}


class LlamaCppArguments(TypedDict, total=False):
    """Arguments of llama-cpp-python's `Llama` that are taken under its names, or that change nothing here."""

    model_path: StrPath | None
    chat_format: str | None
    seed: int | None
    use_mmap: bool | None
    use_mlock: bool | None
    split_mode: int | str | None
    main_gpu: int | None
    tensor_split: Sequence[float] | None
    vocab_only: bool | None
    kv_overrides: Mapping[str, KvValue] | None
    rope_scaling_type: int | str | None
    rope_freq_base: float | None
    rope_freq_scale: float | None
    yarn_ext_factor: float | None
    yarn_attn_factor: float | None
    yarn_beta_fast: float | None
    yarn_beta_slow: float | None
    yarn_orig_ctx: int | None
    pooling_type: int | str | None
    attention_type: int | str | None
    offload_kqv: bool | None
    op_offload: bool | None
    swa_full: bool | None
    no_perf: bool | None
    verbose: bool | None
    embedding: bool | None
    logits_all: bool | None
    numa: bool | int | None
    last_n_tokens_size: int | None
    lora_base: None
    lora_path: None
    lora_scale: float | None
    chat_handler: None
    draft_model: None
    tokenizer: None
    spm_infill: bool | None
