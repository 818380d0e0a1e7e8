"""Back ends in files of their own: which are found, and that one that cannot be used is a reason and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compiled import REGISTRY, compile_library

import llamacore as lc
import llamacore_sys
from llamacore.core.backend import Backend
from llamacore_sys._complete import why_incomplete
from llamacore_sys._modules import Module, find_cpu_variants, find_modules
from llamacore_sys._platform import platform_key
from llamacore_sys._search import LibraryFolder, find_library_folder, libraries_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the file names are those of Linux")

COMMIT = llamacore_sys.UPSTREAM.commit
Backends = Callable[..., dict[str, Backend]]

USE = """
import dataclasses, json, sys
import llamacore as lc
from llamacore.core import backend
assert backend.backends() == backend.backends()
with lc.Model.load(sys.argv[1]) as model, model.context(n_ctx=64, n_threads=1) as ctx:
    batch = lc.Batch(8)
    batch.add(1, pos=0, seq_ids=(0,), output=True)
    ctx.decode(batch)
print(json.dumps([dataclasses.asdict(item) for item in backend.backends()]))
"""


def make_addon(folder: Path, backend: str, content: bytes = b"no library", **facts: Any) -> Path:
    """A folder as an add-on set or an add-on package has it; returns its module."""
    module = folder / "lib" / f"libggml-{backend}.so"
    module.parent.mkdir(parents=True)
    module.write_bytes(content)
    known = {"schema": 1, "kind": "addon", "platform": platform_key(), "llama_cpp": {"commit": COMMIT}}
    (folder / "companion.json").write_text(json.dumps({**known, **facts}))
    return module


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder of the user, and no module in the environment."""
    monkeypatch.setenv("LLAMACORE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("LLAMACORE_LIB_DIR", raising=False)
    monkeypatch.delenv("GGML_BACKEND_PATH", raising=False)
    return tmp_path / "data"


@pytest.fixture
def empty(tmp_path: Path) -> LibraryFolder:
    """A folder that has libraries of the package, none of which is a module."""
    (tmp_path / "lib").mkdir()
    return LibraryFolder(str(tmp_path / "lib"), "the bundled libraries", "package")


@pytest.fixture
def backends_of(tiny_path: Callable[..., Path], tmp_path: Path) -> Backends:
    """A function that generates in a process of its own and returns its back ends; the process must not fail."""

    def backends(**environment: str) -> dict[str, Backend]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("LLAMACORE_", "GGML_"))}
        paths = {"PYTHONPATH": str(Path(lc.__file__).parents[1]), "LLAMACORE_DATA_DIR": str(tmp_path / "data")}
        command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", USE, str(tiny_path())]
        done = subprocess.run(
            command, env={**clean, **paths, **environment}, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = [Backend(**{**item, "devices": tuple(item["devices"])}) for item in json.loads(done.stdout)]
        assert found[-1].name == "cpu" and found[-1].loaded and found[-1].devices == ("CPU",)
        return {item.name: item for item in found}

    return backends


# where libraries and modules are looked for


def test_a_set_in_the_environment_is_its_lib_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "set" / "lib").mkdir(parents=True)
    monkeypatch.setenv("LLAMACORE_LIB_DIR", str(tmp_path / "set"))
    assert find_library_folder(COMMIT).path == str(tmp_path / "set")
    (tmp_path / "set" / "companion.json").write_text("{}")
    found = find_library_folder(COMMIT)
    assert found.path == str(tmp_path / "set" / "lib")
    assert (found.chosen_by, found.bundled) == ("environment", False)


def test_the_cpu_is_a_library_or_a_module(tmp_path: Path):
    """A package and a set may be of different profiles: what counts is what the folder has."""
    linked = [
        "libllamacore-ggml-base.so.0",
        "libllamacore-ggml-cpu.so.0",
        "libllamacore-ggml.so.0",
        "libllamacore_shim.so",
    ]
    plain = [name for name in linked if "cpu" not in name]
    for name in plain:
        (tmp_path / name).write_bytes(b"")
    assert libraries_of(str(tmp_path), linked) == plain
    assert libraries_of(str(tmp_path), plain) == plain
    (tmp_path / linked[1]).write_bytes(b"")
    assert libraries_of(str(tmp_path), linked) == linked
    assert sorted(libraries_of(str(tmp_path), plain)) == sorted(linked)
    # all others are missed where they are not
    assert libraries_of(str(tmp_path / "none"), linked) == plain


def test_modules_beside_the_libraries_come_in_upstreams_order(data: Path, empty: LibraryFolder):
    for name in ("vulkan", "rpc", "cuda", "unheard-of", "cpu-haswell"):
        Path(empty.path, f"libggml-{name}.so").write_bytes(b"no library")
    assert [found.backend for found in find_modules(empty, COMMIT)] == ["cuda", "rpc", "vulkan"]
    assert {found.origin for found in find_modules(empty, COMMIT)} == {"beside the libraries"}


def test_variants_of_the_cpu(data: Path, empty: LibraryFolder):
    assert find_cpu_variants(empty) == []
    Path(empty.path, "libggml-cpu.so").write_bytes(b"")
    assert [Path(found.path).name for found in find_cpu_variants(empty)] == ["libggml-cpu.so"]
    for name in ("x64", "haswell"):
        Path(empty.path, f"libggml-cpu-{name}.so").write_bytes(b"")
    names = [Path(found.path).name for found in find_cpu_variants(empty)]
    assert names == ["libggml-cpu-haswell.so", "libggml-cpu-x64.so"]
    assert find_cpu_variants(empty._replace(path="/not/there")) == []


def test_an_active_add_on_set_is_found(data: Path, empty: LibraryFolder, tmp_path: Path):
    module = make_addon(tmp_path / "cuda-set", "cuda")
    marker = data / "libs" / COMMIT / "addons" / "cuda"
    marker.parent.mkdir(parents=True)
    marker.write_text(f"{tmp_path / 'cuda-set'}\n")
    (found,) = find_modules(empty, COMMIT)
    assert found == Module("cuda", str(module), f"the add-on set named in {marker}")
    # a module beside the libraries comes first, and a folder that the environment chose is all there is
    assert find_modules(empty._replace(chosen_by="environment"), COMMIT) == []
    beside = Path(empty.path, "libggml-cuda.so")
    beside.write_bytes(b"")
    assert [found.path for found in find_modules(empty, COMMIT)] == [str(beside)]


def test_an_installed_package_is_found_and_not_imported(
    data: Path, empty: LibraryFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = make_addon(tmp_path / "site" / "llamacore_vulkan", "vulkan")
    (tmp_path / "site" / "llamacore_vulkan" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find_modules(empty, COMMIT) == [Module("vulkan", str(module), "the Python package llamacore_vulkan")]
    assert "llamacore_vulkan" not in sys.modules


def test_a_set_that_does_not_fit_is_told_and_the_package_is_taken(
    data: Path, empty: LibraryFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_addon(tmp_path / "set", "cuda", llama_cpp={"commit": "0000000"})
    module = make_addon(tmp_path / "site" / "llamacore_cuda", "cuda")
    (tmp_path / "site" / "llamacore_cuda" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    marker = data / "libs" / COMMIT / "addons" / "cuda"
    marker.parent.mkdir(parents=True)
    marker.write_text(f"{tmp_path / 'set'}\n")
    unfit, taken = find_modules(empty, COMMIT)
    assert unfit.problem == f"it is made for llama.cpp 0000000, this package for {COMMIT}"
    assert (taken.path, taken.problem) == (str(module), "")


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"platform": "riscv64-plan9"}, "it is made for riscv64-plan9, this is "),
        ({"llama_cpp": None}, "companion.json cannot be read: TypeError"),
        ({"llama_cpp": {}}, "companion.json cannot be read: KeyError('commit')"),
    ],
)
def test_an_add_on_for_something_else_has_a_problem(
    facts: dict[str, Any], problem: str, data: Path, empty: LibraryFolder, tmp_path: Path
):
    make_addon(tmp_path / "set", "blas", **facts)
    marker = data / "libs" / COMMIT / "addons" / "blas"
    marker.parent.mkdir(parents=True)
    marker.write_text(str(tmp_path / "set"))
    (found,) = find_modules(empty, COMMIT)
    assert problem in found.problem


def test_damaged_records_of_add_ons_are_problems(data: Path, empty: LibraryFolder, tmp_path: Path):
    marker = data / "libs" / COMMIT / "addons" / "cuda"
    marker.parent.mkdir(parents=True)

    def problem() -> str:
        (found,) = find_modules(empty, COMMIT)
        return found.problem

    for content in ("", "relative/folder\n", f"{tmp_path / 'gone'}\n"):
        marker.write_text(content)
        assert problem().startswith("its folder is gone")
    marker.write_bytes(b"\xff\xfe")
    assert "cannot be read" in problem()
    marker.write_text(str(tmp_path / "set"))
    module = make_addon(tmp_path / "set", "cuda")
    module.unlink()
    assert problem() == f"{module} is missing"
    (tmp_path / "set" / "companion.json").write_text("[" * 100_000)
    assert "cannot be read" in problem()
    (tmp_path / "set" / "companion.json").write_bytes(b"\xff")
    assert "cannot be read" in problem()


def test_files_that_were_cut_off_are_known(tmp_path: Path):
    """At every length the file is told to be cut off, or the loader has something to say that is no crash."""
    whole = Path(llamacore_sys.lib_dir, "libllamacore-ggml.so.0").read_bytes()
    path = tmp_path / "part.so"
    path.write_bytes(whole)
    assert why_incomplete(str(path)) == ""
    for length in (0, 3, 20, 63, 64, 100, 500, 4096, 5000, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:length])
        assert length < 64 or "is cut off" in why_incomplete(str(path)), length
        code = f"import ctypes\ntry: ctypes.CDLL({str(path)!r})\nexcept OSError: pass"
        if length < 64:
            assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert why_incomplete(str(tmp_path / "none.so")) == f"{tmp_path / 'none.so'} is missing"
    assert "cannot be read" in why_incomplete(str(tmp_path))


# opening them


BROKEN = {
    "no init": ("int nothing;", "it has no function ggml_backend_init"),
    "no score": (
        REGISTRY + "int ggml_backend_score(void) { return 0; } void * ggml_backend_init(void) { return &the_reg; }",
        "it is not made for this processor",
    ),
    "nothing": (REGISTRY + "void * ggml_backend_init(void) { return NULL; }", "returned nothing"),
    "other version": (
        REGISTRY + "void * ggml_backend_init(void) { the_reg.api_version = 99; return &the_reg; }",
        "it is made for version 99 of ggml's interface for back ends, this is version 2",
    ),
    "assertion": (
        REGISTRY + 'void * ggml_backend_init(void) { ggml_abort("cuda.cu", 7, "no %s", "luck"); return NULL; }',
        "cuda.cu:7: no luck",
    ),
    "unknown symbol": (
        "extern void from_nowhere(void); void * ggml_backend_init(void) { from_nowhere(); return 0; }",
        "undefined symbol: from_nowhere",
    ),
    "there already": (
        REGISTRY + 'void * ggml_backend_init(void) { the_reg.context = "CPU"; return &the_reg; }',
        "there is a back end CPU already",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_module_is_a_reason(kind: str, lib_copy: Path, backends_of: Backends):
    """The process goes on and generates; what is wrong is told."""
    source, reason = BROKEN[kind]
    if kind == "there already" and not (lib_copy / "libllamacore-ggml-cpu.so.0").exists():
        pytest.skip("the CPU is a module of this build")
    module = lib_copy / "libggml-cuda.so"
    compile_library(module, source, "-fexceptions", link=[lib_copy / "libllamacore-ggml-base.so.0"])
    found = backends_of(LLAMACORE_LIB_DIR=str(lib_copy))["cuda"]
    assert reason in found.reason
    assert found == Backend("cuda", str(module), "beside the libraries", False, found.reason, ())


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 500])
def test_garbage_is_a_reason(content: bytes, lib_copy: Path, backends_of: Backends):
    (lib_copy / "libggml-cuda.so").write_bytes(content)
    found = backends_of(LLAMACORE_LIB_DIR=str(lib_copy))["cuda"]
    assert not found.loaded and "libggml-cuda.so" in found.reason


def test_a_module_that_was_cut_off_is_a_reason(lib_copy: Path, backends_of: Backends):
    whole = (lib_copy / "libllamacore-llama.so.0").read_bytes()
    (lib_copy / "libggml-cuda.so").write_bytes(whole[: len(whole) // 2])
    found = backends_of(LLAMACORE_LIB_DIR=str(lib_copy))["cuda"]
    assert not found.loaded and "is cut off: it has" in found.reason


def test_a_missing_library_of_the_system_is_named(lib_copy: Path, tmp_path: Path, backends_of: Backends):
    driver = compile_library(tmp_path / "libcuda.so.1", "int cuInit;", "-Wl,-soname,libcuda.so.1")
    source = REGISTRY + "extern int cuInit; void * ggml_backend_init(void) { return cuInit ? 0 : &the_reg; }"
    base = lib_copy / "libllamacore-ggml-base.so.0"
    compile_library(lib_copy / "libggml-cuda.so", source, link=[base, driver])
    driver.unlink()
    found = backends_of(LLAMACORE_LIB_DIR=str(lib_copy))["cuda"]
    assert found.reason.startswith("libcuda.so.1: cannot open shared object file")


def test_a_back_end_without_devices_says_why(lib_copy: Path, backends_of: Backends):
    log = 'ggml_log_internal(4, "failed to initialize: no %s-capable device is detected\\n", "CUDA");'
    source = REGISTRY + f"void * ggml_backend_init(void) {{ {log} return &the_reg; }}"
    base = lib_copy / "libllamacore-ggml-base.so.0"
    module = compile_library(lib_copy / "libggml-cuda.so", source, link=[base])
    found = backends_of(LLAMACORE_LIB_DIR=str(lib_copy))["cuda"]
    assert found.loaded and found.devices == () and found.path == str(module)
    assert found.reason == "failed to initialize: no CUDA-capable device is detected"
    compile_library(module, REGISTRY + "void * ggml_backend_init(void) { return &the_reg; }", link=[base])
    assert backends_of(LLAMACORE_LIB_DIR=str(lib_copy))["cuda"].reason == "it found no device"


def test_a_module_of_another_package_is_refused(lib_copy: Path, tmp_path: Path, backends_of: Backends):
    """It is linked with that package's ggml, whose objects are not ours."""
    other = compile_library(
        tmp_path / "libggml-base.so.0", "int ggml_backend_buffer_init; int ggml_log_internal; int ggml_abort;",
        "-Wl,-soname,libggml-base.so.0",
    )  # fmt: skip
    source = REGISTRY + "void * ggml_backend_init(void) { return &the_reg; }"
    compile_library(lib_copy / "libggml-cuda.so", source, f"-Wl,-rpath,{tmp_path}", "-Wl,--no-as-needed", link=[other])
    found = backends_of(LLAMACORE_LIB_DIR=str(lib_copy))["cuda"]
    assert found.reason == f"it is linked with another ggml: {other}"


def test_a_module_in_the_environment_is_opened_too(lib_copy: Path, tmp_path: Path, backends_of: Backends):
    """As upstream's own loader does, for hardware that nobody here knows of."""
    source = REGISTRY + 'void * ggml_backend_init(void) { the_reg.context = "TPU"; return &the_reg; }'
    base = Path(llamacore_sys.lib_dir, "libllamacore-ggml-base.so.0")
    module = compile_library(tmp_path / "libggml-tpu.so", source, link=[base])
    found = backends_of(GGML_BACKEND_PATH=str(module))["tpu"]
    assert found.loaded and found.origin == f"GGML_BACKEND_PATH={module}"
    gone = backends_of(GGML_BACKEND_PATH=str(tmp_path / "gone.so"))["gone"]
    assert not gone.loaded and gone.reason == f"{tmp_path / 'gone.so'} is missing"
