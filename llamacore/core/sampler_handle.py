"""What every sampler can do: sample, accept, apply and copy. `SamplerChain` adds chains, `Sampler` the constructors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import (
    BusyError,
    ClosedError,
    InvalidArgumentError,
    NativeError,
    OutOfRangeError,
    OutputError,
    SamplingError,
)
from . import sampler_candidates, sampler_checks
from ._handle import Handle
from ._native import ffi, lib, text
from ._status import raise_status

if TYPE_CHECKING:
    from typing_extensions import Self

    from .context import Context
    from .model import Model
    from .sampler_candidates import Candidates, CandidatesLike

_MOST_CANDIDATES = 4096  # from there on, sorting all tokens is no slower
_NO_TOKEN = 2**31 - 1  # an id that no candidate has


@dataclass
class Item:
    """What the Python side knows of one native sampler, in a chain or not.

    Attributes:
        kind: Name of the constructor.
        model: Model whose vocabulary it reads or whose size it was made for.
        window: Tokens of history that it looks at.
        items: The members of a chain; of a constrained sampler the grammar and the chain.
        lowers: How many logits it may lower, leaving all others as they are; None when it may do anything else.
        keeps: It keeps this many of the most likely tokens; 0 when that is not what it does.
    """

    kind: str
    model: Model | None = None
    window: int = 0
    items: list[Item] = field(default_factory=list)
    lowers: int | None = None
    keeps: int = 0

    def copy(self) -> Item:
        """Return an independent copy, for a clone of the sampler."""
        return replace(self, items=[item.copy() for item in self.items])

    def candidates(self) -> int:
        """How many of the most likely tokens it has to be shown, because it would drop all others; 0 for all of them.

        As many as its first member that cuts keeps, and one more for each logit that a member before may lower: such a
        token makes room for the next one.
        """
        lowered = 0
        for item in self.items if self.kind == "chain" else (self,):
            if item.keeps:
                return item.keeps + lowered if item.keeps + lowered <= _MOST_CANDIDATES else 0
            if item.lowers is None:
                return 0
            lowered += item.lowers
        return 0

    def choosers(self) -> list[str]:
        """Kinds of the members that choose a token in a graph, in their order."""
        if self.kind == "chain":
            return [kind for item in self.items for kind in item.choosers()]
        return [self.kind] if self.kind in ("dist", "greedy") else []

    def lookback(self) -> int:
        """Most tokens of history that it or one of its members looks at."""
        return max(self.window, *(item.lookback() for item in self.items), 0)


class SamplerHandle(Handle):
    """Owner of a native sampler, until a chain takes it over."""

    def __init__(self, ptr: Any, item: Item) -> None:
        model = item.model
        try:
            if model is not None:
                model._enter()  # refuses a closed model, and holds off its close() until this child is known to it
        except BaseException:
            lib.llama_sampler_free(ptr)
            raise
        try:
            super().__init__(ptr, lib.llama_sampler_free, parent=model)
        finally:
            if model is not None:
                model._exit()
        self._item = item
        self._spent = False
        self._shown: int | None = None  # candidates(), until the chain changes
        self._attached = False
        self._claimed: list[Handle] = []
        self._token = ffi.new("llama_token *")
        self._bind(model)

    def _bind(self, model: Model | None) -> None:
        self._model_ptr = None if model is None else model._core.ptr
        self._n_vocab = None if model is None else len(model.vocab)

    # ownership

    def _refuse(self) -> None:
        if self._spent:
            raise ClosedError(
                f"this {type(self).__name__} was added to a chain, which owns it now",
                hint="use the chain, or take it out again with chain.remove(i)",
            )
        super()._refuse()

    def _claim(self) -> Any:
        """Like `_enter()`, and take the contexts that run this sampler in their graph as well."""
        ptr = self._enter()
        try:
            for ctx in list(self._pinned_by):
                if not ctx.closed:
                    ctx._enter()
                    self._claimed.append(ctx)
        except BaseException:
            self._unclaim()
            raise
        return ptr

    def _unclaim(self) -> None:
        while self._claimed:
            self._claimed.pop()._exit()
        self._exit()

    def _require_unpinned(self) -> None:
        if not all(ctx.closed for ctx in self._pinned_by):
            raise BusyError(
                "a context runs this sampler in its graph",
                hint="take it out with ctx.set_sampler(seq_id, None), or close the context",
            )

    def _require_attachable(self, model: Model) -> None:
        if self._item.kind != "chain":
            raise InvalidArgumentError("only a sampler chain can run in the graph", hint="use Sampler.chain(...)")
        if self._attached:
            raise InvalidArgumentError("this chain was attached to a context before", hint="attach its clone()")
        if self._model_ptr is not None and self._model_ptr != model._core.ptr:
            raise InvalidArgumentError("this chain belongs to another model", hint="make it with the context's model")
        if "dist" in self._item.choosers()[:-1]:  # its random number is in no graph then, which upstream asserts
            raise InvalidArgumentError("this chain draws a token, then chooses another", hint="leave one of them out")

    def _attach(self, context: Handle) -> None:
        """Note that a context runs this chain in its graph, which upstream lets happen once in its life."""
        self._attached = True
        self._pinned_by.add(context)

    def _become_spent(self) -> None:
        """Give up the native object, which C owns from here on. The caller has entered this sampler."""
        self._finalizer.detach()
        self._spent = True
        self._core.ptr = None
        self._core.parent = None

    # sampling

    def sample(self, ctx: Context, i: int = -1) -> int:
        """Choose a token from a row of the last batch and accept it (upstream: `llama_sampler_sample`).

        Args:
            ctx: Context that decoded the batch.
            i: Row of the batch that was marked as output; -1 for the last one.

        Returns:
            The token. Rows of one sequence that share a sampler are sampled in order.

        Raises:
            OutputError: The row has no logits.
            SamplingError: No token was chosen (nothing in the chain chooses), or a grammar is at its end.
            InvalidArgumentError: The sampler was made for a vocabulary of another size.
        """
        sampler = self._enter()
        try:
            context = ctx._enter()
            try:
                if self._model_ptr is not None and lib.llama_get_model(context) != self._model_ptr:
                    self._require_same_vocabulary(context)
                status = lib.llc_sample(sampler, context, i, self._token)
                if status:
                    raise_sampling(status, i, ctx)
                token: int = self._token[0]
                return token
            except (TypeError, OverflowError) as exc:
                if type(i) is int and -(2**31) <= i < 2**31:
                    raise
                raise OutOfRangeError(f"row {i!r}", hint="give the number of a row of the last batch") from exc
            finally:
                ctx._exit()
        finally:
            self._exit()

    def _require_same_vocabulary(self, context: Any) -> None:
        size = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(lib.llama_get_model(context))))
        if size != self._n_vocab:
            raise InvalidArgumentError(
                f"this sampler was made for a vocabulary of {self._n_vocab} tokens, the context's has {size}",
                hint="make the sampler with the model of the context",
            )

    def apply(self, candidates: CandidatesLike) -> Candidates:
        """Run the sampler over candidates without a context (upstream: `llama_sampler_apply`). Does not accept.

        Args:
            candidates: Candidates, or the logits of tokens 0 to n - 1. They are copied.

        Returns:
            What is left of them, with the choice if one was made.

        Raises:
            InvalidArgumentError: There are none, or a logit is NaN or plus infinity.
            OutOfRangeError: A token is not in the vocabulary.
            SamplingError: The sampler failed.
        """
        buffer, array = sampler_candidates.to_native(candidates, self._n_vocab)
        ptr = self._claim()
        try:
            status = lib.llc_sampler_apply(ptr, array)
            if status:
                raise_status(status, f"applying the sampler {name_of(ptr)!r}", SamplingError)
        finally:
            self._unclaim()
        return sampler_candidates.from_native(buffer, array)

    def accept(self, token: int, *, is_generated: bool = True) -> None:
        """Tell the sampler that a token was chosen (upstream: `llama_sampler_accept`). `sample()` does that itself.

        Args:
            token: The token.
            is_generated: Whether the model wrote it. Grammars and reasoning budgets skip a token of the prompt, as
                upstream's `common_sampler_accept` does.

        Raises:
            SamplingError: A grammar does not allow it; `reset()` the sampler before it is used again.
            OutOfRangeError: The token is not in the vocabulary.
        """
        token = sampler_checks.token(token, self._n_vocab)
        ptr = self._claim()
        try:
            if is_generated:
                self._accept(ptr, token)
            else:
                for member, item in members(ptr, self._item):
                    if item.kind not in ("grammar", "reasoning_budget"):
                        self._accept(member, token)
        finally:
            self._unclaim()

    @property
    def lookback(self) -> int:
        """Tokens of a prompt, counted from its end, that `accept_prompt` makes use of."""
        return self._item.lookback()

    def accept_prompt(self, tokens: Iterable[int]) -> None:
        """Show a prompt to the samplers that look back (penalties, DRY): `accept(is_generated=False)` for each token.

        Raises:
            OutOfRangeError: A token is not in the vocabulary; nothing was accepted.
        """
        history = sampler_checks.tokens(tokens, self._n_vocab)
        ptr = self._claim()
        try:
            for member, item in members(ptr, self._item):
                for token in history[-item.window :] if item.window else ():
                    self._accept(member, token)
        finally:
            self._unclaim()

    def _accept(self, ptr: Any, token: int) -> None:
        status = lib.llc_sampler_accept(ptr, token)
        if status:
            reason = "it ends the text too early" if status == lib.LLC_ABORTED else text(lib.llc_last_error())
            raise SamplingError(
                f"the grammar does not allow token {token} here ({reason})",
                hint="reset() the sampler before it is used again",
            )

    # state

    def reset(self) -> None:
        """Forget what was accepted and start the random numbers again (upstream: `llama_sampler_reset`)."""
        ptr = self._claim()
        try:
            status = lib.llc_sampler_reset(ptr)
            if status:
                raise_status(status, "resetting the sampler", NativeError)
        finally:
            self._unclaim()

    def clone(self) -> Self:
        """Return an independent copy with the same state (upstream: `llama_sampler_clone`).

        Upstream copies all but the random numbers of adaptive_p, which start again in the copy.
        """
        out = ffi.new("struct llama_sampler **")
        ptr = self._claim()
        try:
            status = lib.llc_sampler_clone(ptr, out)
            if status:
                raise_status(status, "cloning the sampler", NativeError)
            _forget_pending(out[0], self._item)
            return type(self)(out[0], self._item.copy())
        finally:
            self._unclaim()

    def copy_state(self, other: Self) -> None:
        """Take over the state of a sampler built in the same way (upstream: `llama_sampler_copy`).

        Cheaper than `clone()` for going back to an earlier state; same restriction.

        Raises:
            InvalidArgumentError: The other sampler is of another kind, or its chain has other members.
        """
        if other is self:
            return
        target = self._claim()
        try:
            source = other._claim()
            try:
                if not _same_kind(source, other._item, target, self._item):
                    raise InvalidArgumentError(
                        "the samplers are not built in the same way", hint="copy between a sampler and its clone()"
                    )
                lib.llama_sampler_copy(source, target)
                _forget_pending(target, self._item)
            finally:
                other._unclaim()
        finally:
            self._unclaim()

    @property
    def name(self) -> str:
        """Upstream's name; "?" in front marks a sampler whose parameters switch it off, "+" one run by the device."""
        ptr = self._enter()
        try:
            return name_of(ptr)
        finally:
            self._exit()

    @property
    def seed(self) -> int | None:
        """Seed in use, of a chain the last one; None when nothing here reports one (dist and mirostat do)."""
        ptr = self._enter()
        try:
            return seed_of(ptr, self._item)
        finally:
            self._exit()

    def __repr__(self) -> str:
        state = "spent" if self._spent else "closed" if self.closed else ""
        members = ", ".join(item.kind for item in self._item.items)
        what = f"chain of {members or 'nothing'}" if self._item.kind == "chain" else self._item.kind
        return f"<{type(self).__name__} {what}{f' ({state})' if state else ''}>"


def part(ptr: Any, item: Item, index: int) -> Any:
    """Pointer of one of the samplers that a sampler is made of, which stays its owner."""
    if item.kind == "constrained":
        return lib.llc_sampler_constrained_get(ptr, index)
    return lib.llama_sampler_chain_get(ptr, index)


def members(ptr: Any, item: Item) -> Iterator[tuple[Any, Item]]:
    """Walk a sampler and all that it is made of down to the samplers that are made of nothing."""
    if item.kind not in ("chain", "constrained"):
        yield ptr, item
    for index, inner in enumerate(item.items):
        yield from members(part(ptr, item, index), inner)


def _same_kind(a: Any, of_a: Item, b: Any, of_b: Item) -> bool:
    """Whether `llama_sampler_copy` may copy from a to b: it aborts when not."""
    if a.iface != b.iface or of_a.model is not of_b.model or len(of_a.items) != len(of_b.items):
        return False
    return all(
        _same_kind(part(a, of_a, i), x, part(b, of_b, i), y)
        for i, (x, y) in enumerate(zip(of_a.items, of_b.items, strict=True))
    )


def _forget_pending(ptr: Any, item: Item) -> None:
    """Make the copy of an adaptive_p forget a choice not yet accepted: upstream does not copy what it points at."""
    for member, inner in members(ptr, item):
        if inner.kind == "adaptive_p":
            lib.llc_sampler_accept(member, _NO_TOKEN)


def name_of(ptr: Any) -> str:
    """Upstream's name of a native sampler."""
    return text(lib.llama_sampler_name(ptr))


def seed_of(ptr: Any, item: Item) -> int | None:
    """Seed that a native sampler reports, None when it has none."""
    if item.kind == "constrained":
        return seed_of(part(ptr, item, 1), item.items[1])
    seed = int(lib.llama_sampler_get_seed(ptr))
    return None if seed == lib.LLAMA_DEFAULT_SEED else seed


def raise_sampling(status: int, row: int, ctx: Context) -> None:
    """Raise the exception for a failed llc_sample."""
    what = f"sampling row {row}"
    if status == lib.LLC_NO_OUTPUT:
        raise OutputError(f"{what}: the last decode computed no logits for it", hint="mark the row with output=True")
    if status == lib.LLC_NO_TOKEN:
        reason = text(lib.llc_last_error())
        raise SamplingError(
            f"{what}: no token was chosen" + ("" if "selected" in reason else f" ({reason})"),
            hint="end the chain with a sampler that chooses: greedy, dist, mirostat or adaptive_p",
        )
    ctx._note(status)
    raise_status(status, what, SamplingError, hint="reset() the sampler before it is used again")
