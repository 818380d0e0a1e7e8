"""Speculation: tokens that are drafted cheaply, so that the target checks several in one decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import (
    BusyError,
    DecodeError,
    InvalidArgumentError,
    NativeError,
    OutOfRangeError,
    StateError,
    UnsupportedError,
)
from . import log
from ._handle import Handle
from ._native import ffi, lib, text
from ._speculative_config import hint_for, native_config
from ._status import raise_status
from .batch import Batch
from .context import Context
from .speculative_models import draft_context as draft_context
from .speculative_models import mtp_context as mtp_context
from .speculative_models import require_compatible as require_compatible
from .speculative_models import speculative_types as speculative_types
from .speculative_params import MtpSessionConfig as MtpSessionConfig
from .speculative_params import SpeculativeConfig as SpeculativeConfig
from .speculative_stats import SpeculativeStats as SpeculativeStats
from .speculative_stats import read_stats


class SpeculativeSession(Handle):
    """Drafts for the sequences of a target context (upstream: `common_speculative`). Used by one thread at a time.

    The rounds of a sequence, whose text is in the target up to `n_past` and goes on with `id_last`:

    1. `draft` proposes what follows `id_last`.
    2. What drafting has left in the memory of the draft context is removed: `draft.memory.seq_rm(seq_id, n_past)`.
    3. The target decodes `id_last` and the draft, all of them output rows; `process` gets the same batch.
    4. Rows are sampled as long as they agree with the draft (`RowSampler.sample_drafts`); `accept` tells how many did.
    5. Both memories are cut: `memory.seq_rm(seq_id, n_past + 1 + n_accepted)`.

    Every batch that the target decodes for these sequences is given to `process`, prompts too. The session is a child
    of both contexts: closing one of them closes it first. Neither can compute during its calls.

    Args:
        config: How to draft.
        target: Context whose tokens are drafted. With a recurrent state it needs `n_rs_seq` of at least
            `config.n_draft_max`, so that it can take back what is rejected.
        draft: Context that drafts, made by `mtp_context` or `draft_context`; None for n-grams.

    Attributes:
        n_seq: Sequences.
        types: Types that draft.
        n_draft_max: Most tokens of a draft; n-grams may have more than the configuration's.
        n_min: Shorter drafts are dropped.
        p_min: Probability below which drafting stops.
        need_embd: Whether the target must compute embeddings: never.
        need_embd_nextn: Whether the target computes next-n hidden states, which the session switched on.
        shares_memory: Whether target and draft context have one memory, so that an edit of one is an edit of both.

    Raises:
        InvalidArgumentError: The configuration and the contexts do not fit; the message says what to change.
        UnsupportedError: The model of the draft context has no MTP heads.
    """

    def __init__(self, config: SpeculativeConfig, target: Context, draft: Context | None = None) -> None:
        if not isinstance(config, SpeculativeConfig):
            raise InvalidArgumentError(f"config={config!r}", hint="give a SpeculativeConfig")
        for name, context in (("target", target), ("draft", draft)):
            if not isinstance(context, Context) and (name == "target" or context is not None):
                raise InvalidArgumentError(f"{name}={context!r}", hint="give a Context")
        if draft is target:
            raise InvalidArgumentError("target and draft are one context", hint="make a second one, see mtp_context()")
        self.config = config
        self.types = tuple(config.types)
        self.n_seq, self.n_min, self.p_min = config.n_seq, config.n_min, config.p_min
        self.need_embd = False
        self._target, self._draft = target, draft
        native, keep = native_config(config)
        out, mark = ffi.new("struct llc_spec **"), log.mark()
        with target._held() as native.ctx_tgt:
            if draft is None:
                status = lib.llc_spec_new(native, out)
            else:
                with draft._held() as native.ctx_dft:
                    status = lib.llc_spec_new(native, out)
                    draft._pools.join(target._pools, native.ctx_dft)  # else the threads of each wait for the other's
            if status != lib.LLC_OK:
                raise_status(
                    status, f"speculating with {', '.join(self.types)}", InvalidArgumentError, mark=mark,
                    hint=hint_for(text(lib.llc_last_error())),
                )  # fmt: skip
        del keep
        self.n_draft_max = int(lib.llc_spec_n_max(out[0]))
        self.need_embd_nextn = bool(lib.llc_spec_need_embd_nextn(out[0]))
        self.shares_memory = bool(lib.llc_spec_shares_memory(out[0]))
        self._stride = max(self.n_draft_max, 1)
        self._seqs, self._pos0 = ffi.new("llama_seq_id[]", self.n_seq), ffi.new("llama_pos[]", self.n_seq)
        self._id_last, self._n_max = ffi.new("llama_token[]", self.n_seq), ffi.new("int32_t[]", self.n_seq)
        self._tokens, self._counts = (
            ffi.new("llama_token[]", self.n_seq * self._stride), ffi.new("int32_t[]", self.n_seq)
        )  # fmt: skip
        drafts = () if draft is None else (draft,)
        super().__init__(out[0], lib.llc_spec_free, parent=target, keep=drafts, others=drafts)

    @property
    def need_embd_pre_norm(self) -> bool:
        """`need_embd_nextn` under its older name."""
        return self.need_embd_nextn

    def _enter_all(self) -> Any:
        """Take the session and both contexts; undone by `_exit_all`."""
        ptr = self._enter()
        try:
            self._target._enter()
            try:
                if self._draft is not None:
                    self._draft._enter()
            except BaseException:
                self._target._exit()
                raise
        except BaseException:
            self._exit()
            raise
        return ptr

    def _exit_all(self) -> None:
        if self._draft is not None:
            self._draft._exit()
        self._target._exit()
        self._exit()

    def _fail(self, status: int, what: str, error: type[NativeError | DecodeError | StateError], mark: int) -> None:
        if status == lib.LLC_ABORTED:  # the target is only read here: it can go on
            self._break(text(lib.llc_last_error()))
            if self._draft is not None:
                self._draft._break(text(lib.llc_last_error()))
        raise_status(status, what, error, mark=mark)

    def begin(self, seq_id: int, prompt: Sequence[int]) -> None:
        """Tell that a sequence now holds another text, once it is decoded and processed. A proposal is forgotten.

        Args:
            seq_id: The sequence.
            prompt: Tokens of the text from position 0, without the one that the first draft continues. N-grams are
                looked up in them; the memory of the draft context is filled by `process`.

        Raises:
            InvalidArgumentError: There is no such sequence, or no such token.
        """
        ptr = self._enter_all()
        try:
            tokens = ffi.new("llama_token[]", list(prompt))
            mark = log.mark()
            status = lib.llc_spec_begin(ptr, seq_id, tokens, len(tokens))
            if status != lib.LLC_OK:
                self._fail(status, f"beginning a text in sequence {seq_id}", NativeError, mark)
        except (OverflowError, TypeError) as exc:
            raise InvalidArgumentError(f"a prompt that is no list of tokens ({exc})", hint="give token ids") from None
        finally:
            self._exit_all()

    def process(self, batch: Batch, n_rows: int | None = None) -> None:
        """Take over what the target has just decoded; with a draft context that decodes it as well.

        Args:
            batch: The batch that the target decoded last, as it was. The rows of a sequence are side by side.
            n_rows: Only that many rows from the front: sequences that are not speculated for may come after them.

        Raises:
            InvalidArgumentError: It is another batch, its rows are mixed, a proposal was processed before and not
                answered, or the draft context holds other positions; nothing was done.
            DecodeError: The draft context could not decode it. The session stays usable: empty the draft memory of
                these sequences, from where drafting goes on in the middle of their texts, or do not draft any more.
        """
        if not isinstance(batch, Batch):
            raise InvalidArgumentError(f"a {type(batch).__name__} is no Batch", hint="give the one that was decoded")
        ptr = self._enter_all()
        try:
            if batch._decoding:
                raise BusyError("this Batch is being decoded by another thread", hint="give each thread its own")
            mark = log.mark()
            status = lib.llc_spec_process(ptr, batch._native, len(batch) if n_rows is None else n_rows)
            if self._draft is not None:
                self._draft._rollback.forget_all()  # its own count of what can be taken back is no longer right
            if status != lib.LLC_OK:
                self._fail(status, f"processing a batch of {len(batch)} tokens", DecodeError, mark)
        except (OverflowError, TypeError):
            raise OutOfRangeError(f"n_rows={n_rows!r}", hint=f"the batch has {len(batch)} rows") from None
        finally:
            self._exit_all()

    def draft(self, seq_id: int, n_past: int, id_last: int, n_max: int | None = None) -> list[int]:
        """Propose how a sequence goes on.

        Args:
            seq_id: The sequence.
            n_past: Tokens of it that the target has decoded: the position of `id_last`.
            id_last: The token after them, which was chosen and not decoded yet.
            n_max: Most tokens; None for `n_draft_max`.

        Returns:
            The proposal, which `accept` answers; an empty one needs no answer.

        Raises:
            InvalidArgumentError: There is no such sequence or token, the last proposal was not answered, or the draft
                context holds other positions than the target.
        """
        return self.draft_many((seq_id,), (n_past,), (id_last,), None if n_max is None else (n_max,))[0]

    def draft_many(
        self,
        seq_ids: Sequence[int],
        n_past: Sequence[int],
        id_last: Sequence[int],
        n_max: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Propose how several sequences go on, in one go; see `draft`.

        Args:
            seq_ids: Different sequences.
            n_past: For each the position of its last token.
            id_last: For each its last token.
            n_max: For each the most tokens, 0 for no draft; None for `n_draft_max`.

        Returns:
            For each the proposal.
        """
        count = len(seq_ids)
        if not count:
            return []
        if n_max is None:
            n_max = (self.n_draft_max,) * count
        if not count == len(n_past) == len(id_last) == len(n_max) or count > self.n_seq:
            raise InvalidArgumentError(
                f"{count} sequences with {len(n_past)} positions, {len(id_last)} tokens and {len(n_max)} limits",
                hint=f"give one of each for at most n_seq={self.n_seq} sequences",
            )
        ptr = self._enter_all()
        try:
            self._seqs[0:count], self._pos0[0:count] = seq_ids, n_past
            self._id_last[0:count], self._n_max[0:count] = id_last, n_max
            tokens, counts, stride, mark = self._tokens, self._counts, self._stride, log.mark()
            status = lib.llc_spec_draft(
                ptr, count, self._seqs, self._pos0, self._id_last, self._n_max, tokens, stride, counts
            )
            if self._draft is not None:
                self._draft._rollback.forget_all()
            if status != lib.LLC_OK:
                self._fail(status, f"drafting for sequences {list(seq_ids)}", NativeError, mark)
            return [ffi.unpack(tokens + k * stride, n) for k, n in enumerate(ffi.unpack(counts, count))]
        except (OverflowError, TypeError) as exc:
            raise InvalidArgumentError(f"a draft with what is no number ({exc})", hint="give whole numbers") from None
        finally:
            self._exit_all()

    def accept(self, seq_id: int, n_accepted: int) -> None:
        """Answer the proposal of a sequence, after the batch that checked it was processed.

        Args:
            seq_id: The sequence.
            n_accepted: How many tokens of it were right, from its start. 0 gives a proposal up, also before `process`.

        Raises:
            InvalidArgumentError: There is no proposal, or it has fewer tokens, or fewer were processed.
        """
        ptr = self._enter()  # no context is touched
        try:
            mark = log.mark()
            status = lib.llc_spec_accept(ptr, seq_id, n_accepted)
            if status != lib.LLC_OK:
                self._fail(status, f"accepting {n_accepted} tokens in sequence {seq_id}", NativeError, mark)
        except (OverflowError, TypeError):
            raise OutOfRangeError(
                f"sequence {seq_id!r} with {n_accepted!r} tokens", hint=f"sequences are 0 to {self.n_seq - 1}"
            ) from None
        finally:
            self._exit()

    def flush(self, seq_id: int) -> None:
        """Compute what of a sequence waits for its next draft, before its draft memory is copied, moved or saved.

        Only an MTP session that trims (`SpeculativeConfig.trims`) lets rows wait; for others nothing is done.

        Args:
            seq_id: The sequence.

        Raises:
            OutOfRangeError: There is no such sequence.
            DecodeError: The draft context could not decode them.
        """
        self._require_sequence(seq_id)
        ptr = self._enter_all()
        try:
            mark = log.mark()
            status = lib.llc_spec_flush(ptr, seq_id)
            if self._draft is not None:
                self._draft._rollback.forget_all()
            if status != lib.LLC_OK:
                self._fail(status, f"computing what waits of sequence {seq_id}", DecodeError, mark)
        finally:
            self._exit_all()

    def _require_sequence(self, seq_id: Any) -> None:
        if not isinstance(seq_id, int) or not 0 <= seq_id < self.n_seq:
            raise OutOfRangeError(f"sequence {seq_id!r}", hint=f"sequences are 0 to {self.n_seq - 1}")

    def pending(self, seq_id: int) -> int:
        """Return the length of the proposal of a sequence that was not answered yet, 0 for none.

        Raises:
            OutOfRangeError: There is no such sequence.
        """
        self._require_sequence(seq_id)
        with self._held() as ptr:
            return int(lib.llc_spec_pending(ptr, seq_id))

    def get_state(self, seq_id: int) -> bytes:
        """Return what the session knows of a sequence beyond its memory, for `set_state`.

        Raises:
            UnsupportedError: There is nothing: only EAGLE-3 on a recurrent target has such a state.
        """
        size, mark = ffi.new("size_t *"), log.mark()
        ptr = self._enter_all()
        try:
            data, capacity = ffi.NULL, 0
            for _ in range(2):
                status = lib.llc_spec_state_get(ptr, seq_id, data, capacity, size)
                if status == lib.LLC_UNAVAILABLE:
                    raise UnsupportedError(f"the state of sequence {seq_id}: {text(lib.llc_last_error())}")
                if status != lib.LLC_OK:
                    self._fail(status, f"reading the state of sequence {seq_id}", StateError, mark)
                data, capacity = (ffi.new("uint8_t[]", size[0]), size[0]) if data == ffi.NULL else (data, capacity)
            return bytes(ffi.buffer(data))
        except (OverflowError, TypeError):
            raise OutOfRangeError(f"sequence {seq_id!r}", hint=f"sequences are 0 to {self.n_seq - 1}") from None
        finally:
            self._exit_all()

    def set_state(self, seq_id: int, state: bytes) -> None:
        """Bring back what `get_state` returned, after the memories were restored.

        Raises:
            UnsupportedError: The session has no such state.
            InvalidArgumentError: The state is damaged, or of another session.
        """
        mark = log.mark()
        ptr = self._enter_all()
        try:
            status = lib.llc_spec_state_set(ptr, seq_id, ffi.from_buffer("uint8_t[]", state), len(state))
            if status == lib.LLC_UNAVAILABLE:
                raise UnsupportedError(f"the state of sequence {seq_id}: {text(lib.llc_last_error())}")
            if status != lib.LLC_OK:
                self._fail(status, f"restoring the state of sequence {seq_id}", StateError, mark)
        except (OverflowError, TypeError):
            raise InvalidArgumentError(f"sequence {seq_id!r}, or its state", hint="give bytes of get_state()") from None
        finally:
            self._exit_all()

    def stats(self) -> SpeculativeStats:
        """Return counts and times since the start or `reset_stats()`."""
        with self._held() as ptr:
            return read_stats(ptr, self.types, self.n_draft_max)

    def reset_stats(self) -> None:
        """Start counting again."""
        with self._held() as ptr:
            lib.llc_spec_reset_stats(ptr)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.n_seq} sequences"
        return f"<{type(self).__name__} {', '.join(self.types)} ({state})>"


class MtpSession(SpeculativeSession):
    """A session that drafts with the next-token-prediction (MTP) heads of the target's model; see `SpeculativeSession`.

    Args:
        target: Context whose tokens are drafted, made with `n_rs_seq` of at least `n_draft_max` if its model is
            recurrent or hybrid.
        draft: Context of type "mtp"; `mtp_context(target)` makes it.
        config: How to draft.
    """

    def __init__(self, target: Context, draft: Context, config: MtpSessionConfig | None = None) -> None:
        config = MtpSessionConfig() if config is None else config
        if not isinstance(config, MtpSessionConfig):
            raise InvalidArgumentError(f"config={config!r}", hint="give an MtpSessionConfig")
        if "draft-mtp" not in config.types:
            raise InvalidArgumentError(f"types={config.types!r}", hint='"draft-mtp" must be one of them')
        super().__init__(config, target, draft)
