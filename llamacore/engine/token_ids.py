"""Token ids that a caller gave instead of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidArgumentError, OutOfRangeError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def token_ids(given: Sequence[int], which: str, n_vocab: int) -> NDArray[np.int32]:
    """Return token ids as int32 [n], checked.

    Args:
        given: A sequence of whole numbers.
        which: What a message calls it ("text 3").
        n_vocab: Number of tokens in the vocabulary.

    Raises:
        InvalidArgumentError: It is something else.
        OutOfRangeError: A token is not in the vocabulary.
    """
    try:
        tokens = np.asarray(given)
    except (ValueError, TypeError, OverflowError):
        tokens = np.empty(0, dtype=object)
    if tokens.ndim != 1 or tokens.dtype == object or (tokens.size and tokens.dtype.kind not in "iu"):
        raise InvalidArgumentError(
            f"{which} is {type(given).__name__}, neither text nor token ids", hint="give a string, or a list of ints"
        )
    for token in (int(tokens.min()), int(tokens.max())) if tokens.size else ():
        if not 0 <= token < n_vocab:
            raise OutOfRangeError(f"token {token} of {which}", hint=f"tokens are 0 to {n_vocab - 1}")
    return tokens.astype(np.int32)
