"""OpenBLAS as a package of Python, which a build links to and a user's pip installs: the system needs none."""

from __future__ import annotations

from pathlib import Path

from build_support.cache import cache_dir
from build_support.pip import cached_package
from build_support.process import Console

PACKAGE = "scipy_openblas32"  # also the folder that it is installed to
PREFIX = "scipy_"  # what its symbols start with, so that no other BLAS of the process is taken for it
FUNCTIONS = ("cblas_sgemm", "openblas_set_num_threads")  # what ggml's back end calls
REQUIREMENT = "scipy-openblas32>=0.3.27"  # as in addons/blas/pyproject.toml


def find_openblas(console: Console, cache: Path | None = None) -> tuple[Path, Path]:
    """The package, downloaded by pip the first time.

    Args:
        console: Where a download is announced.
        cache: Where it is kept; None for the cache of this user.

    Returns:
        The folder with the headers, and the library.

    Raises:
        BuildError: It could not be had.
    """
    home = (cache or cache_dir()) / PACKAGE.replace("_", "-")
    otherwise = f"or put the installed package {PACKAGE} into {home}"
    cached_package(
        REQUIREMENT, home, lambda place: _parts(place) is not None, console, size="8 MiB", otherwise=otherwise
    )
    found = _parts(home)
    assert found is not None  # what made it whole
    return found


def _parts(place: Path) -> tuple[Path, Path] | None:
    include = place / PACKAGE / "include"
    libraries = sorted((place / PACKAGE / "lib").glob("libscipy_openblas*"))
    libraries = [path for path in libraries if path.suffix in (".so", ".dylib", ".lib")]
    return (include, libraries[0]) if libraries and (include / "cblas.h").is_file() else None
