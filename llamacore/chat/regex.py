"""Regular expressions to grammars: every text of the grammar matches the expression."""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from typing import Any

from ..errors import GrammarError
from . import char_sets
from .char_sets import Ranges

if sys.version_info >= (3, 11):
    from re import _parser as parser  # type: ignore[attr-defined]
else:  # pragma: no cover
    import sre_parse as parser

MAX_PATTERN = 4096
"""Characters of an expression."""
MAX_REPEAT = 2000
"""Upstream's limit of counted repetitions in a grammar."""

_ANY = char_sets.complement(())
_DOT = char_sets.complement(((0x0A, 0x0A), (0x0D, 0x0D)))


@dataclass(frozen=True)
class Chars:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Seq:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """One of them."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """Again and again; `most` None for no end."""

    item: Node
    least: int
    most: int | None


Node = Chars | Seq | Alt | Repeat

_EMPTY = Seq(())


def regex_to_gbnf(pattern: str | re.Pattern[str]) -> str:
    r"""Turn a regular expression of Python into a grammar whose texts all match it from end to end.

    Sets of characters of many scripts (`\w`) are narrowed to Latin and whole blocks of other scripts.

    Args:
        pattern: The expression. Flags may be part of it.

    Returns:
        The grammar in GBNF, from its rule `root`.

    Raises:
        GrammarError: It does not parse, or has what no grammar can say (lookaround, backreferences, word boundaries,
            possessive repeats); the message names the position.
    """
    return "\n".join(rules(pattern, "root", json_string=False)) + "\n"


def rules(
    pattern: str | re.Pattern[str],
    name: str,
    *,
    json_string: bool,
    search: bool = False,
    lengths: tuple[int, int | None] = (0, None),
) -> list[str]:
    """Turn an expression into rules of a grammar.

    Args:
        pattern: The expression.
        name: Name of the first rule; the others begin with it.
        json_string: Write the text as a JSON string, in its quotes.
        search: The expression need only be found in the text, as JSON Schema has it.
        lengths: Least and most characters; they are kept to where the expression is one repeated character.

    Raises:
        GrammarError: As `regex_to_gbnf`.
    """
    node = _Reader(pattern, search).read()
    if isinstance(node, Repeat) and isinstance(node.item, Chars):
        most = min((limit for limit in (node.most, lengths[1]) if limit is not None), default=None)
        node = Repeat(node.item, max(node.least, lengths[0]), most)
    writer = _Writer(name, json_string)
    body = writer.expression(node)
    quote = char_sets.literal('"')
    return [f"{name} ::= {quote} {body} {quote}" if json_string else f"{name} ::= {body}", *writer.rules]


class _Reader:
    """From the tree of Python's own parser to ours."""

    def __init__(self, pattern: str | re.Pattern[str], search: bool) -> None:
        self.source = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        if not isinstance(self.source, str):
            raise GrammarError("a regular expression of bytes", hint="give one of text")
        if len(self.source) > MAX_PATTERN:
            raise GrammarError(f"a regular expression of {len(self.source)} characters", hint=f"at most {MAX_PATTERN}")
        self.search = search
        flags = pattern.flags if isinstance(pattern, re.Pattern) else 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree: Any = parser.parse(self.source, flags)
        except (re.error, OverflowError, RecursionError) as exc:
            raise GrammarError(f"the regular expression {self.source[:80]!r} does not parse: {exc}") from exc
        self.items: list[Any] = list(tree)
        self.flags = tree.state.flags

    def read(self) -> Node:
        try:
            if not self.search:
                return self._sequence(self.items, self.flags, True, True)
            return self._search()
        except RecursionError:
            raise GrammarError("the regular expression is nested too deep", hint="make it flatter") from None

    def _search(self) -> Node:
        """The expression with anything before and after it where it is not anchored."""
        items = self.items
        around = Repeat(Chars(_ANY), 0, None)
        if len(items) == 1 and items[0][0] is parser.BRANCH:
            return Alt(tuple(self._anchored(list(branch), around) for branch in items[0][1][1]))
        return self._anchored(items, around)

    def _anchored(self, items: list[Any], around: Node) -> Node:
        starts = bool(items) and items[0][0] is parser.AT and items[0][1] in _BEGINNINGS
        ends = bool(items) and items[-1][0] is parser.AT and items[-1][1] in _ENDS
        node = self._sequence(items, self.flags, starts, ends)
        parts = (*(() if starts else (around,)), node, *(() if ends else (around,)))
        return parts[0] if len(parts) == 1 else Seq(parts)

    def _sequence(self, items: list[Any], flags: int, at_start: bool, at_end: bool) -> Node:
        nodes = []
        for number, (op, value) in enumerate(items):
            first = at_start and all(other[0] is parser.AT for other in items[:number])
            last = at_end and all(other[0] is parser.AT for other in items[number + 1 :])
            node = self._node(op, value, flags, first, last)
            if node != _EMPTY:
                nodes.append(node)
        return nodes[0] if len(nodes) == 1 else Seq(tuple(nodes))

    def _node(self, op: Any, value: Any, flags: int, first: bool, last: bool) -> Node:
        if op is parser.LITERAL:
            return Chars(self._cases(((value, value),), flags))
        if op is parser.NOT_LITERAL:
            return Chars(self._all_but(((value, value),), flags))
        if op is parser.ANY:
            return Chars(_ANY if flags & re.DOTALL else _DOT)
        if op is parser.IN:
            return Chars(self._set(value, flags))
        if op is parser.BRANCH:
            return Alt(tuple(self._sequence(list(branch), flags, first, last) for branch in value[1]))
        if op is parser.SUBPATTERN:
            _, add, remove, inner = value
            return self._sequence(list(inner), (flags | add) & ~remove, first, last)
        if op in (parser.MAX_REPEAT, parser.MIN_REPEAT):
            return self._repeat(value, flags)
        if op is parser.AT and ((first and value in _BEGINNINGS) or (last and value in _ENDS)):
            return _EMPTY
        raise self._refused(op, value)

    def _repeat(self, value: Any, flags: int) -> Node:
        least, most, inner = value
        most = None if most is parser.MAXREPEAT else int(most)
        for count in (least, most or 0):
            if count > MAX_REPEAT:
                raise GrammarError(
                    f"the regular expression {self.source[:80]!r} repeats something {count} times",
                    hint=f"at most {MAX_REPEAT} are taken; leave the end open",
                )
        item = self._sequence(list(inner), flags, False, False)
        return _EMPTY if most == 0 or item == _EMPTY else Repeat(item, int(least), most)

    def _set(self, items: Any, flags: int) -> Ranges:
        negated = bool(items) and items[0][0] is parser.NEGATE
        found: list[tuple[int, int]] = []
        for op, value in items:
            if op is parser.LITERAL:
                found.append((value, value))
            elif op is parser.RANGE:
                found.append((value[0], value[1]))
            elif op is parser.CATEGORY:
                found += _category(value, bool(flags & re.ASCII), whole=negated)
        ranges = char_sets.union(found)
        chosen = self._all_but(ranges, flags) if negated else self._cases(ranges, flags)
        if not chosen:
            raise GrammarError(f"the regular expression {self.source[:80]!r} has a set of no characters")
        return char_sets.simplified(chosen)

    def _cases(self, ranges: Ranges, flags: int) -> Ranges:
        """The set, with the other case of its letters where the case does not matter."""
        if flags & re.IGNORECASE and sum(high - low + 1 for low, high in ranges) <= 1024:
            more = [ord(c) for low, high in ranges for code in range(low, high + 1) for c in _other_case(code)]
            ranges = char_sets.union((*ranges, *((code, code) for code in more)))
        return char_sets.intersection(ranges, _ANY)

    def _all_but(self, ranges: Ranges, flags: int) -> Ranges:
        rest = char_sets.complement(self._cases(ranges, flags))
        # some letters have a second form beyond ASCII that matches too; none within
        return char_sets.intersection(rest, char_sets.ASCII) if flags & re.IGNORECASE else rest

    def _refused(self, op: Any, value: Any) -> GrammarError:
        what, source = _REFUSED.get(str(op), (f"{str(op).lower()}", None))
        if op is parser.AT:
            what = f"{str(value).lower().removeprefix('at_')} at a place where it is no end of the text"
            source = r"\\[bBAZ]|\^|\$"
        position = _find(self.source, source) if source else None
        where = "" if position is None else f" at position {position}"
        return GrammarError(
            f"the regular expression {self.source[:80]!r} has {what}{where}", hint="no grammar can say that"
        )


_BEGINNINGS = (parser.AT_BEGINNING, parser.AT_BEGINNING_STRING)
_ENDS = (parser.AT_END, parser.AT_END_STRING)
_REFUSED = {
    "ASSERT": ("a lookaround", r"\(\?<?="),
    "ASSERT_NOT": ("a negative lookaround", r"\(\?<?!"),
    "GROUPREF": ("a backreference", r"\\[1-9]|\(\?P="),
    "GROUPREF_IGNORE": ("a backreference", r"\\[1-9]|\(\?P="),
    "GROUPREF_EXISTS": ("a conditional group", r"\(\?\("),
    "ATOMIC_GROUP": ("an atomic group", r"\(\?>"),
    "POSSESSIVE_REPEAT": ("a possessive repeat", r"[*+?}]\+"),
}


def _find(source: str, wanted: str) -> int | None:
    """Where something stands in an expression, outside of its escapes and sets."""
    token = re.compile(rf"(?P<found>{wanted})|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
    return next((match.start() for match in token.finditer(source) if match["found"]), None)


def _other_case(code: int) -> list[str]:
    char = chr(code)
    forms = {char.lower(), char.upper(), char.title(), char.casefold()} - {char}
    return [form for form in forms if len(form) == 1 and re.fullmatch(re.escape(char), form, re.IGNORECASE)]


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _category(name: Any, ascii_only: bool, *, whole: bool) -> Ranges:
    """The characters of a category: all of them, or only those that a model would write."""
    plain = str(name).removeprefix("CATEGORY_")
    kind = plain.removeprefix("NOT_")
    predicate = {"DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": _is_word}[kind]
    ranges = char_sets.where(predicate)
    if ascii_only:
        ranges = char_sets.intersection(ranges, char_sets.ASCII)
        if kind == "SPACE":  # the separators 0x1C to 0x1F are white space of Unicode only
            ranges = char_sets.intersection(ranges, ((0, 0x1B), (0x20, 0x7F)))
    if plain != kind:
        return char_sets.complement(ranges)
    return ranges if whole or kind == "WORD" else char_sets.intersection(ranges, ((0, 0x1B), (0x20, 0x7F)))


def _nullable(node: Node) -> bool:
    if isinstance(node, Chars):
        return False
    if isinstance(node, Repeat):
        return node.least == 0 or _nullable(node.item)
    return (all if isinstance(node, Seq) else any)(_nullable(item) for item in node.items)


def _not_empty(node: Node) -> Node | None:
    """What a node matches but for the empty text; None when nothing is left."""
    if not _nullable(node):
        return node
    if isinstance(node, Repeat):
        item = _not_empty(node.item)
        least = max(node.least, 1) if not _nullable(node.item) else 1
        return None if item is None else Repeat(item, least, node.most)
    if isinstance(node, Alt):
        parts = [part for item in node.items if (part := _not_empty(item)) is not None]
    else:
        assert isinstance(node, Seq)
        parts = []
        for number, item in enumerate(node.items):  # the first that is not empty, then whatever follows
            part = _not_empty(item)
            if part is not None:
                parts.append(Seq((part, *node.items[number + 1 :])))
    return Alt(tuple(parts)) if parts else None


class _Writer:
    def __init__(self, name: str, json_string: bool) -> None:
        self.name = name
        self.json_string = json_string
        self.rules: list[str] = []
        self.known: dict[Node, str] = {}

    def expression(self, node: Node) -> str:
        if isinstance(node, Chars):
            return char_sets.in_json_string(node.ranges) if self.json_string else char_sets.char_class(node.ranges)
        if isinstance(node, Seq):
            return " ".join(map(self._atom, node.items)) or '""'
        if isinstance(node, Alt):
            return "(" + " | ".join(map(self.expression, node.items)) + ")"
        return self._repeat(node)

    def _atom(self, node: Node) -> str:
        text = self.expression(node)
        return f"({text})" if isinstance(node, Seq) and len(node.items) > 1 else text

    def _repeat(self, node: Repeat) -> str:
        item, least, most = node.item, node.least, node.most
        if _nullable(item):  # upstream takes a repeated thing that can be empty for left recursion
            smaller = _not_empty(item)
            if smaller is None:
                return '""'
            item, least = smaller, 0
        item_text = self._rule(item) if not isinstance(item, Chars) else self.expression(item)
        if most == 1:
            return item_text if least else f"{item_text}?"
        if most is None and least <= 1:
            return item_text + ("+" if least else "*")
        return f"{item_text}{{{least},{'' if most is None else most}}}"

    def _rule(self, node: Node) -> str:
        if node not in self.known:
            body = self.expression(node)
            self.known[node] = f"{self.name}-{len(self.rules)}"
            self.rules.append(f"{self.known[node]} ::= {body}")
        return self.known[node]
