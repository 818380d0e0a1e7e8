"""What a sampler works on: tokens with their logits and probabilities, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from ..errors import InvalidArgumentError, OutOfRangeError
from ._native import ffi

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Candidates:
    """Tokens to choose from.

    Attributes:
        ids: Token ids, int32 [n].
        logits: Their logits, float32 [n].
        probs: Their probabilities, float32 [n]; zero until a sampler that needs probabilities has run, and as that
            sampler left them afterwards.
        selected: Index (not token) of the chosen candidate, None while no sampler has chosen.
        sorted: Whether the logits are in descending order.
    """

    ids: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
    probs: npt.NDArray[np.float32]
    selected: int | None = None
    sorted: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def token(self) -> int | None:
        """Id of the chosen token, None while no sampler has chosen."""
        return None if self.selected is None else int(self.ids[self.selected])


CandidatesLike = Union[Candidates, "npt.ArrayLike"]


def _layout() -> Any:
    import numpy as np

    names = ("id", "logit", "p")
    return np.dtype(
        {
            "names": names,
            "formats": (np.int32, np.float32, np.float32),
            "offsets": [ffi.offsetof("llama_token_data", name) for name in names],
            "itemsize": ffi.sizeof("llama_token_data"),
        }
    )


def to_native(given: CandidatesLike, n_vocab: int | None) -> tuple[Any, Any]:
    """Copy candidates into the layout of C.

    Args:
        given: Candidates, or the logits of the tokens 0 to n - 1.
        n_vocab: Size of the vocabulary that the sampler was made for, None when it was made for none.

    Returns:
        The numpy buffer and the `llama_token_data_array` that points into it; keep both.
    """
    import numpy as np

    logits = np.asarray(given.logits if isinstance(given, Candidates) else given, dtype=np.float32)
    if logits.ndim != 1 or logits.size == 0:
        raise InvalidArgumentError(
            f"candidates have the shape {logits.shape}", hint="give the logits of one row, one number for each token"
        )
    if not (logits < np.inf).all():
        raise InvalidArgumentError("a logit is NaN or infinite", hint="minus infinity is the only one allowed")
    buffer = np.zeros(logits.size, dtype=_layout())
    buffer["logit"] = logits
    if isinstance(given, Candidates):
        ids = np.asarray(given.ids)
        if ids.shape != logits.shape or np.asarray(given.probs).shape != logits.shape:
            raise InvalidArgumentError(f"there are {ids.size} ids and {logits.size} logits", hint="give one of each")
        buffer["id"] = ids
        buffer["p"] = given.probs
        lowest, highest = int(ids.min()), int(ids.max())
    else:
        buffer["id"] = np.arange(logits.size, dtype=np.int32)
        lowest, highest = 0, logits.size - 1
    if lowest < 0 or (n_vocab is not None and highest >= n_vocab):
        raise OutOfRangeError(
            f"the candidates have tokens {lowest} to {highest}",
            hint=f"tokens are 0 to {n_vocab - 1}" if n_vocab is not None else "tokens are not negative",
        )
    array = ffi.new("llama_token_data_array *")
    array.data = ffi.cast("llama_token_data *", ffi.from_buffer(buffer))
    array.size = logits.size
    array.selected = -1
    array.sorted = isinstance(given, Candidates) and given.sorted
    return buffer, array


def from_native(buffer: Any, array: Any) -> Candidates:
    """Copy what a sampler left in the buffer; it may have moved the start (XTC) and shortened the end."""
    start = array.data - ffi.cast("llama_token_data *", ffi.from_buffer(buffer))
    rest = buffer[start : start + array.size]
    return Candidates(
        ids=rest["id"].copy(),
        logits=rest["logit"].copy(),
        probs=rest["p"].copy(),
        selected=int(array.selected) if 0 <= array.selected < array.size else None,
        sorted=bool(array.sorted),
    )
