"""Putting grammars together: one in the place of a rule of another, or one of two."""

from __future__ import annotations

import re

from ..errors import GrammarError

# literals, classes, tokens, comments and counts are no names
_TOKENS = re.compile(
    r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|#[^\r\n]*|!?<[^<>\s]*>|\{[\d,\s]*\}|(?P<name>[a-zA-Z0-9-]+)', re.DOTALL
)


def renamed(grammar: str, prefix: str) -> str:
    """Put a prefix before the names of all rules."""
    return _TOKENS.sub(lambda match: prefix + match[0] if match["name"] else match[0], grammar)


def inserted(grammar: str, mark: str, inner: str, prefix: str = "inner-") -> str:
    """Put a grammar where another one has a literal.

    Args:
        grammar: The outer grammar.
        mark: The literal as it is written there, quotes included.
        inner: The grammar, from its rule `root`.
        prefix: What the names of its rules begin with from now on.

    Raises:
        GrammarError: The literal is not there.
    """
    if mark not in grammar:
        raise GrammarError("the grammar of this chat format leaves no place for a response format")
    return f"{grammar.replace(mark, f'{prefix}root').rstrip()}\n{renamed(inner, prefix).strip()}\n"


def either(left: str, right: str) -> str:
    """Make the grammar whose texts are those of both, each from its rule `root`."""
    return f"root ::= a-root | b-root\n{renamed(left, 'a-').strip()}\n{renamed(right, 'b-').strip()}\n"
