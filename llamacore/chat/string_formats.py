"""Formats of strings in JSON schemas, as regular expressions that a grammar can follow."""

from __future__ import annotations

_YEAR = r"[1-9][0-9]{3}"
_LEAP_YEAR = r"[1-9][0-9](0[48]|[2468][048]|[13579][26])"
_DATE = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

STRING_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": r"P([0-9]{1,6}W|[0-9]{1,4}D(T([0-9]{1,4}H)?[0-9]{1,4}M([0-9]{1,4}S)?)?|T[0-9]{1,6}S)",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "email": rf"[A-Za-z0-9_]([A-Za-z0-9_+-]{{0,30}}[A-Za-z0-9_])?@({_LABEL}\.){{1,4}}[A-Za-z]{{2,10}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,4}}",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "uri": rf"https?://({_LABEL}\.){{1,4}}[A-Za-z]{{2,10}}(/[A-Za-z0-9._~-]{{1,40}}){{0,8}}/?",
}
"""Each matches a part of what its format allows, and nothing else. February 29 is left out of the years 1900, 2100 …"""

for _version in "12345":
    # the digit after the second hyphen is the version
    STRING_FORMATS[f"uuid{_version}"] = (
        rf"[0-9a-f]{{8}}-[0-9a-f]{{4}}-{_version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}"
    )
