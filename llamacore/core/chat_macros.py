"""A bound on how deep the macros of a template call each other, for upstream's engine, which has none.

jinja2 raises an error when macros call each other without end; upstream's engine runs out of stack, which ends the
process. So every macro counts, in the template that upstream gets, how many calls are open.
"""

from __future__ import annotations

import re

from ..errors import TemplateError
from ._native import lib

MAX_DEPTH = int(lib.LLC_CHAT_MAX_MACROS)

_COUNT = "llamacore_open_macros"
_START = f"{{% set {_COUNT} = namespace(n=0) %}}{{{{ '' }}}}"  # the end of a block would eat a line feed after it
_TOO_DEEP = f"macros call each other more than {MAX_DEPTH} levels deep"
_ENTER = (
    f"{{% set {_COUNT}.n = {_COUNT}.n + 1 %}}"
    f"{{% if {_COUNT}.n > {MAX_DEPTH} %}}{{{{ raise_exception('{_TOO_DEEP}') }}}}{{% endif "
)
_LEAVE = f"set {_COUNT}.n = {_COUNT}.n - 1 %}}"
# a comment; a tag of a macro; any other tag, with the strings in it
_TAG = re.compile(
    r"\{#.*?#\}"
    r"|(?P<open>\{%[-+]?)\s*(?P<word>macro|endmacro)\b(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^'\"])*?(?P<close>[-+]?%\})"
    r"|\{[{%](?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^'\"])*?[%}]\}",
    re.DOTALL,
)


def bounded(source: str) -> str:
    """Let every macro of a template count the calls that are open. What it renders stays the same.

    Raises:
        TemplateError: The template uses the name of the counter.
    """
    if _COUNT in source:
        raise TemplateError(f"the chat template uses the name {_COUNT}", hint="choose another name")
    if "macro" not in source:
        return source
    changed = _TAG.sub(_counted, source)
    return source if changed == source else _START + changed


def _counted(match: re.Match[str]) -> str:
    tag: str = match[0]
    if match["word"] == "macro":
        return tag + _ENTER + match["close"]  # white space after the tag is treated as before
    if match["word"] == "endmacro":
        return f"{match['open']} {_LEAVE}{tag}"
    return tag


def unbounded(source: str) -> str:
    """Undo `bounded`, in a source that upstream may have mended since."""
    source = source.removeprefix(_START)
    source = re.sub(re.escape(_ENTER) + r"[-+]?%\}", "", source)
    return re.sub(r"\{%[-+]? " + re.escape(_LEAVE), "", source)
