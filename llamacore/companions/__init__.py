"""Companion sets: libraries, made elsewhere, that take the place of the bundled ones.

Fetched from a release, verified, installed for this user side by side, and made active: `llamacore libs` is this module
on the command line. Nothing here opens a library in this process, so that it works when those that are active cannot be
opened. What is made active is used by processes that start afterwards.
"""

from __future__ import annotations

from .download import Progress
from .installer import Say, install
from .manage import BUNDLED, ActiveLibraries, AddOn, active, installed, remove, use, verify
from .store import InstalledSet
from .verification import Verification

__all__ = [
    "BUNDLED", "ActiveLibraries", "AddOn", "InstalledSet", "Progress", "Say", "Verification", "active", "install",
    "installed", "remove", "use", "verify",
]  # fmt: skip
