"""What a docstring says of a function and its arguments: Google, numpy and reST style."""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Params|Keyword Args|Keyword Arguments|Returns?|Yields?|Raises|Examples?|Notes?|"
    r"Attributes|See Also|References|Warns|Warnings?|Other Parameters|Side Effects|Todo)\s*:?\s*$"
)
_ARGUMENTS = ("Args", "Arguments", "Parameters", "Params", "Keyword Args", "Keyword Arguments", "Other Parameters")
_GOOGLE = re.compile(r"^(\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_NUMPY = re.compile(r"^(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_REST = re.compile(r"^:(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?(\*{0,2}\w+)\s*:\s*(.*)$")
_REST_OTHER = re.compile(r"^:\w+[^:]*:")


def parse(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Take a docstring apart.

    Args:
        docstring: The text; None for none.

    Returns:
        What it says of the function (all text before the first section), and of each argument by name.
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    intro: list[str] = []
    arguments: dict[str, str] = {}
    section: str | None = None
    body: list[str] = []
    for number, line in enumerate([*lines, "End:"]):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        match = _SECTION.match(line)
        underlined = bool(re.fullmatch(r"-{3,}\s*", following))
        ends = number == len(lines) or (match and (line.rstrip().endswith(":") or underlined))
        if not ends:
            (intro if section is None else body).append(line)
            continue
        if section in _ARGUMENTS:
            arguments.update(_numpy(body) if body and re.fullmatch(r"-{3,}\s*", body[0]) else _google(body))
        section, body = (match[1] if match else ""), []
    text, fields = _rest(intro)
    return text, {**arguments, **fields}


def _google(lines: list[str]) -> dict[str, str]:
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    return _entries(lines, min(indents, default=0), _GOOGLE)


def _numpy(lines: list[str]) -> dict[str, str]:
    return _entries(lines[1:], 0, _NUMPY)


def _entries(lines: list[str], indent: int, head: re.Pattern[str]) -> dict[str, str]:
    """Entries that begin at an indent; what is further in belongs to the one above."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in lines:
        match = head.match(line.strip()) if line[:indent].strip() == "" and line[indent : indent + 1].strip() else None
        if match:
            names = [name.strip().lstrip("*") for name in match[1].split(",")]
            first = match[2] if match.re.groups > 1 else ""
            found.update({name: [first] for name in names})
        else:
            for name in names:
                found[name].append(line.strip())
    return {name: _joined(texts) for name, texts in found.items()}


def _rest(lines: list[str]) -> tuple[str, dict[str, str]]:
    """The text without its `:param name:` fields, and the fields."""
    text: list[str] = []
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    in_fields = False
    for line in lines:
        match = _REST.match(line)
        if match:
            current = found.setdefault(match[1].lstrip("*"), [match[2]])
            in_fields = True
        elif _REST_OTHER.match(line):
            current, in_fields = None, True
        elif in_fields and line[:1].isspace():
            if current is not None:
                current.append(line.strip())
        elif line.strip() or not in_fields:
            text.append(line)
    return "\n".join(text).strip(), {name: _joined(texts) for name, texts in found.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(line for line in lines if line).strip()
