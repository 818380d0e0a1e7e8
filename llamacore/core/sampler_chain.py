"""Chains of samplers: who owns a sampler before, inside and after a chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import GrammarError, InvalidArgumentError, OutOfRangeError
from . import backend, sampler_checks
from ._native import ffi, lib
from ._status import raise_status
from .sampler_handle import Item, SamplerHandle, name_of, seed_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from .model import Model


@dataclass(frozen=True)
class SamplerInfo:
    """One member of a chain.

    Attributes:
        name: Upstream's name for it, as `Sampler.name` has it.
        seed: Seed it draws with, None when it has none.
    """

    name: str
    seed: int | None


@dataclass(frozen=True)
class SamplerPerf:
    """Time and count of a chain.

    Attributes:
        t_sample_ms: Time spent, 0 when the chain was made with `no_perf`.
        n_sample: Tokens accepted.
    """

    t_sample_ms: float
    n_sample: int


class SamplerChain(SamplerHandle):
    """A sampler that may be a chain of others, which it owns."""

    @classmethod
    def chain(cls, *samplers: Self, no_perf: bool | None = None, model: Model | None = None) -> Self:
        """Return a chain that runs the samplers one after another (upstream: `llama_sampler_chain_init`).

        Args:
            *samplers: Members, moved into the chain: the Python objects given are spent afterwards. The last one
                usually chooses (greedy, dist, mirostat, adaptive_p).
            no_perf: Skip the time measurement behind `perf()`; None for upstream's default.
            model: Model whose tokens it samples, which closes it too; None for that of its members, if any has one.

        Raises:
            InvalidArgumentError: A sampler is given twice, or two of them belong to different models.
            ClosedError: A sampler is closed or spent; nothing was moved.
        """
        backend.init()
        params = lib.llama_sampler_chain_default_params()
        if no_perf is not None:
            params.no_perf = bool(no_perf)
        chain = cls(lib.llama_sampler_chain_init(params), Item("chain"))
        try:
            chain.extend(samplers)
            if model is not None:
                chain._follow(model)
        except BaseException:
            chain.close()
            raise
        return chain

    @classmethod
    def constrained(
        cls,
        grammar: Self,
        chain: Self,
        *,
        opening: Sequence[int] = (),
        waits: bool = False,
        replay: bool = False,
        start: int | None = None,
    ) -> Self:
        """Return a sampler that holds a chain to a grammar as upstream's tools do (`common_sampler_sample`).

        The chain chooses without the grammar first. Only when its token does not fit, it chooses once more with the
        grammar in front. In nearly every step the grammar then looks at one token instead of the whole vocabulary.

        Args:
            grammar: From `Sampler.grammar`; moved, the Python object given is spent afterwards.
            chain: A sampler that chooses; moved.
            opening: Tokens that the prompt has of what the grammar describes.
            waits: Let the grammar see nothing while a reasoning budget, the first member of the chain, is inside a
                thought.
            replay: Show the grammar the tag that ended a thought: it may be its trigger.
            start: A token that opens a thought and may come before what the grammar describes.

        Raises:
            InvalidArgumentError: The first one is no grammar, the grammar does not take the opening, or the two belong
                to different models.
            ClosedError: One of them is closed or spent; nothing was moved.
        """
        if grammar._item.kind != "grammar" or chain is grammar:
            raise InvalidArgumentError(f"{grammar!r} and {chain!r}", hint="give a Sampler.grammar(...) and a chain")
        if chain._item.model not in (None, grammar._item.model):
            raise InvalidArgumentError("the grammar and the chain belong to different models")
        if (waits or replay) and (chain._item.kind != "chain" or not chain._item.items):
            raise InvalidArgumentError(f"{chain!r} has no reasoning budget", hint="begin the chain with one")
        tokens = [sampler_checks.token(token, grammar._n_vocab) for token in opening]
        first_token = lib.LLAMA_TOKEN_NULL if start is None else sampler_checks.token(start, grammar._n_vocab)
        out = ffi.new("struct llama_sampler **")
        first = grammar._enter()
        try:
            second = chain._enter()
            try:
                chain._require_unpinned()
                native = ffi.new("llama_token[]", tokens)
                status = lib.llc_sampler_constrained(
                    first, second, native, len(tokens), waits, replay, first_token, out
                )
                if status:
                    raise_status(status, "the grammar does not take the opening of the reply", GrammarError)
                item = Item("constrained", grammar._item.model, items=[grammar._item, chain._item])
                grammar._become_spent()
                chain._become_spent()
                return cls(out[0], item)
            finally:
                chain._exit()
        finally:
            grammar._exit()

    def add(self, sampler: Self) -> None:
        """Move a sampler to the end of this chain; the Python object given is spent afterwards.

        Raises:
            InvalidArgumentError: This is no chain, or the sampler belongs to another model.
            ClosedError: The sampler is closed or spent.
        """
        self.extend([sampler])

    def extend(self, samplers: Sequence[Self]) -> None:
        """Move several samplers to the end of this chain, all or none; see `add`."""
        chain = self._enter_chain()
        entered: list[Self] = []
        try:
            self._require_unpinned()
            pointers = []
            for sampler in samplers:
                if not isinstance(sampler, SamplerHandle):
                    raise InvalidArgumentError(f"{sampler!r} is no sampler")
                if sampler is self or any(sampler is other for other in entered):
                    raise InvalidArgumentError("a sampler cannot be added twice", hint="add its clone()")
                pointers.append(sampler._enter())
                entered.append(sampler)
                sampler._require_unpinned()
            models = {id(s._item.model): s._item.model for s in (self, *entered) if s._item.model is not None}
            if len(models) > 1:
                raise InvalidArgumentError(
                    "the samplers of a chain belong to different models", hint="make them all with the same model"
                )
            for model in models.values():
                self._follow(model)
            for sampler, ptr in zip(entered, pointers, strict=True):
                sampler._become_spent()  # before: Ctrl-C in between may cost memory, but frees nothing twice
                lib.llama_sampler_chain_add(chain, ptr)
                self._item.items.append(sampler._item)
                self._shown = None
        finally:
            for sampler in entered:
                sampler._exit()
            self._exit()

    def _follow(self, model: Model) -> None:
        if self._item.model is None:
            model._enter()
            try:
                self._item.model = self._core.parent = model
                self._bind(model)
                model._adopt(self)
            finally:
                model._exit()

    def remove(self, i: int) -> Self:
        """Take a member out of this chain and return it as a sampler of its own; -1 for the last one.

        Raises:
            OutOfRangeError: The chain has no such member.
        """
        chain = self._enter_chain()
        try:
            self._require_unpinned()
            index = self._index(i)
            item = self._item.items.pop(index)
            self._shown = None
            return type(self)(lib.llama_sampler_chain_remove(chain, index), item)
        finally:
            self._exit()

    def _enter_chain(self) -> Any:
        ptr = self._enter()
        if self._item.kind != "chain":
            self._exit()
            raise InvalidArgumentError(f"the sampler {self._item.kind} is no chain", hint="use Sampler.chain(...)")
        return ptr

    def _index(self, i: int) -> int:
        count = len(self._item.items)
        if not -count <= i < count:
            raise OutOfRangeError(f"member {i!r} of a chain of {count}")
        return i % count

    def __len__(self) -> int:
        """Number of members of a chain."""
        self._enter_chain()
        try:
            return len(self._item.items)
        finally:
            self._exit()

    def __bool__(self) -> bool:
        return True  # an empty chain is still a sampler

    def __getitem__(self, i: int) -> SamplerInfo:
        """Describe a member of a chain; `remove(i)` takes it out."""
        chain = self._enter_chain()
        try:
            index = self._index(i)
            member = lib.llama_sampler_chain_get(chain, index)
            return SamplerInfo(name_of(member), seed_of(member, self._item.items[index]))
        finally:
            self._exit()

    def __iter__(self) -> Iterator[SamplerInfo]:
        return iter([self[i] for i in range(len(self))])

    @property
    def names(self) -> list[str]:
        """Upstream's names of the members of a chain."""
        return [info.name for info in self]

    def perf(self) -> SamplerPerf:
        """Return the time and count of a chain since it was made or since `perf_reset()`."""
        chain = self._enter_chain()
        try:
            data = lib.llama_perf_sampler(chain)
            return SamplerPerf(float(data.t_sample_ms), int(data.n_sample))
        finally:
            self._exit()

    def perf_reset(self) -> None:
        """Start counting again."""
        chain = self._enter_chain()
        try:
            lib.llama_perf_sampler_reset(chain)
        finally:
            self._exit()
