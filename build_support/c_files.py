"""What C users need beside the libraries: headers, a pkg-config file, a CMake package. None of them knows a path."""

from __future__ import annotations

import shutil
from pathlib import Path

from build_support.errors import BuildError
from build_support.libraries import Libraries, role

# What a program may link. Libraries behind them are found by the loader, and by CMake for its link command.
_PUBLIC = ("shim", "mtmd", "llama", "ggml", "ggml-base")
# Public headers of llama.cpp: of its libraries, and of the back ends that there are sets of.
_HEADERS = (
    *(f"include/{name}" for name in ("llama.h", "llama-cpp.h")),
    *(f"ggml/include/ggml{name}.h" for name in ("", "-alloc", "-backend", "-cpp", "-opt")),
    *(f"ggml/include/ggml-{name}.h" for name in ("blas", "cpu", "cuda", "rpc", "vulkan")),
    "ggml/include/gguf.h",
    *(f"tools/mtmd/{name}" for name in ("mtmd.h", "mtmd-helper.h")),
)

_PKG_CONFIG = """\
prefix=${{pcfiledir}}/../..
libdir=${{prefix}}/lib
includedir=${{prefix}}/include
llama_cpp_version={number}
llama_cpp_commit={commit}

Name: llamacore
Description: llama.cpp and the C shim of llamacore
Version: {version}
Cflags: -I${{includedir}}
Libs: {libraries} -Wl,-rpath,${{libdir}}
"""

_CMAKE_HEAD = """\
# Imported targets for the libraries of this set; it may lie anywhere.
get_filename_component(_llamacore_prefix "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)
set(llamacore_LIBRARY_DIR "${{_llamacore_prefix}}/lib")
set(llamacore_INCLUDE_DIR "${{_llamacore_prefix}}/include")
set(llamacore_LLAMA_CPP_VERSION "{number}")
set(llamacore_LLAMA_CPP_COMMIT "{commit}")
"""

_CMAKE_TARGET = """
if(NOT TARGET llamacore::{target})
    add_library(llamacore::{target} SHARED IMPORTED)
    set_target_properties(llamacore::{target} PROPERTIES
        IMPORTED_LOCATION "${{llamacore_LIBRARY_DIR}}/{file}"
        IMPORTED_SONAME "{file}"
        INTERFACE_INCLUDE_DIRECTORIES "${{llamacore_INCLUDE_DIR}}"
        INTERFACE_LINK_LIBRARIES "{public}"
        IMPORTED_LINK_DEPENDENT_LIBRARIES "{private}")
endif()
"""

_CMAKE_TAIL = """
unset(_llamacore_prefix)
"""

_CMAKE_VERSION = """\
set(PACKAGE_VERSION "{version}")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
    set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
    if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
        set(PACKAGE_VERSION_EXACT TRUE)
    endif()
endif()
if(NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
    set(PACKAGE_VERSION_UNSUITABLE TRUE)
endif()
"""


def write_c_files(
    top: Path, libraries: Libraries, source: Path, shim: Path, version: str, upstream: tuple[str, str]
) -> None:
    """Writes `include/`, `lib/pkgconfig/` and `lib/cmake/llamacore/` of a base set.

    Args:
        top: The set's folder.
        libraries: Its libraries.
        source: The source of llama.cpp that they were built from.
        shim: The shim's header.
        version: Version of llamacore.
        upstream: Version and commit of llama.cpp.

    Raises:
        BuildError: The libraries lack one that C programs link.
    """
    files = {role(name): name for name in libraries.linked}
    missing = [name for name in _PUBLIC if name not in files]
    if missing:
        raise BuildError(f"the libraries lack {', '.join(missing)}", "give the folder of a whole build")
    number, commit = upstream
    _headers(top / "include", source, shim)
    folder = top / "lib" / "pkgconfig"
    folder.mkdir(parents=True)
    text = _PKG_CONFIG.format(
        version=version,
        number=number,
        commit=commit,
        libraries=" ".join(f"${{libdir}}/{files[name]}" for name in _PUBLIC),
    )
    (folder / "llamacore.pc").write_text(text, encoding="ascii")
    folder = top / "lib" / "cmake" / "llamacore"
    folder.mkdir(parents=True)
    targets = "".join(_target(name, libraries) for name in libraries.linked)
    config = _CMAKE_HEAD.format(number=number, commit=commit) + targets + _CMAKE_TAIL
    (folder / "llamacore-config.cmake").write_text(config, encoding="ascii")
    (folder / "llamacore-config-version.cmake").write_text(_CMAKE_VERSION.format(version=version), encoding="ascii")


def _headers(target: Path, source: Path, shim: Path) -> None:
    target.mkdir()
    for path in (*(source / name for name in _HEADERS), shim):
        shutil.copyfile(path, target / path.name)


def _target(name: str, libraries: Libraries) -> str:
    """The imported target of a library; each comes after those it needs."""
    needed = [other for other in libraries.files[name].elf.needed if other in libraries.linked]
    public = [f"llamacore::{role(other)}" for other in needed if role(other) in _PUBLIC]
    private = [f"llamacore::{role(other)}" for other in needed if role(other) not in _PUBLIC]
    return _CMAKE_TARGET.format(target=role(name), file=name, public=";".join(public), private=";".join(private))
