"""What is installed, what works and what does not, and why: `llamacore doctor` is this module on the command line.

report.py     what is found, as frozen dataclasses
diagnose.py   finding it out
libraries.py  the files: there, whole, unchanged
machine.py    the machine, and what its processor can do
children.py   processes of their own for all that could crash
probe.py      what such a process finds when it opens the libraries
selftest.py   what such a process finds when it computes
cures.py      what to do about a reason
"""

from __future__ import annotations

from .diagnose import diagnose
from .report import (
    BackendFacts,
    Check,
    DeviceFacts,
    LibraryFacts,
    LibraryFile,
    MachineFacts,
    NativeFacts,
    Report,
    SelfTest,
    SetFacts,
    Status,
)

__all__ = [
    "BackendFacts", "Check", "DeviceFacts", "LibraryFacts", "LibraryFile", "MachineFacts", "NativeFacts", "Report",
    "SelfTest", "SetFacts", "Status", "diagnose",
]  # fmt: skip
