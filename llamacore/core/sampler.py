"""Samplers: one constructor for each sampler of upstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import NativeError, UnsupportedError
from . import backend, grammar, sampler_checks
from ._native import ffi, lib
from ._status import raise_status
from .sampler_candidates import Candidates as Candidates
from .sampler_chain import SamplerChain
from .sampler_chain import SamplerInfo as SamplerInfo
from .sampler_chain import SamplerPerf as SamplerPerf
from .sampler_checks import probability, real, whole
from .sampler_handle import Item, name_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from .model import Model

DEFAULT_SEED = int(lib.LLAMA_DEFAULT_SEED)
"""The seed that asks for a random one."""

DRY_SEQUENCE_BREAKERS = ("\n", ":", '"', "*")
"""What interrupts a repetition for DRY unless told otherwise, as in upstream's tools."""


class Sampler(SamplerChain):
    """A native sampler or a chain of them. Made by the class methods; used by one thread at a time.

    A sampler that is given a `model` reads that model's vocabulary, or is made for its size: it is closed with the
    model, and so is a chain that has such a member.

    Parameters out of range raise `InvalidArgumentError`, tokens that are not in the vocabulary `OutOfRangeError`.
    """

    @classmethod
    def _make(cls, ptr: Any, kind: str, *, lowers: int | None = None, keeps: int = 0) -> Self:
        if name_of(ptr).startswith("?"):  # its parameters switch it off
            lowers, keeps = 0, 0
        return cls(ptr, Item(kind, lowers=lowers, keeps=keeps))

    @classmethod
    def _make_for(cls, model: Model, kind: str, init: Any, *, window: int = 0, lowers: int | None = None) -> Self:
        """Make a sampler with `init(vocab pointer, n_vocab)` while the model is held open."""
        model._enter()
        try:
            ptr = init(model._vocab_ptr, len(model.vocab))
            if name_of(ptr).startswith("?"):
                window, lowers = 0, 0
            return cls(ptr, Item(kind, model, window, lowers=lowers))
        finally:
            model._exit()

    # samplers that choose

    @classmethod
    def greedy(cls) -> Self:
        """Choose the most likely token (upstream: `llama_sampler_init_greedy`)."""
        backend.init()
        return cls._make(lib.llama_sampler_init_greedy(), "greedy", keeps=1)

    @classmethod
    def dist(cls, seed: int = DEFAULT_SEED) -> Self:
        """Choose by probability (upstream: `llama_sampler_init_dist`).

        Args:
            seed: Seed of 32 bits; `DEFAULT_SEED` for a random one, which `Sampler.seed` then tells.
        """
        seed = sampler_checks.seed(seed)
        backend.init()
        return cls._make(lib.llama_sampler_init_dist(seed), "dist")

    @classmethod
    def mirostat(cls, model: Model, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1, m: int = 100) -> Self:
        """Choose so that the surprise stays near a target: Mirostat 1.0 (upstream: `llama_sampler_init_mirostat`).

        Args:
            model: Model whose vocabulary size enters the estimate.
            seed: As for `dist`.
            tau: Target surprise in bits.
            eta: Learning rate.
            m: Number of tokens in the estimate, at least 2.
        """
        seed = sampler_checks.seed(seed)
        tau, eta, m = real("tau", tau, 0.0), real("eta", eta, 0.0), whole("m", m, 2)
        return cls._make_for(
            model, "mirostat", lambda _, n_vocab: lib.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, m)
        )

    @classmethod
    def mirostat_v2(cls, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1) -> Self:
        """Choose so that the surprise stays near a target: Mirostat 2.0 (upstream: `llama_sampler_init_mirostat_v2`).

        Args:
            seed: As for `dist`.
            tau: Target surprise in bits.
            eta: Learning rate.
        """
        seed, tau, eta = sampler_checks.seed(seed), real("tau", tau, 0.0), real("eta", eta, 0.0)
        backend.init()
        return cls._make(lib.llama_sampler_init_mirostat_v2(seed, tau, eta), "mirostat_v2")

    @classmethod
    def adaptive_p(cls, target: float, decay: float = 0.9, seed: int = DEFAULT_SEED) -> Self:
        """Choose tokens near a target probability over time (upstream: `llama_sampler_init_adaptive_p`).

        Args:
            target: Probability to stay near, 0 to 1; negative to choose by probability alone.
            decay: Weight of the past, 0 to 0.99: about 1 / (1 - decay) tokens count.
            seed: As for `dist`.
        """
        target, decay = real("target", target, -1.0, 1.0), real("decay", decay, 0.0, 0.99)
        seed = sampler_checks.seed(seed)
        backend.init()
        return cls._make(lib.llama_sampler_init_adaptive_p(target, decay, seed), "adaptive_p")

    # samplers that thin out

    @classmethod
    def top_k(cls, k: int) -> Self:
        """Keep the `k` most likely tokens; 0 or less keeps all (upstream: `llama_sampler_init_top_k`)."""
        k = whole("k", k, -(2**31))
        backend.init()
        return cls._make(lib.llama_sampler_init_top_k(k), "top_k", keeps=max(k, 0))

    @classmethod
    def top_p(cls, p: float, min_keep: int = 0) -> Self:
        """Keep the most likely tokens that together reach probability `p` (upstream: `llama_sampler_init_top_p`).

        Args:
            p: 0 to 1; 1 keeps all.
            min_keep: Tokens to keep at least.
        """
        p, min_keep = probability("p", p), whole("min_keep", min_keep, 0)
        backend.init()
        return cls._make(lib.llama_sampler_init_top_p(p, min_keep), "top_p")

    @classmethod
    def min_p(cls, p: float, min_keep: int = 0) -> Self:
        """Keep tokens at least `p` times as likely as the most likely one (upstream: `llama_sampler_init_min_p`).

        Args:
            p: 0 to 1; 0 keeps all.
            min_keep: Tokens to keep at least.
        """
        p, min_keep = probability("p", p), whole("min_keep", min_keep, 0)
        backend.init()
        return cls._make(lib.llama_sampler_init_min_p(p, min_keep), "min_p")

    @classmethod
    def typical(cls, p: float, min_keep: int = 0) -> Self:
        """Keep tokens whose surprise is near the average one (upstream: `llama_sampler_init_typical`).

        Args:
            p: Probability that the kept tokens reach together, 0 to 1; 1 keeps all.
            min_keep: Tokens to keep at least.
        """
        p, min_keep = probability("p", p), whole("min_keep", min_keep, 0)
        backend.init()
        return cls._make(lib.llama_sampler_init_typical(p, min_keep), "typical")

    @classmethod
    def top_n_sigma(cls, n: float) -> Self:
        """Keep logits within `n` standard deviations of the highest (upstream: `llama_sampler_init_top_n_sigma`).

        Args:
            n: Standard deviations; 0 or less keeps all.
        """
        n = real("n", n)
        backend.init()
        return cls._make(lib.llama_sampler_init_top_n_sigma(n), "top_n_sigma")

    @classmethod
    def xtc(cls, p: float, t: float, min_keep: int = 0, seed: int = DEFAULT_SEED) -> Self:
        """Now and then drop all likely tokens but the least likely of them (upstream: `llama_sampler_init_xtc`).

        Args:
            p: Probability of doing so, 0 to 1.
            t: Probability from which a token counts as likely; above 0.5 switches it off.
            min_keep: Tokens to keep at least.
            seed: As for `dist`.
        """
        p, t, min_keep = probability("p", p), probability("t", t), whole("min_keep", min_keep, 0)
        seed = sampler_checks.seed(seed)
        backend.init()
        return cls._make(lib.llama_sampler_init_xtc(p, t, min_keep, seed), "xtc")

    @classmethod
    def infill(cls, model: Model) -> Self:
        """Prepare candidates for filling in the middle (upstream: `llama_sampler_init_infill`).

        Meant to follow top_k and top_p: it compares every candidate with every other one.

        Raises:
            UnsupportedError: The model has no tokenizer, or no token that ends a text.
        """
        if model.vocab.type == "none" or (model.vocab.eot is None and model.vocab.eos is None):
            raise UnsupportedError("this model has no token that ends a text", hint="leave infill out")
        return cls._make_for(model, "infill", lambda vocab, _: lib.llama_sampler_init_infill(vocab))

    # samplers that change logits

    @classmethod
    def temp(cls, t: float) -> Self:
        """Divide the logits by `t`; 0 or less keeps only the highest (upstream: `llama_sampler_init_temp`)."""
        t = real("t", t)
        backend.init()
        return cls._make(lib.llama_sampler_init_temp(t), "temp")

    @classmethod
    def temp_ext(cls, t: float, delta: float = 0.0, exponent: float = 1.0) -> Self:
        """Divide the logits by a temperature that follows the entropy (upstream: `llama_sampler_init_temp_ext`).

        Args:
            t: Temperature in the middle.
            delta: How far it goes down and up from there; 0 or less for plain `temp(t)`.
            exponent: How the entropy maps to the range.
        """
        t, delta, exponent = real("t", t), real("delta", delta), real("exponent", exponent)
        backend.init()
        return cls._make(lib.llama_sampler_init_temp_ext(t, delta, exponent), "temp_ext")

    @classmethod
    def penalties(
        cls,
        model: Model,
        penalty_last_n: int = 64,
        penalty_repeat: float = 1.0,
        penalty_freq: float = 0.0,
        penalty_present: float = 0.0,
    ) -> Self:
        """Make tokens that were accepted lately less likely (upstream: `llama_sampler_init_penalties`).

        Args:
            model: Model whose vocabulary size it is made for.
            penalty_last_n: Tokens to look back; 0 switches it off.
            penalty_repeat: Factor, above 0; 1 for none.
            penalty_freq: Taken off for each time the token occurred.
            penalty_present: Taken off once when it occurred.
        """
        last_n = sampler_checks.window("penalty_last_n", penalty_last_n)
        repeat = sampler_checks.penalty_repeat(penalty_repeat)
        freq, present = real("penalty_freq", penalty_freq), real("penalty_present", penalty_present)
        return cls._make_for(
            model,
            "penalties",
            lambda _, n_vocab: lib.llama_sampler_init_penalties(n_vocab, last_n, repeat, freq, present),
            window=last_n,
            lowers=last_n if repeat >= 1 and freq >= 0 and present >= 0 else None,
        )

    @classmethod
    def dry(
        cls,
        model: Model,
        dry_multiplier: float = 0.8,
        dry_base: float = 1.75,
        dry_allowed_length: int = 2,
        dry_penalty_last_n: int = 64,
        seq_breakers: Sequence[str] = DRY_SEQUENCE_BREAKERS,
    ) -> Self:
        """Penalise tokens that would continue a repeated sequence: DRY (upstream: `llama_sampler_init_dry`).

        Args:
            model: Model whose vocabulary the breakers are read in.
            dry_multiplier: Strength; 0 switches it off.
            dry_base: Growth of the penalty with the length of the repetition; below 1 switches it off.
            dry_allowed_length: Repetitions up to this length go unpunished.
            dry_penalty_last_n: Tokens to look back; 0 switches it off.
            seq_breakers: Strings that interrupt a repetition, at most 40 bytes each.

        Raises:
            UnsupportedError: The model has no tokenizer to read the breakers with.
        """
        multiplier, base = real("dry_multiplier", dry_multiplier), real("dry_base", dry_base)
        allowed = whole("dry_allowed_length", dry_allowed_length, 0)
        last_n = sampler_checks.window("dry_penalty_last_n", dry_penalty_last_n)
        texts = sampler_checks.breakers(seq_breakers)
        if multiplier == 0.0 or base < 1.0 or last_n == 0:
            texts = []  # switched off: upstream does not read them either
        if texts and model.vocab.type == "none":
            raise UnsupportedError("this model has no tokenizer", hint="give no seq_breakers")
        for raw in texts:
            for start in range(1, len(raw)):  # upstream tokenises these tails, in a call that cannot report a failure
                model.vocab.tokenize(raw[start:], add_special=False)
        breakers = [ffi.new("char[]", raw) for raw in texts]
        array = ffi.new("const char *[]", breakers)
        return cls._make_for(
            model,
            "dry",
            lambda vocab, _: lib.llama_sampler_init_dry(vocab, multiplier, base, allowed, last_n, array, len(breakers)),
            window=last_n,
        )

    @classmethod
    def logit_bias(cls, model: Model, logit_bias: Mapping[int, float]) -> Self:
        """Add a number to the logits of some tokens (upstream: `llama_sampler_init_logit_bias`).

        Args:
            model: Model whose vocabulary the tokens are from.
            logit_bias: Token to bias; minus infinity forbids the token.
        """
        pairs = sampler_checks.logit_bias(logit_bias, len(model.vocab))
        array = ffi.new("llama_logit_bias[]", pairs)
        return cls._make_for(
            model,
            "logit_bias",
            lambda _, n_vocab: lib.llama_sampler_init_logit_bias(n_vocab, len(pairs), array),
            lowers=len(pairs) if all(bias <= 0 for _, bias in pairs) else None,
        )

    @classmethod
    def min_tokens(cls, count: int, ends: Sequence[int]) -> Self:
        """Forbid the tokens `ends` until `count` tokens were accepted; tokens of a prompt do not count."""
        count = whole("count", count, 0)
        ends = [sampler_checks.token(token, None) for token in ends]
        out = ffi.new("struct llama_sampler **")
        status = lib.llc_sampler_min_tokens(count, ffi.new("llama_token[]", ends), len(ends), out)
        if status:
            raise_status(status, "making a min_tokens sampler", NativeError)
        return cls._make(out[0], "min_tokens", lowers=len(ends))

    @classmethod
    def grammar(
        cls,
        model: Model,
        grammar_text: str,
        root: str = "root",
        *,
        trigger_patterns: Sequence[str] = (),
        trigger_tokens: Sequence[int] = (),
    ) -> Self:
        """Forbid tokens that a GBNF grammar does not allow next (upstream: `llama_sampler_init_grammar`).

        With triggers the grammar is lazy (`llama_sampler_init_grammar_lazy_patterns`): it allows everything until one
        of them is seen.

        Args:
            model: Model whose vocabulary the text is made of.
            grammar_text: The grammar in GBNF.
            root: Name of the rule to start from.
            trigger_patterns: Regular expressions (ECMAScript) searched for in the text written so far; the grammar
                applies from the first group that matched, or from the start of the match.
            trigger_tokens: Tokens that start the grammar, and belong to it.

        Raises:
            GrammarError: The grammar or a pattern does not parse; the message says where.
            UnsupportedError: The model has no tokenizer.
        """
        tokens = [sampler_checks.token(token, len(model.vocab)) for token in trigger_tokens]
        if model.vocab.type == "none":
            raise UnsupportedError("this model has no tokenizer", hint="a grammar needs text")
        return cls._make_for(
            model,
            "grammar",
            lambda vocab, _: grammar.native_sampler(vocab, grammar_text, root, trigger_patterns, tokens),
        )
