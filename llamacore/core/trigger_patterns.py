"""Regular expressions that start a lazy grammar, in a form that upstream can match against a long text.

Upstream matches with std::regex, which recurses for every repetition that an unbounded quantifier takes: some 45,000
characters of generated text overflow a stack of 8 MB.
"""

from __future__ import annotations

import re

from ..errors import GrammarError

MAX_BYTES = 1024
MAX_NESTING = 32
MAX_REPEAT = 1000  # what an unbounded quantifier is cut to

_ANY_BEFORE = re.compile(r"\^?(?:\[\\s\\S\]|\[\^\])\*\??(?=\((?!\?))")
_ANY_AFTER = re.compile(r"(?<=\))(?:\[\\s\\S\]|\[\^\])\*\??\$?$")
_PART = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|[*+]|\{\d+,\}|.", re.DOTALL)
_WIDE = re.compile(r"\.|\\[SDWwX]|\[\^.*|\[.*\\[SDW].*")


def bounded(pattern: str) -> str:
    """Return a pattern that finds the same start and cannot recurse without end.

    A search needs no "any text" around the group that it looks for, so that is cut off. `*`, `+` and `{n,}` are
    bounded; over characters of any kind they would no longer mean the same, and are refused.

    Raises:
        GrammarError: The pattern repeats any character without a bound, or its groups are nested too deep.
    """
    start = _ANY_BEFORE.match(pattern)
    rest = pattern[start.end() :] if start else pattern
    rest = _ANY_AFTER.sub("", rest)
    parts: list[str] = []
    depth = 0
    for match in _PART.finditer(rest):
        part = match[0]
        depth += (part == "(") - (part == ")")
        if depth > MAX_NESTING:
            raise GrammarError(f"the trigger pattern {pattern[:80]!r} is nested deeper than {MAX_NESTING} groups")
        if part in ("*", "+") or (part[0] == "{" and part != "{"):
            if parts and _WIDE.fullmatch(parts[-1]):
                raise GrammarError(
                    f"the trigger pattern {pattern[:80]!r} repeats {parts[-1]} without a bound",
                    hint=f"give one, such as {parts[-1]}{{0,200}}; text before and after the match needs no pattern",
                )
            low = {"*": 0, "+": 1}.get(part) if len(part) == 1 else int(part[1:-2])
            part = f"{{{low},{MAX_REPEAT}}}"
        parts.append(part)
    return "".join(parts)
