"""Tiny libraries that tests compile: back ends that are broken in one way, and other packages' llama.cpp."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

REGISTRY = """
#include <stddef.h>
extern void ggml_abort(const char * file, int line, const char * format, ...);
extern void ggml_log_internal(int level, const char * format, ...);
struct reg;
struct reg {
    int api_version;
    const char * (*get_name)(struct reg *);
    size_t (*get_device_count)(struct reg *);
    void * (*get_device)(struct reg *, size_t);
    void * (*get_proc_address)(struct reg *, const char *);
    void * context;
};
static const char * name(struct reg * r) { return r->context; }
static size_t none(struct reg * r) { return 0; }
static void * no_device(struct reg * r, size_t i) { return NULL; }
static struct reg the_reg = {2, name, none, no_device, NULL, "CUDA"};
"""


def compile_library(path: Path, source: str, *options: str, link: Sequence[Path] = ()) -> Path:
    """Compile C source into a shared library; the test is skipped where there is no compiler.

    Args:
        path: The file to write.
        source: C source.
        options: More options of the compiler, before the libraries.
        link: Libraries that it is linked with, found at run time by their SONAME.
    """
    compiler = os.environ.get("CC", "").split() or ["cc"]
    if not shutil.which(compiler[0]):
        pytest.skip("no C compiler")
    code = path.with_suffix(".c")
    code.write_text(source)
    command = [*compiler, "-shared", "-fPIC", "-w", *options, "-o", str(path), str(code), *map(str, link)]
    subprocess.run(command, check=True, capture_output=True)
    code.unlink()
    return path
