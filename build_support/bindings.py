"""The cdef files and the shim's header to the C source of the extension, by cffi."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from build_support.errors import BuildError

MODULE_NAME = "llamacore_sys._native"

# Constants of the build itself, for the gate and for callers that need to know what was linked.
_BUILD_CDEF = """
static char *const llc_compiled_version;
static char *const llc_compiled_commit;
static char *const llc_compiled_interface;
"""
_BUILD_PREAMBLE = """
static const char * const llc_compiled_version = LLC_UPSTREAM_VERSION;
static const char * const llc_compiled_commit = LLC_UPSTREAM_COMMIT;
static const char * const llc_compiled_interface = LLC_INTERFACE;
"""

_HEADER_DIRS = ("include", "ggml/include", "tools/mtmd")
_CDEF_PART = re.compile(r"/\* cdef: begin \*/\n(.*?)/\* cdef: end \*/", re.DOTALL)


def shim_cdef(header: Path) -> str:
    """The part of the shim's header that cffi reads: between its cdef marks, without `LLC_API`."""
    part = _CDEF_PART.search(header.read_text(encoding="utf-8"))
    if part is None:
        raise BuildError(f"{header} has no part between the cdef marks", "restore the two marks")
    return re.sub(r"\bLLC_API\s+", "", part[1])


def shim_interface(header: Path) -> str:
    """A hash of the shim's declarations: a library with another one is not the shim that the extension calls."""
    return hashlib.sha256(shim_cdef(header).encode()).hexdigest()[:12]


def generate_extension(sys_dir: Path, upstream: Path, target: Path) -> None:
    """Writes the C source of the extension, unless `target` was made from the same inputs.

    Args:
        sys_dir: The package `llamacore_sys` in the source tree.
        upstream: The llama.cpp tree whose headers the declarations are compiled against.
        target: The C file.

    Raises:
        BuildError: cffi is not installed, or refuses a declaration.
    """
    sources = _read_sources(sys_dir)
    preamble = "".join(f'#include "{name}"\n' for name, _ in sources if _is_upstream_header(upstream, name))
    preamble += '#include "llamacore_shim.h"\n' + _BUILD_PREAMBLE
    try:
        inputs = (version("cffi"), preamble, *(f"{name}\n{text}" for name, text in sources))
    except PackageNotFoundError:
        raise BuildError("cffi is not installed for this Python", "python -m pip install cffi") from None
    stamp = target.with_suffix(".inputs")
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return

    import cffi

    ffi = cffi.FFI()
    for name, text in sources:
        try:
            ffi.cdef(text)
        except (cffi.CDefError, cffi.FFIError) as error:
            raise BuildError(f"cffi refuses the declarations of {name}: {error}", "correct the declaration") from error
    ffi.set_source(MODULE_NAME, preamble)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # cffi prints what it writes
            ffi.emit_c_code(str(target))
    except cffi.VerificationError as error:
        raise BuildError(f"cffi cannot write the extension: {error}", "correct the declaration") from error
    stamp.write_text(digest, encoding="ascii")


def _read_sources(sys_dir: Path) -> list[tuple[str, str]]:
    """Name and text of everything that is declared, in order."""
    cdef_dir = sys_dir / "cdef"
    names = (cdef_dir / "ORDER").read_text(encoding="utf-8").split()
    unlisted = sorted({path.name for path in cdef_dir.glob("*.h")} - set(names))
    if unlisted:
        raise BuildError(f"{', '.join(unlisted)} in {cdef_dir} not named in ORDER", "add the names to ORDER")
    sources = [(name, (cdef_dir / name).read_text(encoding="utf-8")) for name in names]
    return [*sources, ("llamacore_shim.h", shim_cdef(sys_dir / "shim" / "llamacore_shim.h")), ("build", _BUILD_CDEF)]


def _is_upstream_header(upstream: Path, name: str) -> bool:
    return any((upstream / folder / name).is_file() for folder in _HEADER_DIRS)
