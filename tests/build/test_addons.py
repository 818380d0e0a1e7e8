"""Add-ons: what one needs is looked for first; its module joins the base, stays there, and never costs the base."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from build_support import addons, builder, openblas
from build_support.addons import find_addons, module_name
from build_support.builder import build, build_addons
from build_support.config import BuildConfig
from build_support.errors import BuildError
from build_support.package import RECORD, built_files
from build_support.process import Console

linux = pytest.mark.skipif(sys.platform != "linux", reason="the file names are those of Linux")

SGEMM = """void cblas_sgemm(CBLAS_ORDER order, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha,
    const float * a, int lda, const float * b, int ldb, float beta, float * c, int ldc)"""
# Row major is all that the back end asks for.
OPENBLAS = f"""
#include "cblas.h"
void openblas_set_num_threads(int n) {{ (void) n; }}
{SGEMM} {{
    (void) order;
    for (int i = 0; i < m; i++) {{
        for (int j = 0; j < n; j++) {{
            float sum = 0;
            for (int l = 0; l < k; l++) {{
                sum += (ta == CblasTrans ? a[l * lda + i] : a[i * lda + l]) *
                       (tb == CblasTrans ? b[j * ldb + l] : b[l * ldb + j]);
            }}
            c[i * ldc + j] = alpha * sum + (beta != 0 ? beta * c[i * ldc + j] : 0);
        }}
    }}
}}
"""
CBLAS = f"""
#ifdef __cplusplus
extern "C" {{
#endif
typedef enum {{ CblasRowMajor = 101 }} CBLAS_ORDER;
typedef enum {{ CblasNoTrans = 111, CblasTrans = 112 }} CBLAS_TRANSPOSE;
void openblas_set_num_threads(int n);
{SGEMM};
#ifdef __cplusplus
}}
#endif
"""

USE = """
import llamacore as lc
from llamacore.core import backend
print([device.name for device in backend.devices()])
with lc.Llama(n_threads=1, n_ctx=256) as llm:
    print(llm.generate("Once upon a time " * 20, max_tokens=8, temperature=0).text)
"""


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only one in which SDKs are looked for."""
    folder = tmp_path / "sdk"
    folder.mkdir()
    monkeypatch.setattr(addons, "_PREFIXES", ())
    monkeypatch.delenv("VULKAN_SDK", raising=False)
    monkeypatch.setenv("CMAKE_PREFIX_PATH", str(folder))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(folder: Path, name: str, text: str = "") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_vulkan_needs_its_compiler_headers_and_spirv(sdk: Path, console: Console):
    config = BuildConfig(backends=("vulkan",))
    steps = (
        ("glslc is not found", "apt install glslc", "bin/glslc", ""),
        ("vulkan/vulkan_core.h is not found", "apt install libvulkan-dev", "include/vulkan/vulkan_core.h", "old"),
        ("older than 1.3.272", "Vulkan SDK", "include/vulkan/vulkan_core.h", "VK_EXT_layer_settings"),
        ("SPIRV-Headers is not found", "apt install spirv-headers", "share/cmake/SPIRV-Headers/x.cmake", ""),
    )
    for message, cure, name, text in steps:
        with pytest.raises(BuildError, match=re.escape(message)) as caught:
            find_addons(config, console)
        assert cure in caught.value.next_step
        put(sdk, name, text)
    [addon] = find_addons(config, console)
    options = addon.cmake_options()
    assert (options["GGML_VULKAN"], options["GGML_CPU"], options["LLAMACORE_ADDON"]) == ("ON", "OFF", "vulkan")


@linux
def test_blas_needs_a_package_that_pip_brings(
    console: Console, tmp_path: Path, local_index: Path, monkeypatch: pytest.MonkeyPatch
):
    config = BuildConfig(backends=("blas",))
    monkeypatch.setattr(openblas, "cache_dir", lambda: tmp_path / "cache")
    local_index.mkdir()
    with pytest.raises(BuildError, match=r"scipy-openblas32>=0\.3\.27 could not be downloaded") as caught:
        find_addons(config, console)
    assert str(tmp_path / "cache" / "scipy-openblas32") in caught.value.next_step
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["download.log", "lock"]


@pytest.mark.parametrize("backend", ["vulkan", "cuda"])
def test_what_is_missing_is_said_before_anything_is_started(
    sdk: Path, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
):
    for name in ("cmake", "ninja", "cc", "c++"):
        put(sdk, name, "#!/bin/sh\necho cmake version 3.30.0\n")
        (sdk / name).chmod(0o755)
    monkeypatch.setattr(builder, "BUILD_ROOT", tmp_path / "build")
    for variable in ("CC", "CXX", "CUDACXX", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **more: None if "nvcc" in name else which(name, **more))
    with pytest.raises(BuildError, match=r"back end was asked for and .* is not found"):
        build(BuildConfig(backends=(backend,)), tmp_path / "package", console)
    assert os.listdir(tmp_path / "build") == ["lock"]
    assert not (tmp_path / "package").exists()


@pytest.fixture
def small_blas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small OpenBLAS in the cache, and installed beside the package in `tmp_path`; returns its header."""
    folder = tmp_path / openblas.PACKAGE
    put(folder, "include/cblas.h", CBLAS)
    put(folder, "blas.c", OPENBLAS)
    (folder / "lib").mkdir()
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    command = [*compiler.split(), "-O2", "-shared", "-fPIC", "-Wl,-soname,libscipy_openblas.so", f"-I{folder}/include"]
    command += [f"-D{name}={openblas.PREFIX}{name}" for name in openblas.FUNCTIONS]
    subprocess.run([*command, f"{folder}/blas.c", "-o", f"{folder}/lib/libscipy_openblas.so"], check=True)
    monkeypatch.setattr(openblas, "cache_dir", lambda: tmp_path / "cache")
    cached = tmp_path / "cache" / "scipy-openblas32" / openblas.PACKAGE
    shutil.copytree(folder, cached)
    return cached / "include" / "cblas.h"


@linux
@pytest.mark.slow
def test_an_add_on_joins_the_base_and_stays(
    small_blas: Path, console: Console, said: Callable[[], str], tmp_path: Path
):
    package = tmp_path / "llamacore_sys"
    module = package / "lib" / module_name("blas")
    before = build(BuildConfig(), package, console)
    assert module not in before
    old = {path: path.read_bytes() for path in before}

    # One that does not compile leaves everything as it was.
    good = small_blas.read_text()
    small_blas.write_text("#error no header of a BLAS\n")
    with pytest.raises(BuildError, match="compiling failed"):
        build(BuildConfig(backends=("blas",)), package, console)
    assert {path: path.read_bytes() for path in built_files(package)} == old

    small_blas.write_text(good)
    assert module in build(BuildConfig(backends=("blas",)), package, console)
    assert build_addons(BuildConfig(backends=("blas",)), console)[0].read_bytes() == module.read_bytes()
    assert "MODULES: tuple[str, ...] = ('libggml-blas.so',)" in (package / RECORD).read_text()
    exported = subprocess.run(["nm", "-D", "--defined-only", module], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in exported.splitlines()} == {"ggml_backend_init"}

    # It computes: what the text says is the same, and the device is there.
    plain, more = (generate(folder) for folder in (make_copy(package, tmp_path), package / "lib"))
    assert more[0] == "['BLAS', 'CPU']"
    assert plain[0] == "['CPU']"
    assert more[1:] == plain[1:]

    # A base that is built again keeps it while it fits, and drops it when not.
    assert module in build(BuildConfig(), package, console)
    record = package / RECORD
    record.write_text(record.read_text().replace("COMMIT = '", "COMMIT = '0"))
    assert module not in build(BuildConfig(), package, console)
    assert "removing libggml-blas.so: built from another llama.cpp" in said()
    assert built_files(package) == before
    assert record.read_bytes() == old[record]


def make_copy(package: Path, tmp_path: Path) -> Path:
    """The libraries without the add-on."""
    return shutil.copytree(package / "lib", tmp_path / "plain", ignore=shutil.ignore_patterns(module_name("blas")))


def generate(folder: Path) -> list[str]:
    """Devices and a text, with the libraries of a folder."""
    environment = {**os.environ, "LLAMACORE_LIB_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()
