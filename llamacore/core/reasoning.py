"""A budget for thoughts: how many tokens a model may think before it has to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import InvalidArgumentError, NativeError
from ._native import ffi, lib
from ._status import raise_status
from .sampler_checks import whole
from .sampler_handle import Item

if TYPE_CHECKING:
    from .model import Model
    from .sampler import Sampler


def opening_tokens(model: Model, text: str) -> list[int]:
    """Return the tokens of what a prompt has of the reply, as upstream's `common_sampler_init` reads them."""
    tokens = model.vocab.tokenize(text, add_special=False, parse_special=True) if text else []
    if tokens and not text[0].isspace() and model.vocab.token_to_piece(tokens[0])[:1].isspace():
        del tokens[0]  # some tokenizers put a space in front of a control token
    return tokens


ReasoningState = Literal["idle", "counting", "forcing", "waiting_utf8", "done"]
"""What a budget does: it waits for a thought, counts, writes the end, waits for a character, or waits for another."""

_STATES: tuple[ReasoningState, ...] = ("idle", "counting", "forcing", "waiting_utf8", "done")


def reasoning_state(sampler: Sampler) -> ReasoningState | None:
    """Return what a sampler from `reasoning_budget` does, None for any other sampler."""
    with sampler._held() as ptr:
        state = int(lib.llc_sampler_reasoning_state(ptr))
    return _STATES[state] if state >= 0 else None


def reasoning_budget(
    model: Model,
    start_tag: str,
    end_tags: Sequence[str],
    *,
    n_tokens: int = -1,
    message: str = "",
    opening: Sequence[int] = (),
) -> Sampler:
    """Make a sampler that ends a thought when it has used up its tokens (upstream: `common_reasoning_budget_init`).

    It counts the tokens after a start tag. When there are as many as allowed (one more where the last one ends inside
    a character), it forces the message and the first end tag. Each thought of a reply has the whole budget. It belongs
    in front of a chain, before all samplers that forbid or choose.

    Args:
        model: Model whose vocabulary the tags are read in.
        start_tag: What opens a thought.
        end_tags: What ends one; the first is what is forced.
        n_tokens: Tokens that a thought may have; negative for no limit.
        message: Written before the tag when the budget is used up.
        opening: What the prompt has of the reply already; it may have opened a thought, and costs nothing.

    Raises:
        InvalidArgumentError: A tag is missing or empty.
    """
    from .sampler import Sampler

    n_tokens = whole("reasoning_budget_tokens", n_tokens, -1)
    vocab = model.vocab
    start, *ends = [vocab.tokenize(tag, add_special=False, parse_special=True) for tag in (start_tag, *end_tags)]
    if not start or not ends or not all(ends):
        raise InvalidArgumentError(
            f"a reasoning budget between {start_tag!r} and {list(end_tags)!r}", hint="give the tags of this model"
        )
    said = vocab.tokenize(message, add_special=False, parse_special=False) if message else []
    forced = [*said, *ends[0]]
    flat = [token for end in ends for token in end]
    out = ffi.new("struct llama_sampler **")
    model._enter()
    try:
        status = lib.llc_sampler_reasoning_budget(
            model._vocab_ptr,
            ffi.new("llama_token[]", start), len(start),
            ffi.new("llama_token[]", flat), ffi.new("size_t[]", [len(end) for end in ends]), len(ends),
            ffi.new("llama_token[]", forced), len(forced), n_tokens,
            ffi.new("llama_token[]", list(opening)), len(opening), out,
        )  # fmt: skip
        if status != lib.LLC_OK:
            raise_status(status, "making a reasoning budget", NativeError)
        return Sampler(out[0], Item("reasoning_budget", model))
    finally:
        model._exit()
