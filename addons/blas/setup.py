"""The built module into the package; the rest is in pyproject.toml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from build_support.addon_project import setup_addon

setup_addon("blas")
