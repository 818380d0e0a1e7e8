"""What a speculation session has drafted, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._native import ffi, lib


@dataclass(frozen=True)
class SpeculativeStats:
    """Counts and times of a session, all of its types together.

    Attributes:
        types: The types that draft.
        n_begin: Texts that were begun.
        n_process: Batches that were processed.
        n_draft: Sequences that were asked for a draft.
        n_accept: Proposals that were answered after they were checked.
        drafts: Drafts that were not empty.
        drafts_accepted: Of which a token was accepted.
        drafted: Tokens that were drafted.
        accepted: Of which were accepted.
        positions: For each place of a draft, how often a token was drafted there and how often accepted.
        t_begin_ms: Time of beginning texts.
        t_process_ms: Time of processing, in which the draft context decodes what the target has decoded unless that
            waits for a draft, and of `flush`.
        t_draft_ms: Time of drafting.
        t_accept_ms: Time of taking answers.
    """

    types: tuple[str, ...]
    n_begin: int
    n_process: int
    n_draft: int
    n_accept: int
    drafts: int
    drafts_accepted: int
    drafted: int
    accepted: int
    positions: tuple[tuple[int, int], ...]
    t_begin_ms: float
    t_process_ms: float
    t_draft_ms: float
    t_accept_ms: float

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that were accepted, NaN before the first."""
        return self.accepted / self.drafted if self.drafted else float("nan")

    @property
    def acceptance_per_position(self) -> tuple[float, ...]:
        """The same for each place of a draft."""
        return tuple(accepted / drafted if drafted else float("nan") for drafted, accepted in self.positions)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens that a checked draft gave, with the one that the target chose itself."""
        return 1 + self.accepted / self.n_accept if self.n_accept else float("nan")


def read_stats(ptr: Any, types: tuple[str, ...], n_draft_max: int) -> SpeculativeStats:
    """Copy the counts of a native session."""
    raw = ffi.new("struct llc_spec_stats *")
    drafted, accepted = ffi.new("uint64_t[]", max(n_draft_max, 1)), ffi.new("uint64_t[]", max(n_draft_max, 1))
    lib.llc_spec_get_stats(ptr, raw)
    places = int(lib.llc_spec_positions(ptr, n_draft_max, drafted, accepted))
    return SpeculativeStats(
        types, int(raw.n_begin), int(raw.n_process), int(raw.n_draft), int(raw.n_accept), int(raw.n_drafts),
        int(raw.n_drafts_accepted), int(raw.n_draft_tokens), int(raw.n_accepted_tokens),
        tuple(zip(ffi.unpack(drafted, places), ffi.unpack(accepted, places), strict=True)),
        raw.t_begin_us / 1e3, raw.t_process_us / 1e3, raw.t_draft_us / 1e3, raw.t_accept_us / 1e3,
    )  # fmt: skip
