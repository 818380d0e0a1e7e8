"""What `import llamacore_sys` loads, and what it refuses, shown on damaged copies of the real libraries."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import llamacore_sys
from build_support.bindings import shim_interface

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the file names are those of Linux")

Run = Callable[..., subprocess.CompletedProcess[str]]
IMPORT = "import llamacore_sys; llamacore_sys.lib"


def patch(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new))


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The message of the ImportError that ended the interpreter."""
    assert result.returncode == 1, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    return last


def test_the_package_knows_what_it_was_built_from():
    assert llamacore_sys.UPSTREAM.version == llamacore_sys.ffi.string(llamacore_sys.lib.llama_version()).decode()
    assert llamacore_sys.UPSTREAM.commit == llamacore_sys.ffi.string(llamacore_sys.lib.llc_build_commit()).decode()


def test_importing_loads_no_back_end_module_and_little_else(run_python: Run):
    code = f"import sys; {IMPORT}; print([m for m in ('numpy', 'subprocess', 'ctypes', 'cffi') if m in sys.modules])"
    result = run_python(code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_importing_is_quick(run_python: Run):
    # processor time: what the import costs, however busy the machine is
    code = f"import time; t = time.process_time(); {IMPORT}; print(time.process_time() - t)"
    assert min(float(run_python(code).stdout) for _ in range(5)) < 0.040


def test_nothing_is_exported_into_the_global_symbol_space(run_python: Run):
    code = f"{IMPORT}; import ctypes; c = ctypes.CDLL(None); print(hasattr(c, 'llama_version'), hasattr(c, 'getenv'))"
    assert run_python(code).stdout == "False True\n"


def test_a_folder_in_the_environment_is_used(run_python: Run, lib_copy: Path):
    code = "import llamacore_sys as s; print(s.lib_dir, s.ffi.string(s.lib.llc_symbol_path(b'llama')).decode())"
    result = run_python(code, LLAMACORE_LIB_DIR=str(lib_copy))
    assert result.stdout == f"{lib_copy} {lib_copy / 'libllamacore-llama.so.0'}\n", result.stderr


def test_a_folder_that_is_not_there_is_named(run_python: Run, tmp_path: Path):
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(tmp_path / "gone")))
    assert f"LLAMACORE_LIB_DIR={tmp_path / 'gone'} is no folder" in message


def test_an_empty_folder_is_named_with_what_it_lacks(run_python: Run, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(tmp_path / "empty")))
    assert f"cannot be loaded from {tmp_path / 'empty'} (LLAMACORE_LIB_DIR=" in message
    assert f"{tmp_path / 'empty' / 'libllamacore-ggml-base.so.0'} is missing" in message
    assert "unset LLAMACORE_LIB_DIR" in message


@pytest.mark.parametrize("name", ["libllamacore-ggml-base.so.0", "libllamacore-llama.so.0", "libllamacore_shim.so"])
def test_a_library_that_was_cut_off_is_named(name: str, run_python: Run, lib_copy: Path):
    """The loader would read what is not there and end the process."""
    path = lib_copy / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(lib_copy)))
    assert f"{path} is cut off" in message


def test_a_set_folder_in_the_environment_stands_for_its_lib_folder(run_python: Run, lib_copy: Path, tmp_path: Path):
    lib_copy.rename(tmp_path / "lib")
    (tmp_path / "companion.json").write_text("{}")
    result = run_python(f"{IMPORT}; print(llamacore_sys.lib_dir)", LLAMACORE_LIB_DIR=str(tmp_path))
    assert result.stdout == f"{tmp_path / 'lib'}\n", result.stderr


def test_what_is_installed_can_be_told_of_a_broken_installation(run_python: Run, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    code = "import llamacore_sys as s; from llamacore_sys import _build, _modules, _platform; print(*s.UPSTREAM)"
    result = run_python(code, LLAMACORE_LIB_DIR=str(tmp_path / "empty"))
    assert result.stdout.split() == list(llamacore_sys.UPSTREAM), result.stderr


def test_the_sizes_of_structs_can_be_asked(run_python: Run):
    code = "from llamacore_sys._gate import struct_sizes; print(struct_sizes()['llama_batch'])"
    assert int(run_python(code).stdout) == llamacore_sys.ffi.sizeof("struct llama_batch")


def test_libraries_of_another_commit_are_refused(run_python: Run, lib_copy: Path):
    commit = llamacore_sys.UPSTREAM.commit.encode()
    other = commit[:-1] + (b"0" if commit[-1:] != b"0" else b"1")
    holders = [path for path in lib_copy.iterdir() if commit + b"\0" in path.read_bytes()]
    for path in holders:
        patch(path, commit + b"\0", other + b"\0")
    assert holders
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(lib_copy)))
    assert f"commit {other.decode()}, compiled for {commit.decode()}" in message
    assert "To cure: reinstall llamacore" in message


def test_libraries_of_another_version_are_refused(run_python: Run, lib_copy: Path):
    version = llamacore_sys.UPSTREAM.version.encode()
    patch(lib_copy / "libllamacore-llama.so.0", version + b"\0", b"9" + version[1:] + b"\0")
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(lib_copy)))
    assert f"version 9{version[1:].decode()}, compiled for {version.decode()}" in message


def test_a_shim_with_other_declarations_is_refused(run_python: Run, lib_copy: Path):
    """A companion set of another llamacore with the same llama.cpp, say."""
    ffi, lib = llamacore_sys.ffi, llamacore_sys.lib
    ours = ffi.string(lib.llc_build_interface())
    assert ours == shim_interface(ROOT / "llamacore_sys" / "shim" / "llamacore_shim.h").encode()
    patch(lib_copy / "libllamacore_shim.so", ours + b"\0", b"0" * len(ours) + b"\0")
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(lib_copy)))
    assert f"interface of the shim {'0' * len(ours)}, compiled for {ours.decode()}" in message
    assert "llamacore libs use bundled" in message


def test_structs_of_another_size_are_refused(run_python: Run, lib_copy: Path):
    """The shim's table has rows of a pointer and a size; the row of llama_batch gets another size."""
    ffi, shim = llamacore_sys.ffi, lib_copy / "libllamacore_shim.so"
    names = ("llama_model_params", "llama_context_params", "llama_batch")
    sizes = [ffi.sizeof(f"struct {name}") for name in names]
    data = bytearray(shim.read_bytes())
    rows = [
        offset
        for offset in range(0, len(data) - 48, 8)
        if [struct.unpack_from("=Q", data, offset + 16 * row)[0] for row in range(3)] == sizes
    ]
    assert len(rows) == 1
    struct.pack_into("=Q", data, rows[0] + 32, sizes[2] + 8)
    shim.write_bytes(data)
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(lib_copy)))
    assert f"struct llama_batch of {sizes[2] + 8} bytes, compiled for {sizes[2]}" in message


def test_a_missing_function_is_named(run_python: Run, lib_copy: Path):
    patch(lib_copy / "libllamacore_shim.so", b"\0llc_build_version\0", b"\0llc_built_version\0")
    message = refusal(run_python(IMPORT, LLAMACORE_LIB_DIR=str(lib_copy)))
    assert "undefined symbol: llc_build_version" in message
    assert "To cure:" in message


def test_a_second_llama_cpp_in_the_process_is_refused(run_python: Run, lib_copy: Path):
    other = lib_copy / "libllamacore-ggml-base.so.0"
    message = refusal(run_python(f"import ctypes; ctypes.CDLL({str(other)!r}); {IMPORT}"))
    assert f"ggml-base was loaded from {other}, not from {llamacore_sys.lib_dir}" in message
    assert "import llamacore first" in message


def test_a_companion_set_is_used_when_marked_active(run_python: Run, lib_copy: Path, tmp_path: Path):
    marker = tmp_path / "data" / "libs" / llamacore_sys.UPSTREAM.commit / "active"
    marker.parent.mkdir(parents=True)
    marker.write_text(f"{lib_copy}\n")
    data = str(tmp_path / "data")
    code = f"{IMPORT}; print(llamacore_sys.lib_dir)"
    assert run_python(code, LLAMACORE_DATA_DIR=data).stdout == f"{lib_copy}\n"
    # the environment comes first
    (tmp_path / "empty").mkdir()
    assert "empty" in refusal(run_python(code, LLAMACORE_DATA_DIR=data, LLAMACORE_LIB_DIR=str(tmp_path / "empty")))
    # a set for another commit does not count
    marker.parent.rename(marker.parent.with_name("0000000"))
    assert run_python(code, LLAMACORE_DATA_DIR=data).stdout == f"{llamacore_sys.lib_dir}\n"


def test_a_companion_set_that_is_gone_is_named(run_python: Run, tmp_path: Path):
    marker = tmp_path / "libs" / llamacore_sys.UPSTREAM.commit / "active"
    marker.parent.mkdir(parents=True)
    marker.write_text(f"{tmp_path / 'gone'}\n")
    message = refusal(run_python(IMPORT, LLAMACORE_DATA_DIR=str(tmp_path)))
    assert f"the companion set named in {marker} is gone" in message
    assert "llamacore libs install" in message


def test_a_package_that_is_not_built_says_so(run_python: Run, tmp_path: Path):
    package = tmp_path / "llamacore_sys"
    package.mkdir()
    for path in Path(llamacore_sys.__file__).parent.glob("*.py"):
        if path.name != "_build.py":
            shutil.copy(path, package)
    message = refusal(run_python(IMPORT))
    assert "llamacore_sys is not built: run `python build_lib.py build`" in message
