"""Another llama.cpp in the same process does no harm: ours computes the same, or says that it cannot be used."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compiled import compile_library

import llamacore as lc
import llamacore_sys

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="symbol spaces are those of Linux")

Run = Callable[..., subprocess.CompletedProcess[str]]

PROMPT = "Once upon a time"
GENERATE = f"""
import llamacore
with llamacore.Llama(n_threads=1, n_ctx=64) as llm:
    print(llm.generate({PROMPT!r}, max_tokens=8, temperature=0).text)
"""
SONAMES = ("libggml-base.so.0", "libggml.so.0", "libggml-cpu.so.0", "libllama.so.0", "libmtmd.so.0")


@pytest.fixture(scope="module")
def expected() -> str:
    """What the demo model says when nobody else is there."""
    with lc.Llama(n_threads=1, n_ctx=64) as llm:
        return llm.generate(PROMPT, max_tokens=8, temperature=0).text + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs code in a fresh interpreter, with variables added to the environment."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        paths = {
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(Path(lc.__file__).parents[1]), os.environ.get("PYTHONPATH")))
            )
        }
        command = [sys.executable, "-X", "faulthandler", "-c", code]
        return subprocess.run(
            command, env={**os.environ, **paths, **environment}, cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip

    return run


def decoy(path: Path, soname: str, names: list[str]) -> Path:
    """A library that ends the process when one of these functions is called."""
    functions = "".join(
        f'void f{i}(void) __asm__("{name}"); void f{i}(void) {{ abort(); }}\n' for i, name in enumerate(names)
    )
    return compile_library(path, f"#include <stdlib.h>\n{functions}", f"-Wl,-soname,{soname}")


@pytest.fixture(scope="module")
def decoys(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Libraries under the names of upstream's, each with every function of its C interface."""
    prefixes = ("ggml_", "gguf_", "llama_", "mtmd_")
    names = [name for name in dir(llamacore_sys.lib) if name.startswith(prefixes)]
    names = [name for name in names if callable(getattr(llamacore_sys.lib, name))]
    assert len(names) > 500
    folder = tmp_path_factory.mktemp("decoys")
    return [decoy(folder / soname, soname, names) for soname in SONAMES]


def opening(libraries: list[Path], mode: str) -> str:
    """Code that opens libraries and keeps them open."""
    return f"import ctypes, os; kept = [ctypes.CDLL(path, os.{mode}) for path in {list(map(str, libraries))!r}]"


def test_others_that_keep_to_themselves_change_nothing(decoys: list[Path], run: Run, expected: str):
    """So Python packages open their libraries. Before ours and after."""
    for code in (
        f"{opening(decoys, 'RTLD_LOCAL')}\n{GENERATE}",
        f"import llamacore.core.backend\n{opening(decoys, 'RTLD_LOCAL')}\n{GENERATE}",
    ):
        result = run(code)
        assert (result.returncode, result.stdout) == (0, expected), result.stderr[-3000:]


def test_others_that_are_open_to_all_are_refused(decoys: list[Path], run: Run):
    """Calls between our libraries would go to them."""
    result = run(f"{opening(decoys, 'RTLD_GLOBAL')}\n{GENERATE}")
    assert result.returncode == 1, result.stderr[-3000:]
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: ")
    assert str(decoys[0].parent) in message
    assert "another package has its own llama.cpp in this process" in message
    assert "import llamacore first" in message


def test_the_cure_works(decoys: list[Path], run: Run, expected: str):
    """What is opened for all after ours gets none of our calls: they are bound at import."""
    code = f"from llamacore.core import backend; backend.init()\n{opening(decoys, 'RTLD_GLOBAL')}\n{GENERATE}"
    result = run(code)
    assert (result.returncode, result.stdout) == (0, expected), result.stderr[-3000:]


@pytest.mark.parametrize(
    "name",
    [
        "ggml_backend_sched_new",  # llama calls ggml-base
        "ggml_backend_buft_name",
        "llama_model_n_embd",  # mtmd and common call llama
        "gguf_init_from_file",
        "mtmd_free",
        "_Z13llm_arch_name8llm_arch",  # C++, inside of llama
        "_Z15common_log_mainv",
        "ggml_cpu_init",
    ],
)
def test_every_function_of_every_library_counts(name: str, run: Run, tmp_path: Path):
    """A library that takes a single function, open to all, is named with it."""
    path = decoy(tmp_path / "libother.so", "libother.so", [name])
    result = run(f"{opening([path], 'RTLD_GLOBAL')}\n{GENERATE}")
    if name == "ggml_cpu_init" and result.returncode == 0:
        assert not Path(llamacore_sys.lib_dir, "libllamacore-ggml-cpu.so.0").exists()
        return
    assert result.returncode == 1, result.stderr[-3000:]
    message = result.stderr.strip().splitlines()[-1]
    assert "Error: " in message and str(path) in message


def test_a_preloaded_llama_cpp_is_refused(decoys: list[Path], run: Run):
    result = run(GENERATE, LD_PRELOAD=str(decoys[0]))
    assert result.returncode == 1, result.stderr[-3000:]
    assert result.stderr.strip().splitlines()[-1].startswith("ImportError: ")


def test_what_is_open_to_all_may_have_other_names(run: Run, tmp_path: Path, expected: str):
    path = decoy(tmp_path / "libother.so", "libother.so", ["ggml_of_my_own", "llama_farm"])
    result = run(f"{opening([path], 'RTLD_GLOBAL')}\n{GENERATE}")
    assert (result.returncode, result.stdout) == (0, expected), result.stderr[-3000:]


def test_ours_may_be_open_to_all(run: Run, expected: str):
    """A program that has told Python to open every extension so."""
    result = run(f"import os, sys; sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)\n{GENERATE}")
    assert (result.returncode, result.stdout) == (0, expected), result.stderr[-3000:]


TORCH = """
import torch
a = torch.arange(1.0, 65.0).reshape(8, 8)
assert torch.allclose((a @ a.inverse() if a.det() else a @ a)[0].sum(), (a @ a)[0].sum())
torch.nn.functional.relu(torch.nn.Linear(8, 8)(a)).sum().backward()
"""


@pytest.mark.parametrize("first", ["torch", "llamacore"])
def test_torch_in_the_same_process(first: str, run: Run, expected: str):
    """Both compute, whichever comes first, and each again after the other."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    code = TORCH + GENERATE + TORCH + GENERATE if first == "torch" else GENERATE + TORCH + GENERATE + TORCH
    result = run(code)
    assert (result.returncode, result.stdout) == (0, expected * 2), result.stderr[-3000:]


LLAMA_CPP = """
import llama_cpp, sys
other = llama_cpp.Llama({path!r}, n_ctx=64, n_threads=1, verbose=False)
assert other.create_completion({prompt!r}, max_tokens=8, temperature=0)["choices"][0]["text"]
"""


@pytest.mark.parametrize("first", ["llama_cpp", "llamacore"])
def test_llama_cpp_python_in_the_same_process(first: str, run: Run, expected: str, demo_path: Path):
    """It has libraries under upstream's names; both generate, whichever comes first."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    theirs = LLAMA_CPP.format(path=str(demo_path), prompt=PROMPT)
    result = run(theirs + GENERATE + theirs if first == "llama_cpp" else GENERATE + theirs + GENERATE)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == expected * result.stdout.count("\n") and expected in result.stdout
