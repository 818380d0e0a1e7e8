"""Where downloads live: outside the repository, shared by every checkout of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ENV_CACHE_DIR = "LLAMACORE_CACHE_DIR"


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`LLAMACORE_CACHE_DIR`, else the platform's cache folder for llamacore. It need not exist yet."""
    if environ.get(ENV_CACHE_DIR):
        return Path(environ[ENV_CACHE_DIR]).expanduser().resolve()
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "llamacore"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llamacore"
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "llamacore" / "cache"
    return Path.home() / ".cache" / "llamacore"
