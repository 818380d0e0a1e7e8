"""What is packed: each library once, under its SONAME, with all that it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build_support.elf import read_elf
from build_support.errors import BuildError
from build_support.libraries import collect, role, split
from build_support.platforms import parse_platform, this_platform

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF libraries")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def link(folder: Path, name: str, *others: str) -> Path:
    """A real library of that name, linked with others of the same folder."""
    folder.mkdir(exist_ok=True)
    (folder / "empty.c").write_text(f"int of_{re.sub('[^a-z0-9]', '_', name)};\n")
    command = ["cc", "-shared", "-fPIC", "-nostdlib", "-Wl,--no-as-needed", f"-Wl,-soname,{name}", "empty.c"]
    subprocess.run([*command, "-o", name, *others], cwd=folder, check=True)
    return folder / name


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A whole base of small libraries, with two variants for the CPU."""
    folder = tmp_path / "small"
    link(folder, "libllamacore-ggml-base.so.0")
    link(folder, "libllamacore-ggml.so.0", "libllamacore-ggml-base.so.0")
    link(folder, "libllamacore-llama.so.0", "libllamacore-ggml.so.0", "libllamacore-ggml-base.so.0")
    link(folder, "libllamacore_shim.so", "libllamacore-llama.so.0")
    for module in ("cpu-x64", "cpu-haswell", "rpc"):
        link(folder, f"libggml-{module}.so", "libllamacore-ggml-base.so.0")
    return folder


def test_the_installed_libraries_are_whole(installed: Path):
    from llamacore_sys import _build

    base, addons = split(collect([installed], this_platform()), ())
    assert set(base.linked) == set(_build.LIBRARIES)
    assert set(base.modules) <= set(_build.MODULES)
    for name in base.linked:
        needed = [other for other in base.files[name].elf.needed if other in base.linked]
        assert all(base.linked.index(other) < base.linked.index(name) for other in needed)
    assert {"shim", "mtmd", "llama", "ggml", "ggml-base"} <= {role(name) for name in base.linked}
    assert "cpu" in base.backends
    assert base.requires == ()
    assert addons == {}


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_a_library_says_what_readelf_says(installed: Path):
    for path in sorted((installed / "lib").glob("lib*")):
        elf = read_elf(path)
        text = subprocess.run(["readelf", "-dVW", path], capture_output=True, text=True, check=True).stdout
        assert list(elf.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", text)
        assert [elf.soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", text) or [""])
        assert [elf.runpath] == re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", text)
        needs = text.split("Version needs section")[1]
        numbers = re.findall(r"Name: GLIBC_([\d.]+)", needs)
        assert elf.glibc == max(tuple(map(int, number.split("."))) for number in numbers)


def test_a_damaged_library_is_refused_with_its_name(installed: Path, tmp_path: Path):
    whole = next((installed / "lib").glob("libllamacore_shim*")).read_bytes()
    path = tmp_path / "libdamaged.so"
    for size in (0, 3, 16, 63, 64, 100, 200, 400, 1000, 4096, 20000):
        path.write_bytes(whole[:size])
        with pytest.raises(BuildError, match=r"libdamaged\.so"):
            read_elf(path)
    for position in range(0, 1200, 7):
        path.write_bytes(whole[:position] + b"\xff" * 8 + whole[position + 8 :])
        try:
            read_elf(path)
        except BuildError as error:
            assert "libdamaged.so" in str(error)


@needs_cc
def test_links_and_copies_count_once(small: Path, tmp_path: Path):
    real = small / "libllamacore-llama.so.0"
    real.rename(small / "libllamacore-llama.so.0.5.0")
    real.symlink_to("libllamacore-llama.so.0.5.0")
    (small / "libllamacore-llama.so").symlink_to(real.name)
    copies = tmp_path / "copies"
    shutil.copytree(small, copies)
    base, _ = split(collect([small, copies], this_platform()), ())
    assert len(base.files) == len(set(base.files)) == 7
    assert base.files["libllamacore-llama.so.0"].path == small / "libllamacore-llama.so.0.5.0"
    assert base.modules == ("libggml-cpu-haswell.so", "libggml-cpu-x64.so", "libggml-rpc.so")
    assert base.backends == ("cpu", "rpc")
    assert base.portable
    assert base.linked[0] == "libllamacore-ggml-base.so.0"
    assert base.linked[-1] == "libllamacore_shim.so"


@needs_cc
def test_two_libraries_of_one_name_are_refused(small: Path, tmp_path: Path):
    link(tmp_path / "other", "libllamacore-ggml-base.so.0", "-Wl,-z,now")
    with pytest.raises(BuildError, match="are both libllamacore-ggml-base"):
        collect([small, tmp_path / "other"], this_platform())


@needs_cc
def test_a_library_of_another_processor_is_refused(small: Path):
    path = small / "libggml-rpc.so"
    data = bytearray(path.read_bytes())
    data[18] = 183 if data[18] != 183 else 62
    path.write_bytes(data)
    with pytest.raises(BuildError, match=r"libggml-rpc\.so is for (aarch64|x86_64), not for"):
        collect([small], this_platform())


@needs_cc
def test_an_unknown_library_is_refused(small: Path):
    link(small, "libsurprise.so.7")
    link(small, "libggml-rpc.so", "libsurprise.so.7")
    (small / "libsurprise.so.7").unlink()
    with pytest.raises(BuildError, match=r"libggml-rpc\.so needs libsurprise\.so\.7"):
        split(collect([small], this_platform()), ())


@needs_cc
def test_an_addon_is_one_module_that_names_what_the_machine_must_have(small: Path):
    for driver in ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13"):
        link(small, driver)
    link(small, "libggml-cuda.so", "libllamacore-ggml-base.so.0", "libcuda.so.1", "libcudart.so.13", "libcublas.so.13")
    for driver in ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13"):
        (small / driver).unlink()
    base, addons = split(collect([small], this_platform()), ["cuda"])
    assert "libggml-cuda.so" not in base.files
    assert list(addons) == ["cuda"]
    assert addons["cuda"].modules == ("libggml-cuda.so",)
    assert addons["cuda"].linked == ()
    assert addons["cuda"].backends == ("cuda",)
    assert [item.library for item in addons["cuda"].requires] == ["libcublas.so.13", "libcuda.so.1", "libcudart.so.13"]
    assert [item.what for item in addons["cuda"].requires] == [
        "cuBLAS of CUDA 13",
        "the NVIDIA driver",
        "the CUDA 13 runtime",
    ]
    assert all(item.hint and "{" not in item.hint for item in addons["cuda"].requires)
    with pytest.raises(BuildError, match="vulkan is not among the libraries"):
        split(collect([small], this_platform()), ["vulkan"])


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(BuildError, match="no libraries"):
        collect([tmp_path], this_platform())


@pytest.mark.parametrize(
    ("text", "key"),
    [("arm64-macosx", "aarch64-darwin"), ("AMD64-windows", "x86_64-windows"), ("x86_64-linux", "x86_64-linux")],
)
def test_platforms_are_known_by_all_their_names(text: str, key: str):
    assert parse_platform(text) == key


@pytest.mark.parametrize("text", ["", "linux", "x86_64", "riscv64-linux", "x86_64-plan9"])
def test_an_unknown_platform_is_refused(text: str):
    with pytest.raises(BuildError, match="x86_64-linux"):
        parse_platform(text)
