"""`llamacore libs` as a user runs it: in a process of its own, with a data folder of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from companions.making import BASE, COMMIT, LIBRARIES, archive_of, base_set, left_in, manifest, sha256_of, small_set
from companions.server import Files, serving

import llamacore

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "libraries.md"


@pytest.fixture(scope="module")
def base_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real base set, packed."""
    folder = base_set(tmp_path_factory.mktemp("base"))
    return archive_of(folder, tmp_path_factory.mktemp("packed"))


@pytest.fixture
def release(tmp_path: Path, base_archive: Path) -> Path:
    """The manifest of a release with a base and an add-on that cannot be opened; the current folder of commands."""
    folder = tmp_path / "release"
    folder.mkdir()
    for path in base_archive.parent.iterdir():
        shutil.copy(path, folder)
    return manifest(folder / base_archive.name, archive_of(small_set(tmp_path), folder))


@pytest.fixture
def files(release: Path) -> Iterator[Files]:
    """A server of that release."""
    with serving(Files()) as served:
        served.add(release.parent)
        yield served


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of the commands."""
    folder = tmp_path / "data"
    monkeypatch.setenv("LLAMACORE_DATA_DIR", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", str(Path(llamacore.__file__).parents[1]))
    monkeypatch.delenv("LLAMACORE_LIB_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def start(*args: object, **kwargs):
    """Start the command."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "llamacore.cli.app", *map(str, args)], **{**pipes, **kwargs})


def run(*args: object, **env: str) -> tuple[int, str, str]:
    """Run the command to its end and return (exit code, stdout, stderr)."""
    process = start(*args, env={**os.environ, **env})
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


def ok(*args: object, **env: str) -> str:
    """Run a command that succeeds and says nothing on stderr; returns what it printed."""
    code, out, err = run(*args, **env)
    assert (0, "") == (code, err)
    return out


def test_from_an_archive_to_text(release: Path, data: Path):
    """What an archive brings is what `llamacore generate` runs on."""
    out = ok("libs", "install", release.with_name(f"{BASE}.tar.gz"))
    name = f"{BASE}-{sha256_of(release.with_name(f'{BASE}.tar.gz'))[:12]}"
    assert f"{name}: installed, active\n" == out
    folder = data / "libs" / COMMIT / "sets" / name / "lib"
    code = "import llamacore_sys; print(llamacore_sys.lib_dir)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{folder}\n" == asked.stdout
    with_set = run("generate", "-t", 1, "--temp", 0, "-n", 12, "-q", "Tell me a happy story.")
    assert (0, "") == (with_set[0], with_set[2])
    ok("libs", "use", "bundled")
    assert with_set == run("generate", "-t", 1, "--temp", 0, "-n", 12, "-q", "Tell me a happy story.")
    library = next(folder.glob("*shim*"))
    library.write_bytes(b"broken")
    ok("libs", "use", "bundled")
    (data / "libs" / COMMIT / "active").write_text(f"{folder}\n")
    code, _, err = run("generate", "-q", "hi")
    assert (1, 1) == (code, len(err.splitlines())), "the broken set is what is loaded"
    assert str(folder) in err


def test_every_command_works_when_the_libraries_do_not(release: Path, data: Path):
    """And those that need them say what is wrong, in one line."""
    ok("libs", "install", release)
    (found,) = (data / "libs" / COMMIT / "sets").iterdir()
    for path in (found / "lib").iterdir():
        path.write_bytes(b"broken")
    assert "active" in ok("libs", "list")
    code, out, err = run("libs", "verify")
    assert (1, "") == (code, err)
    assert len(list((found / "lib").iterdir())) == out.count("changed: lib/")
    for command in (["generate", "--temp", "0", "hi"], ["capture", "x"], ["steer", "show", "x"], ["--version"]):
        code, out, err = run(*command)
        assert (1, "", 1) == (code, out, len(err.splitlines())), command
        assert str(found) in err
    assert "libs" in ok("--help")
    code, _, err = run("libs", "use", found.name)
    assert 1 == code
    assert "install it again" in err
    assert "installed, active" in ok("libs", "install", release)
    ok("generate", "-n", "2", "-q", "hi")
    for path in (found / "lib").iterdir():
        path.write_bytes(b"broken")
    assert "active: the bundled libraries\n" == ok("libs", "use", "bundled")
    ok("generate", "-n", "2", "-q", "hi")


def test_list(release: Path):
    """In words and as JSON, before and after."""
    before = ok("libs", "list").splitlines()
    assert f"in use: {LIBRARIES} (the bundled libraries)" == before[0]
    assert re.fullmatch(r"  bundled  \d+\.\d MB  active", before[-1])
    code, out, _ = run("libs", "install", release, "--backend", "cuda")
    assert 0 == code
    assert "its back end does nothing here: " in out
    listed = ok("libs", "list")
    assert (1, 1, 1) == tuple(listed.count(end) for end in (" MB  active\n", " kB  active\n", " MB  -\n"))
    found = json.loads(ok("libs", "list", "--json"))
    assert {"active", "sets"} == set(found)
    assert ["base", "addon"] == [item["kind"] for item in found["sets"]]
    assert found["sets"][0] == found["active"]["set"]
    assert ["cuda"] == [item["backend"] for item in found["active"]["addons"] if item["backend"] == "cuda"]


def test_json_of_every_command(release: Path):
    installed = json.loads(ok("libs", "install", release, "--json"))["sets"]
    name = installed[0]["id"]
    assert (True, "", ["cpu"]) == (installed[0]["active"], installed[0]["problem"], installed[0]["backends"][:1])
    assert "null\n" == ok("libs", "use", "bundled", "--json")
    assert installed[0] == json.loads(ok("libs", "use", name, "--json"))
    verified = json.loads(ok("libs", "verify", "--json"))
    assert [{"id": name, "changed": [], "missing": [], "additional": [], "ok": True}] == verified
    assert name == json.loads(ok("libs", "remove", name, "--force", "--json"))["id"]


def test_the_environment_is_told(release: Path):
    """`use` and `install` say that the variable wins."""
    for command in (["install", release], ["use", "bundled"]):
        code, _, err = run("libs", *command, LLAMACORE_LIB_DIR=str(LIBRARIES))
        assert 0 == code
        assert f"LLAMACORE_LIB_DIR={LIBRARIES} is set and wins" in err
    assert f"in use: {LIBRARIES} (LLAMACORE_LIB_DIR={LIBRARIES})\n" in ok(
        "libs", "list", LLAMACORE_LIB_DIR=str(LIBRARIES)
    )


def test_errors_are_one_line(release: Path, data: Path):
    archive = release.with_name(f"{BASE}.tar.gz")
    for args, reason in (
        (["install", archive, "--sha256", "0" * 64], "has to be 0000"),
        (["install", release, "--backend", "metal"], "no add-on 'metal'"),
        (["install", release, "--platform", "aarch64-linux", "--no-use"], "no companion set for aarch64-linux"),
        (["install", "nothing.tar.gz"], "there is no nothing.tar.gz"),
        (["use", "x"], "there is no set 'x'"),
        (["verify", "x"], "there is no set 'x'"),
        (["remove", "x"], "there is no set 'x'"),
    ):
        code, out, err = run("libs", *args)
        assert (1, "", 1) == (code, out, len(err.splitlines())), args
        assert reason in err
    assert [] == left_in(data)
    assert 2 == run("libs", "install")[0]
    assert 2 == run("libs", "install", "a", "--no-such-option")[0]


def test_the_active_set_is_removed_only_by_force(release: Path, data: Path):
    ok("libs", "install", release)
    code, _, err = run("libs", "remove", BASE)
    assert 1 == code
    assert "is the active set" in err
    assert "running processes keep" in ok("libs", "remove", BASE, "--force")
    assert [] == left_in(data)


def test_progress_is_for_terminals(release: Path, files: Files):
    """On one it is shown on stderr, elsewhere nothing is."""
    assert "installed, active" in ok("libs", "install", f"{files.url}/release-manifest.json")
    ok("libs", "remove", BASE, "--force")
    master, slave = pty.openpty()
    process = start("libs", "install", f"{files.url}/release-manifest.json", stderr=slave)
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:
        pass  # the other end is closed
    os.close(master)
    assert 0 == process.returncode
    assert b"(100 %)" in shown
    assert b"%" not in out


def test_interrupt(files: Files, data: Path):
    """Ctrl-C while the server is silent: exit code 130, no traceback, and only the part that came stays."""
    files.stall_after[f"/{BASE}.tar.gz"] = 200_000
    process = start("libs", "install", f"{files.url}/release-manifest.json")
    assert files.stalled.wait(60)
    while not any(part.stat().st_size == 200_000 for part in data.rglob("*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (130, b"", b"") == (process.returncode, out, err)
    assert {"downloads"} == {Path(path).parent.name for path in left_in(data)}


def test_the_guide_is_so(release: Path, files: Files, monkeypatch: pytest.MonkeyPatch, data: Path):
    """Every command of docs/libraries.md runs as it is written, with a release on this machine."""
    monkeypatch.chdir(release.parent)
    with_name = release.with_name(f"{BASE}-companions.tar.gz")
    release.with_name(f"{BASE}.tar.gz").rename(with_name)
    with_name.with_name(f"{with_name.name}.sha256").write_text(sha256_of(with_name))
    addon = release.with_name(f"{BASE}-cuda.tar.gz")
    files.add(manifest(with_name, addon).parent)
    subprocess.run(["tar", "xzf", with_name.name, "--one-top-level=unpacked"], check=True)
    page = GUIDE.read_text(encoding="utf-8")
    commands = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert len(commands) >= 10
    here = {
        "https://example.org/v0.1.0": files.url,
        "llamacore-0.1.0-x86_64-linux": BASE,
        "1ce8068ac6c6": sha256_of(with_name)[:12],
    }
    for line in commands:
        for written, real in here.items():
            line = line.replace(written, real)
        program, group, *args = line.split()
        assert ("llamacore", "libs") == (program, group)
        code, _, err = run("libs", *args)
        assert 0 == code, f"{line}: {err}"
    help_text = ok("libs", "install", "--help", COLUMNS="300", NO_COLOR="1", TERM="dumb")
    options = set(re.findall(r"--[a-z][\w-]+", help_text)) - {"--help"}
    assert options == {option for option in options if f"| `{option}" in page}
