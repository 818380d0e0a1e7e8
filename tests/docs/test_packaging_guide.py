"""Every command of docs/packaging.md runs, in order, in one shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import llamacore as lc

from .conftest import ROOT

GUIDE = ROOT / "docs" / "packaging.md"
TEXT = GUIDE.read_text(encoding="utf-8")
HERE = "x86_64-linux"
NEEDED = ("bash", "cc", "cmake", "git", "pkg-config", "sha256sum", "tar")

# One release as a folder.
GH = r"""#!/bin/sh -e
case "$2" in
view)
    test -d HUB || { echo release not found >&2; exit 1; }
    cd HUB
    for file in $(ls); do
        echo "{\"name\": \"$file\", \"digest\": \"sha256:$(sha256sum < $file | cut -c1-64)\"}"
    done | paste -s -d , | sed 's/.*/{"assets": [&]}/; s/^$/{"assets": []}/' ;;
create) mkdir HUB ;;
download) cp "HUB/$5" "$7/" ;;
upload) cp "$4" HUB/ ;;
esac
"""


def fenced(language: str) -> list[str]:
    """The blocks of a language, those inside of lists too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", TEXT, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """Programs that come first on PATH: this Python, the installed command, and a gh that keeps files."""
    folder = tmp_path / "bin"
    program(folder, "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    program(folder, "llamacore", f'#!/bin/sh\nexec "{sys.executable}" -m llamacore.cli.app "$@"\n')
    program(folder, "gh", GH.replace("HUB", str(tmp_path / "hub")))
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout, a git repository with a remote."""
    made = tmp_path / "checkout"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so*", "_build.py", ".install-*", "build", "*.egg-info")
    for name in ("build_support", "addons", "llamacore_sys", "examples"):
        shutil.copytree(ROOT / name, made / name, ignore=unwanted)
    for name in ("build_lib.py", "pyproject.toml", "LICENSE", "CHANGELOG.md", ".gitignore", "llamacore/__init__.py"):
        (made / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, made / name)
    subprocess.run(
        "git init -q . && git init -q --bare ../remote && git remote add origin ../remote && git add -A"
        " && git -c user.name=test -c user.email=test@example.org commit -q -m all",
        shell=True,
        cwd=made,
        check=True,
    )
    return made


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """The installed libraries, which count as portable: there is a module with the name of a variant for the CPU."""
    import llamacore_sys

    assert llamacore_sys.__file__ is not None
    folder = tmp_path / "libraries"
    shutil.copytree(Path(llamacore_sys.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["cc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-Wl,-soname,libggml-cpu-test.so"]
    subprocess.run([*command, "-o", str(folder / "lib" / "libggml-cpu-test.so")], check=True)
    return folder


def from_another_machine(dist: Path) -> str:
    """Shell code that lets the files of this machine stand for those of another."""
    other = "aarch64-linux"
    return (
        f"mkdir {dist}/{other} && cp {dist}/llamacore-*.json* {dist}/*.tar.gz* {dist}/{other}/ && cd {dist}/{other}\n"
        f"for file in *; do mv $file $(echo $file | sed s/{HERE}/{other}/); done\n"
        f"sed s/{HERE}/{other}/ ../release-manifest.json > release-manifest.json; cd ../..\n"
    )


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the page shows x86-64 Linux")
@pytest.mark.skipif(any(shutil.which(name) is None for name in NEEDED), reason=f"needs {', '.join(NEEDED)}")
def test_the_commands_run(checkout: Path, libraries: Path, bin_folder: Path, tmp_path: Path):
    """As they stand, but for compiling: the installed libraries are packaged, and what was packaged is released."""
    commands = fenced("sh")
    script = "set -eu\n" + "\n".join(commands)
    script = script.replace("build_lib.py package", f"build_lib.py package --from-dir '{libraries}'")
    for option in ("--dry-run\n", "--upload\n"):
        command = f"build_lib.py release v{lc.__version__} {option}"
        assert command in script
        script = script.replace(command, f"{command.rstrip()} --from-dir dist\n")
    last = next(line for line in script.splitlines() if "--platform" in line)
    script = script.replace(last, from_another_machine(Path("dist")) + last)
    (tmp_path / "commands.sh").write_text(script)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LLAMACORE_", "GH_", "SOURCE_DATE"))}
    done = subprocess.run(
        ["bash", str(tmp_path / "commands.sh")],
        cwd=checkout,
        env={**env, "PATH": f"{bin_folder}{os.pathsep}{env['PATH']}", "PYTHONPATH": str(Path(lc.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Once upon a time") >= 1
    assert (checkout / "dist" / "example" / "generate").exists()
    published = json.loads((tmp_path / "hub" / "release-manifest.json").read_text())
    assert published["platforms"].keys() == {HERE, "aarch64-linux"}
    assert (checkout / f"release-dry-run-v{lc.__version__}-{HERE}" / "release-manifest.json").exists()


def test_the_page_is_of_this_version():
    assert set(re.findall(r"\bllamacore-(\d+\.\d+\.\d+)-", TEXT)) == {lc.__version__}
    assert set(re.findall(r"\bv(\d+\.\d+\.\d+)\b", TEXT)) == {lc.__version__}


def test_the_manifest_that_is_shown_is_valid():
    (shown,) = fenced("json")
    rules = json.loads((ROOT / "docs" / "schemas" / "release-manifest.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(rules).validate(json.loads(shown))


@pytest.mark.parametrize("command", ["package", "release"])
def test_every_option_is_in_its_table(command: str):
    done = subprocess.run(
        [sys.executable, str(ROOT / "build_lib.py"), command, "--help"], capture_output=True, text=True, check=True
    )
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", done.stdout)) - {"--help"}
    table = re.search(rf"\| Option of `{command}` \|.*?\n\n", TEXT, re.DOTALL)
    assert table is not None
    assert set(re.findall(r"--[a-z][a-z-]*", table[0])) == options
