"""Control tokens where a text follows a grammar.

A grammar takes a control token by its text (`<|im_start|>` inside a JSON string), and the reader of the text never sees
it: what is left may break the grammar. So those that the grammar itself does not name are forbidden.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..core.vocab import TokenAttr

if TYPE_CHECKING:
    from ..core.model import Model

_controls: weakref.WeakKeyDictionary[Model, dict[int, str]] = weakref.WeakKeyDictionary()


def unseen_bias(
    model: Model, grammar: str, *, shown: frozenset[int] = frozenset(), tags: Iterable[str] = ()
) -> dict[int, float]:
    """Return the `logit_bias` that keeps control tokens out of a text that follows a grammar.

    Args:
        model: The model.
        grammar: The grammar; the control tokens that it names stay allowed.
        shown: Control tokens that are written as text.
        tags: Texts beside the grammar's that must stay possible, such as what ends a thought.
    """
    if model not in _controls:
        vocab = model.vocab
        hidden = vocab.with_attr(TokenAttr.CONTROL | TokenAttr.UNKNOWN)
        _controls[model] = {token: vocab.text(token) for token in hidden if not vocab.is_eog(token)}
    named = "\n".join((grammar, *tags))
    return {
        token: float("-inf")
        for token, text in _controls[model].items()
        if token not in shown and f"<[{token}]>" not in grammar and (not text or text not in named)
    }
