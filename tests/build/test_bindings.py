"""The C source of the extension."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from build_support.bindings import generate_extension, shim_cdef
from build_support.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]

HEADER = """
#define LLC_API __attribute__((visibility("default")))
/* cdef: begin */
LLC_API int llc_answer(void);
/* cdef: end */
LLC_API int llc_hidden(void);
"""


@pytest.fixture
def sys_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "sys"
    (folder / "cdef").mkdir(parents=True)
    (folder / "shim").mkdir()
    (folder / "shim" / "llamacore_shim.h").write_text(HEADER)
    (folder / "cdef" / "ggml.h").write_text("struct ggml { int n; ...; };\n")
    (folder / "cdef" / "gguf.h").write_text("int gguf_free(struct ggml * x);\n")
    (folder / "cdef" / "ORDER").write_text("ggml.h\ngguf.h\n")
    return folder


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"
    (folder / "ggml" / "include").mkdir(parents=True)
    (folder / "ggml" / "include" / "ggml.h").touch()
    return folder


def test_the_shims_declarations_lose_their_macro(sys_dir: Path):
    assert shim_cdef(sys_dir / "shim" / "llamacore_shim.h") == "int llc_answer(void);\n"


def test_the_shims_own_header_can_be_read():
    assert "llc_build_commit(void);" in shim_cdef(ROOT / "llamacore_sys" / "shim" / "llamacore_shim.h")


def test_a_header_without_marks_is_refused(sys_dir: Path):
    header = sys_dir / "shim" / "llamacore_shim.h"
    header.write_text("int llc_answer(void);")
    with pytest.raises(BuildError, match="no part between the cdef marks"):
        shim_cdef(header)


def test_everything_declared_is_generated(sys_dir: Path, upstream: Path, tmp_path: Path):
    target = tmp_path / "gen" / "_native.c"
    generate_extension(sys_dir, upstream, target)
    text = target.read_text()
    assert '#include "ggml.h"\n#include "llamacore_shim.h"' in text
    assert "gguf_free(" in text
    assert "llc_answer(" in text


def test_it_is_generated_again_only_when_an_input_changed(sys_dir: Path, upstream: Path, tmp_path: Path):
    target = tmp_path / "_native.c"
    generate_extension(sys_dir, upstream, target)
    target.write_text("kept")
    generate_extension(sys_dir, upstream, target)
    assert target.read_text() == "kept"
    (sys_dir / "cdef" / "gguf.h").write_text("int ggml_more(struct ggml * x);\n")
    generate_extension(sys_dir, upstream, target)
    assert "ggml_more(" in target.read_text()


def test_a_declaration_that_cffi_refuses_is_named_with_its_file(sys_dir: Path, upstream: Path, tmp_path: Path):
    (sys_dir / "cdef" / "gguf.h").write_text("int broken(;\n")
    with pytest.raises(BuildError, match=r"declarations of gguf\.h"):
        generate_extension(sys_dir, upstream, tmp_path / "_native.c")


def test_a_cdef_file_outside_the_order_is_refused(sys_dir: Path, upstream: Path, tmp_path: Path):
    shutil.copy(sys_dir / "cdef" / "ggml.h", sys_dir / "cdef" / "extra.h")
    with pytest.raises(BuildError, match=r"extra\.h .*not named in ORDER"):
        generate_extension(sys_dir, upstream, tmp_path / "_native.c")
