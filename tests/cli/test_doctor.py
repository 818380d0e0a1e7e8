"""`llamacore doctor` as a user runs it, on a sound installation and on broken ones."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llamacore
import llamacore_sys
from llamacore.doctor.cures import cure_of
from llamacore.doctor.machine import features_in_use, look_at_machine
from llamacore.hub import demo_model_path

Doctor = Callable[..., subprocess.CompletedProcess[str]]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the file names are those of Linux")


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """A function that runs the command with arguments, and with variables added to the environment."""

    def run(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("LLAMACORE_", "GGML_"))}
        command = [sys.executable, "-W", "error", "-m", "llamacore.cli.app", "doctor", "-t", "1", *map(str, args)]
        return subprocess.run(
            command, env={**clean, "LLAMACORE_DATA_DIR": str(tmp_path / "data"), **environment},
            cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return run


def checks_of(result: subprocess.CompletedProcess[str], name: str) -> list[dict[str, Any]]:
    """The checks of a name in the JSON output."""
    return [check for check in json.loads(result.stdout)["checks"] if check["name"] == name]


def failures(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What failed, in the JSON output."""
    return [check["summary"] for check in json.loads(result.stdout)["checks"] if check["status"] == "failed"]


def test_a_sound_installation(doctor: Doctor):
    """Nothing is wrong; the report has what was found and what was computed."""
    result = doctor("--json")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["schema"], report["ok"]) == (1, True)
    assert {check["status"] for check in report["checks"]} <= {"ok", "warning"}
    assert report["libraries"]["commit"] == report["native"]["commit"] == llamacore_sys.UPSTREAM.commit
    assert report["libraries"]["folder"] == llamacore_sys.lib_dir
    assert all(file["size"] and not file["problem"] for file in report["libraries"]["files"])
    assert report["native"]["structs"]["llama_batch"] == llamacore_sys.ffi.sizeof("struct llama_batch")
    assert report["native"]["backends"][-1]["name"] == "cpu"
    cpu = next(device for device in report["native"]["devices"] if device["type"] == "cpu")
    assert 0 < cpu["memory_free"] <= cpu["memory_total"]
    assert report["native"]["cpu_features"]
    test = report["selftests"][0]
    assert test["device"] == "CPU" and test["model"] == str(demo_model_path())
    assert test["text"].strip() and test["predicted_per_second"] > 0
    assert 7 < test["perplexity"] < 9.5
    assert test["problem"] == ""


def test_for_people(doctor: Doctor):
    """A line for each check, aligned, without colours where nobody sees them, and a last line that says it all."""
    result = doctor()
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    assert "\x1b" not in result.stdout
    names = ["package", "libraries", "gate", "back end", "device", "processor", "self-test"]
    assert [name for name in names if any(re.match(rf"ok {{6}}{name}  ", line) for line in lines)] == names
    assert re.fullmatch("everything works|it works, with [0-9]+ warnings?", last)


def test_another_model(doctor: Doctor, tiny_path: Callable[..., Path]):
    """A model of random weights computes too: nobody knows what it should say."""
    result = doctor("--json", "-m", tiny_path())
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout)["selftests"][0]["model"] == str(tiny_path())


@pytest.mark.parametrize("kind", ["missing", "garbage", "folder"])
def test_a_model_that_cannot_be_loaded(kind: str, doctor: Doctor, tmp_path: Path):
    path = tmp_path / "model.gguf"
    if kind == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif kind == "folder":
        path.mkdir()
    result = doctor("--json", "--model", path)
    assert result.returncode == 1 and result.stderr == ""
    (failure,) = failures(result)
    assert failure.startswith("CPU, model.gguf: ") and str(path) in failure
    assert json.loads(result.stdout)["native"]["devices"], "the rest is told all the same"


def test_a_folder_that_is_not_there(doctor: Doctor, tmp_path: Path):
    result = doctor(LLAMACORE_LIB_DIR=str(tmp_path / "gone"))
    assert result.returncode == 1
    assert f"failed  libraries  LLAMACORE_LIB_DIR={tmp_path / 'gone'} is no folder" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 failed, 0 warnings"
    report = json.loads(doctor("--json", LLAMACORE_LIB_DIR=str(tmp_path / "gone")).stdout)
    assert (report["ok"], report["libraries"], report["native"], report["selftests"]) == (False, None, None, [])


def test_an_empty_folder(doctor: Doctor, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    result = doctor("--json", LLAMACORE_LIB_DIR=str(tmp_path / "empty"))
    assert result.returncode == 1
    (check,) = checks_of(result, "libraries")
    assert "is missing" in check["summary"] and check["hint"] == "unset LLAMACORE_LIB_DIR, or correct it"


@linux
def test_a_library_that_was_cut_off(doctor: Doctor, lib_copy: Path):
    path = lib_copy / "libllamacore-llama.so.0"
    path.write_bytes(path.read_bytes()[:-100_000])
    result = doctor("--json", LLAMACORE_LIB_DIR=str(lib_copy))
    assert result.returncode == 1
    (failure,) = failures(result)
    assert f"{path} is cut off" in failure


@linux
def test_libraries_of_another_commit(doctor: Doctor, lib_copy: Path):
    commit = llamacore_sys.UPSTREAM.commit.encode()
    for path in lib_copy.iterdir():
        path.write_bytes(path.read_bytes().replace(commit + b"\0", b"000000000\0"))
    result = doctor("--json", LLAMACORE_LIB_DIR=str(lib_copy))
    assert result.returncode == 1
    (check,) = checks_of(result, "gate")
    assert f"commit 000000000, compiled for {commit.decode()}" in check["summary"]
    assert check["hint"].startswith("reinstall llamacore")


def make_set(top: Path) -> Path:
    """A folder as a base set has it, with a copy of the libraries in use; returns it."""
    shutil.copytree(llamacore_sys.lib_dir, top / "lib")
    files = {f"lib/{path.name}": path.read_bytes() for path in (top / "lib").iterdir()}
    facts = {
        "schema": 1, "kind": "base", "name": "llamacore", "version": "0.1.0", "platform": look_at_machine().platform,
        "backends": ["cpu", "rpc"], "llama_cpp": dict(zip(("version", "commit"), llamacore_sys.UPSTREAM, strict=True)),
        "gate": {"structs": {}}, "glibc": "2.34", "libraries": [], "modules": [], "requires": [],
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
        },
    }  # fmt: skip
    (top / "companion.json").write_text(json.dumps(facts))
    return top


@linux
def test_a_set_that_is_not_what_was_released(doctor: Doctor, tmp_path: Path):
    """A byte of a text in a library has changed, and it still loads."""
    top = make_set(tmp_path / "set")
    result = doctor("--json", LLAMACORE_LIB_DIR=str(top))
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout)["libraries"]["folder"] == str(top / "lib")
    assert checks_of(result, "integrity")[0]["summary"] == f"all files are as in {top / 'companion.json'}"
    path = top / "lib" / "libllamacore-common.so.0"
    old = b"failed to open"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, b"Failed to open", 1))
    result = doctor("--json", LLAMACORE_LIB_DIR=str(top))
    assert result.returncode == 1
    assert failures(result) == [f"not as in {top / 'companion.json'}: lib/libllamacore-common.so.0"]


@linux
def test_the_active_set_is_named(doctor: Doctor, tmp_path: Path):
    home = tmp_path / "data" / "libs" / llamacore_sys.UPSTREAM.commit
    top = make_set(home / "sets" / f"llamacore-0.1.0-{look_at_machine().platform}-0123456789ab")
    (home / "active").write_text(f"{top / 'lib'}\n")
    result = doctor("--json")
    assert result.returncode == 0, result.stdout
    report = json.loads(result.stdout)
    assert report["libraries"]["chosen_by"] == "companion set"
    assert [(one["id"], one["active"]) for one in report["sets"]] == [(top.name, True)]
    assert checks_of(result, "companion set") == [
        {"name": "companion set", "status": "ok", "summary": top.name, "hint": ""}
    ]
    shutil.rmtree(top)
    result = doctor("--json")
    assert result.returncode == 1
    (failure,) = failures(result)
    assert f"the companion set named in {home / 'active'} is gone" in failure


@linux
def test_an_installed_package_is_compared_with_its_record(doctor: Doctor, tmp_path: Path):
    site = tmp_path / "site"
    shutil.copytree(Path(llamacore_sys.__file__).parent, site / "llamacore_sys", ignore=shutil.ignore_patterns("shim"))
    (site / "llamacore").symlink_to(Path(llamacore.__file__).parent)
    record = []
    for path in sorted((site / "llamacore_sys" / "lib").iterdir()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        record.append(f"llamacore_sys/lib/{path.name},sha256={digest},{path.stat().st_size}")
    (site / "llamacore-0.1.0.dist-info").mkdir()
    (site / "llamacore-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: llamacore\nVersion: 0.1.0\n"
    )
    (site / "llamacore-0.1.0.dist-info" / "RECORD").write_text("\n".join(record) + "\n")
    result = doctor("--json", PYTHONPATH=str(site))
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout)["libraries"]["folder"] == str(site / "llamacore_sys" / "lib")
    assert checks_of(result, "integrity")[0]["summary"] == "all files are as in the record of the installed package"
    path = site / "llamacore_sys" / "lib" / "libllamacore-common.so.0"
    path.write_bytes(path.read_bytes().replace(b"failed to open", b"Failed to open", 1))
    result = doctor("--json", PYTHONPATH=str(site))
    assert result.returncode == 1
    assert failures(result) == ["not as in the record of the installed package: libllamacore-common.so.0"]


@linux
@pytest.mark.parametrize("content", [b"garbage", b"\x7fELF\x02\x01" + b"\0" * 200])
def test_a_broken_add_on_is_a_warning(content: bytes, doctor: Doctor, lib_copy: Path):
    """The rest works: the exit code is 0."""
    module = lib_copy / "libggml-cuda.so"
    module.write_bytes(content)
    result = doctor("--json", LLAMACORE_LIB_DIR=str(lib_copy))
    assert result.returncode == 0, result.stdout
    (check,) = [check for check in checks_of(result, "back end") if check["status"] == "warning"]
    assert check["summary"].startswith("cuda: not loaded (beside the libraries): ")
    assert str(module) in check["summary"] and check["hint"]
    shown = doctor(LLAMACORE_LIB_DIR=str(lib_copy)).stdout
    assert re.search(r"^warning back end   cuda: not loaded .*\n {19}-> ", shown, re.MULTILINE), shown
    assert shown.splitlines()[-1] == "it works, with 1 warning"


@linux
def test_a_back_end_that_crashes_is_named(doctor: Doctor, lib_copy: Path):
    """Its process crashes; this one goes on and says what to remove."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    module = lib_copy / "libggml-vulkan.so"
    source = "void * ggml_backend_init(void) { *(volatile int *) 8 = 1; return 0; }"
    command = ["cc", "-shared", "-fPIC", "-w", "-o", str(module), "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True)
    result = doctor("--json", LLAMACORE_LIB_DIR=str(lib_copy))
    assert result.returncode == 1
    (check,) = checks_of(result, "gate")
    assert check["summary"].startswith(f"it crashed (SIGSEGV) while opening the back end vulkan ({module})")
    assert "remove this back end" in check["hint"]


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("libcuda.so.1: cannot open shared object file: No such file or directory", "NVIDIA driver"),
        ("libcublas.so.13: cannot open shared object file", "pip install nvidia-cublas"),
        ("libcudart.so.12: cannot open shared object file", "nvidia-cuda-runtime-cu12"),
        ("libvulkan.so.1: cannot open shared object file", "Vulkan loader"),
        ("/lib/libc.so.6: version `GLIBC_2.38' not found (required by x)", "newer system"),
        ("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", "nvidia-smi"),
        ("it is made for llama.cpp 123, this package for 456", "of this release"),
        ("it is made for aarch64-linux, this is x86_64-linux", "for this platform"),
        ("anything else", "install it again"),
        ("", ""),
    ],
)
def test_reasons_have_cures(reason: str, cure: str):
    assert cure in cure_of(reason) if cure else not cure_of(reason)


def test_an_add_on_says_itself_what_it_needs(tmp_path: Path):
    path = tmp_path / "lib" / "libggml-cuda.so"
    needs = [{"library": "libcublas.so.13", "what": "cuBLAS", "hint": "pip install the-right-one"}]
    (tmp_path / "companion.json").write_text(json.dumps({"requires": needs}))
    assert cure_of("libcublas.so.13: cannot open shared object file", str(path)) == "pip install the-right-one"
    (tmp_path / "companion.json").write_text("[]")
    assert cure_of("libcublas.so.13: cannot open", str(path)) == "pip install nvidia-cublas"


def test_features_are_read():
    line = "CUDA : ARCHS = 900 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX512 = 0 | REPACK = 1 | "
    assert features_in_use(line) == ("SSE3", "REPACK")
    assert features_in_use("") == ()
