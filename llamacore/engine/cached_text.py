"""What the prefix cache knows of a text, and what it counts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.adapters import LoraAdapter
    from ..core.control_vector import ControlVector

Adapters = frozenset[tuple["LoraAdapter | ControlVector", float]]
"""LoRA adapters and control vectors with their scales: a state depends on them."""

FEW_TOKENS = 32
"""So few tokens are computed as quickly as a state is copied or restored."""

_clock = itertools.count(1)


def now() -> int:
    """A running number: what was used later has a higher one."""
    return next(_clock)


@dataclass(eq=False)
class CachedText:
    """A text and where its state is: in a sequence, in host memory, or in a file.

    Attributes:
        key: The LoRA adapters it is computed with.
        tokens: The tokens that are computed.
        seq: The sequence that holds them, None when none does.
        running: Somebody is generating in that sequence.
        shared: Cells of the memory are shared with another sequence.
        checkpoints: Partial states by the number of tokens they stand after.
        state: The whole state, in host memory.
        file: The file that has it.
        used: When it was used last, as a running number.
    """

    key: Adapters
    tokens: list[int] = field(default_factory=list)
    seq: int | None = None
    running: bool = False
    shared: bool = False
    checkpoints: dict[int, bytes] = field(default_factory=dict)
    state: bytes | None = None
    file: Path | None = None
    used: int = field(default_factory=now)

    def host_data(self) -> list[bytes]:
        """What of it takes host memory."""
        return [*self.checkpoints.values(), *([self.state] if self.state is not None else [])]


@dataclass
class CacheStats:
    """What the prefix cache did and holds.

    Attributes:
        hits: Prompts of which a beginning was found.
        misses: Prompts of which nothing was found.
        reused_tokens: Prompt tokens that were not computed again.
        restores: Hits that came from host memory or from a file.
        evictions: Texts that lost their sequence.
        texts: Texts that are known now.
        host_bytes: Bytes of snapshots and checkpoints in host memory now.
        host_peak_bytes: The most that they were.
    """

    hits: int = 0
    misses: int = 0
    reused_tokens: int = 0
    restores: int = 0
    evictions: int = 0
    texts: int = 0
    host_bytes: int = 0
    host_peak_bytes: int = 0
