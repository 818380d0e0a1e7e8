"""The C example, compiled and run with nothing but an unpacked archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llamacore as lc

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "c"
PROMPT, COUNT = "Once upon a time", 12

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="packaging reads ELF libraries"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]


def run(command: str, folder: Path, **env: str) -> str:
    """Runs a command of a shell in a folder, with an environment that knows no checkout."""
    kept = ("PATH", "LANG", "TMPDIR", "CCACHE_DIR")
    clean = {name: os.environ[name] for name in kept if name in os.environ}
    done = subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=folder,
        env={**clean, "HOME": str(folder), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example as a user's own project."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project"))


@pytest.fixture(scope="module")
def expected(demo_path: Path) -> str:
    """What the example has to print: the same prompt continued by the SDK."""
    with lc.Llama(demo_path, n_ctx=512, n_threads=1) as llm:
        return PROMPT + llm.generate(PROMPT, max_tokens=COUNT, temperature=0).text


def check(program: Path, libraries: Path, demo_path: Path, expected: str) -> None:
    """The program prints the expected text, with the libraries of the set and no others."""
    printed = run(f"./{program.name} '{demo_path}' '{PROMPT}' {COUNT}", program.parent, LD_DEBUG="libs")
    assert printed.rstrip("\n") == expected
    linked = run(f"ldd {program.name}", program.parent)
    ours = [line for line in linked.splitlines() if "llamacore" in line]
    assert ours
    for line in ours:
        assert Path(line.split("=>")[1].split("(")[0].strip()).resolve().parent == libraries.resolve(), line


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="needs pkg-config")
def test_with_pkg_config(unpacked: Path, project: Path, demo_path: Path, expected: str):
    command = "cc -Wall -Wextra -Werror -std=c99 generate.c $(pkg-config --cflags --libs llamacore) -o generate"
    run(command, project, PKG_CONFIG_PATH=str(unpacked / "lib" / "pkgconfig"))
    check(project / "generate", unpacked / "lib", demo_path, expected)


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="needs pkg-config")
def test_pkg_config_tells_the_versions(unpacked: Path, project: Path):
    path = str(unpacked / "lib" / "pkgconfig")
    asked = "pkg-config --modversion llamacore; pkg-config --variable=llama_cpp_version llamacore"
    from llamacore_sys import UPSTREAM

    assert run(asked, project, PKG_CONFIG_PATH=path).split() == [lc.__version__, UPSTREAM.version]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_with_cmake(unpacked: Path, project: Path, demo_path: Path, expected: str):
    run(f"cmake -S . -B build -DCMAKE_PREFIX_PATH='{unpacked}' && cmake --build build", project)
    check(project / "build" / "generate", unpacked / "lib", demo_path, expected)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_cmake_takes_no_older_version(unpacked: Path, project: Path):
    text = (project / "CMakeLists.txt").read_text()
    (project / "CMakeLists.txt").write_text(text.replace("llamacore 0.1", "llamacore 999"))
    with pytest.raises(AssertionError, match="compatible with requested"):
        run(f"cmake -S . -B build -DCMAKE_PREFIX_PATH='{unpacked}'", project)


def test_without_any_helper(unpacked: Path, project: Path, demo_path: Path, expected: str):
    """The libraries are named by hand, and found again after the set and the program have moved together."""
    names = ("_shim.so", "-mtmd.so.0", "-llama.so.0", "-ggml.so.0", "-ggml-base.so.0")
    libraries = " ".join(f"'{unpacked}/lib/libllamacore{name}'" for name in names)
    run(f"cc generate.c -I'{unpacked}/include' {libraries} -Wl,-rpath,'$ORIGIN/../lib' -o generate", project)
    moved = unpacked.rename(unpacked.parent / "moved here")
    (moved / "bin").mkdir()
    shutil.move(project / "generate", moved / "bin" / "generate")
    check(moved / "bin" / "generate", moved / "lib", demo_path, expected)


def test_every_header_compiles_alone(unpacked: Path, tmp_path: Path):
    for header in sorted((unpacked / "include").glob("*.h")):
        language = "c++ -std=c++17" if header.stem.endswith("-cpp") else "c -std=c11"
        (tmp_path / "one.h.c").write_text(f"#include <{header.name}>\n")
        run(f"cc -x {language} -fsyntax-only -I'{unpacked}/include' one.h.c", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "usage"),
        ("no-such-file.gguf", "the model could not be loaded"),
        ("generate.c", "invalid magic"),
        ("MODEL 'Once' 100000", "do not fit"),
    ],
)
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_it_explains_failures(arguments: str, said: str, unpacked: Path, project: Path, demo_path: Path):
    run(f"cmake -S . -B build -DCMAKE_PREFIX_PATH='{unpacked}' && cmake --build build", project)
    command = f"build/generate {arguments.replace('MODEL', str(demo_path))}"
    done = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 64)
    assert said in done.stderr
