"""Missing and broken tools are named before anything is compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build_support import builder, toolchain
from build_support.config import BuildConfig
from build_support.errors import BuildError
from build_support.package import built_files
from build_support.process import Console
from build_support.toolchain import find_toolchain, missing_tools

ROOT = Path(__file__).resolve().parents[2]
needs_tools = pytest.mark.skipif(bool(missing_tools()), reason="needs cmake and ninja")


@pytest.fixture
def path_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes PATH hold nothing but the given programs of this machine."""
    folder = tmp_path / "bin"

    def only(*names: str) -> Path:
        folder.mkdir()
        for name in names:
            real = shutil.which(name)
            assert real is not None
            (folder / name).symlink_to(real)
        monkeypatch.setenv("PATH", str(folder))
        # This Python's own scripts folder counts as well, and may hold a cmake.
        monkeypatch.setattr(toolchain.sys, "executable", str(folder / "python"))
        for variable in ("CC", "CXX", "CUDACXX", "CUDA_PATH"):
            monkeypatch.delenv(variable, raising=False)
        return folder

    return only


def test_cmake_and_ninja_are_named_with_the_command_that_brings_them(path_with):
    path_with()
    assert missing_tools() == ["cmake>=3.21", "ninja"]
    with pytest.raises(BuildError, match=r"cmake>=3\.21 and ninja not found") as caught:
        find_toolchain()
    assert "python -m pip install 'cmake>=3.21' ninja" in caught.value.next_step


def test_a_cmake_that_is_too_old_counts_as_missing(path_with):
    folder = path_with("ninja", "sh")
    (folder / "cmake").write_text("#!/bin/sh\necho cmake version 3.14.0\n")
    (folder / "cmake").chmod(0o755)
    assert missing_tools() == ["cmake>=3.21"]


@needs_tools
def test_no_compiler_is_named(path_with):
    path_with("cmake", "ninja")
    with pytest.raises(BuildError, match=r"no C compiler: none of cc, gcc, clang, cl is on PATH") as caught:
        find_toolchain()
    assert "apt install build-essential" in caught.value.next_step


@needs_tools
def test_no_cxx_compiler_is_named(path_with):
    folder = path_with("cmake", "ninja")
    (folder / "cc").symlink_to("/bin/true")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler"):
        find_toolchain()


@needs_tools
def test_a_compiler_that_was_named_and_is_not_there(path_with, monkeypatch: pytest.MonkeyPatch):
    path_with("cmake", "ninja")
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(BuildError, match="CC=no-such-compiler -O2 is not found"):
        find_toolchain()


@needs_tools
def test_the_command_line_fails_with_one_message_and_no_traceback(path_with):
    folder = path_with("cmake", "ninja")
    command = [sys._base_executable, str(ROOT / "build_lib.py"), "build"]
    before = built_files(ROOT / "llamacore_sys")
    result = subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no C compiler")
    assert "next step: install a C and a C++ compiler" in result.stderr
    assert "Traceback" not in result.stderr
    assert built_files(ROOT / "llamacore_sys") == before


@needs_tools
@pytest.mark.slow
def test_a_broken_compiler_is_named_and_the_next_run_starts_afresh(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(builder, "BUILD_ROOT", tmp_path / "build")
    package = tmp_path / "package"
    monkeypatch.setenv("CC", shutil.which("false") or "")
    for _ in range(2):  # the second failure is the same as the first: nothing of it was kept
        with pytest.raises(BuildError, match="the compiler does not work") as caught:
            builder.build(BuildConfig(), package, console)
        log = tmp_path / "build" / "cmake-native" / "build.log"
        assert f"log: {log}" in caught.value.next_step
        assert "CMake Error" in log.read_text()
    assert not package.exists()
    assert os.listdir(tmp_path / "build") == ["lock", "cmake-native"] or not (log.parent / "configured.json").exists()
