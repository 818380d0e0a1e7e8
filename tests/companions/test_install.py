"""Installing real sets: what is put in place, what is refused, and what happens when two do it at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import llamacore
from llamacore import __version__, companions
from llamacore.companions import _package, checks, store
from llamacore.errors import (
    DamagedSetError,
    IncompatibleSetError,
    InvalidArgumentError,
    PlatformNotPublishedError,
)

from .making import (
    BASE,
    COMMIT,
    PLATFORM,
    archive_of,
    base_set,
    entries_of,
    entry,
    facts_of,
    left_in,
    manifest,
    sha256_of,
    small_set,
    write_facts,
)
from .server import Files

INSTALL = """
import sys
from llamacore import companions
try:
    for found in companions.install(sys.argv[1], say=lambda line: print(line, flush=True), timeout=30):
        print(found.id, found.active)
except KeyboardInterrupt:
    sys.exit(130)
"""
USE = """
import sys, llamacore_sys
import llamacore as lc
print(llamacore_sys.lib_dir)
with lc.Llama(n_threads=1, n_ctx=256) as llm:
    assert llm.generate("Once upon a time", max_tokens=4, temperature=0).text
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "llamacore" in line and ".so" in line}
print(sorted(path for path in loaded if "/lib/" in path and "_native" not in path))
"""


def start(code: str, *args: object, **env: str) -> subprocess.Popen[str]:
    """Start Python code that finds this package."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(Path(llamacore.__file__).parents[1]), **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(os.environ["LLAMACORE_DATA_DIR"]).parent,
    )  # fmt: skip


def run(code: str, *args: object, **env: str) -> str:
    """Run such code to its end; returns what it printed."""
    process = start(code, *args, **env)
    out, err = process.communicate(timeout=180)
    assert 0 == process.returncode, err
    return out


@pytest.fixture
def release(tmp_path: Path, base_archive: Path) -> Path:
    """The manifest of a release with a base and an add-on of a few bytes."""
    folder = tmp_path / "release"
    folder.mkdir()
    shutil.copy(base_archive, folder)
    return manifest(folder / base_archive.name, archive_of(small_set(tmp_path), folder))


def test_a_release_is_installed_and_used(release: Path, files: Files, data: Path):
    """From its address: fetched, put in place, made active; another process then has its libraries from there only."""
    files.add(release.parent)
    (found,) = companions.install(f"{files.url}/release-manifest.json")
    assert f"{BASE}-{sha256_of(release.with_name(f'{BASE}.tar.gz'))[:12]}" == found.id
    assert data / "libs" / COMMIT / "sets" / found.id == found.path
    assert ("base", True, "") == (found.kind, found.active, found.problem)
    assert f"{found.path}/lib\n" == (data / "libs" / COMMIT / "active").read_text()
    assert {"/release-manifest.json", f"/{BASE}.tar.gz"} == {path for path, _ in files.requests}
    lib_dir, loaded = run(USE).splitlines()
    assert str(found.path / "lib") == lib_dir
    paths = json.loads(loaded.replace("'", '"'))
    assert len(paths) > 5
    assert {str(found.path / "lib")} == {os.path.dirname(path) for path in paths}


@pytest.mark.parametrize("kind", ["manifest", "file address", "archive", "folder", "relative"])
def test_every_kind_of_source(kind: str, release: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    archive = release.with_name(f"{BASE}.tar.gz")
    archive.with_name(f"{archive.name}.sha256").write_text(sha256_of(archive))
    monkeypatch.chdir(release.parent)
    source = {
        "manifest": release,
        "file address": release.as_uri(),
        "archive": str(archive),
        "folder": base_folder,
        "relative": archive.name,
    }[kind]
    (found,) = companions.install(source)
    hashed = base_folder / "companion.json" if kind == "folder" else archive
    assert f"{BASE}-{sha256_of(hashed)[:12]}" == found.id
    assert companions.verify(found.id)[0].ok
    assert companions.active().set == found


def test_add_ons_come_with_the_base(release: Path, data: Path):
    """A module that cannot be opened is installed, and says why; the rest works."""
    base, addon = companions.install(release, backends=["cuda", "cuda"])
    assert ("base", "addon", True, True) == (base.kind, addon.kind, base.active, addon.active)
    assert "libggml-cuda.so" in addon.problem
    assert "" == base.problem
    assert f"{addon.path}\n" == (data / "libs" / COMMIT / "addons" / "cuda").read_text()
    assert str(base.path / "lib") in run(USE)
    (module,) = [found for found in companions.active().addons if found.backend == "cuda"]
    assert addon.path / "lib" / "libggml-cuda.so" == module.path


def test_a_driver_that_is_not_here_is_named(tmp_path: Path):
    """A real module that needs a library of the system: what it is and how to get it are told."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    for command in (["-o", "libnowhere.so.1"], ["-o", "libggml-cuda.so", "-L.", "-l:libnowhere.so.1"]):
        source = tmp_path / "a.c"
        source.write_text("int nowhere(void) { return 1; }" if command[1] == "libnowhere.so.1" else
                          "int nowhere(void); int ggml_backend_init(void) { return nowhere(); }")  # fmt: skip
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-Wl,-soname," + command[1], "a.c", *command], cwd=tmp_path, check=True
        )
    module = (tmp_path / "libggml-cuda.so").read_bytes()
    needs = [{"library": "libnowhere.so.1", "what": "the driver", "hint": "install the driver"}]
    (addon,) = companions.install(small_set(tmp_path / "set", {"lib/libggml-cuda.so": module}, requires=needs))
    assert addon.active
    assert "libnowhere.so.1: cannot open" in addon.problem
    assert addon.problem.endswith("It needs the driver (libnowhere.so.1): install the driver")


def test_several_sets_lie_side_by_side(tmp_path: Path, release: Path):
    (first,) = companions.install(release)
    (tmp_path / "two").mkdir()
    folder = base_set(tmp_path / "two")
    (folder / "licenses").mkdir()
    (folder / "licenses" / "MORE").write_text("more")
    (second,) = companions.install(write_facts(folder))
    assert [False, True] == [found.active for found in map(store.describe, (first.path, second.path))]
    assert {first.id, second.id} == {found.id for found in companions.installed()}
    assert (first.id, True) == (companions.use(first.id).id, companions.active().set.id == first.id)


def test_a_set_can_be_installed_for_later(release: Path, data: Path):
    (found,) = companions.install(release, use=False)
    assert not found.active
    assert "package" == companions.active().chosen_by
    assert not (data / "libs" / COMMIT / "active").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "platform": ({"platform": "aarch64-darwin"}, f"aarch64-darwin, this machine is {PLATFORM}"),
    "commit": ({"llama_cpp": {"version": "0.5.0", "commit": "123456789"}}, f"123456789, .* compiled for {COMMIT}"),
    "version": ({"llama_cpp": {"version": "9.9.9", "commit": COMMIT}}, r"llama.cpp 9.9.9"),
    "llamacore": ({"version": "9.9.9"}, f"llamacore 9.9.9, this is {__version__}"),
    "glibc": ({"glibc": "9.99"}, r"glibc 9.99, this system has"),
    "schema": ({"schema": 2}, "schema 2.*upgrade"),
    "no struct": ({"gate": {"structs": {}}}, "of unknown bytes"),
    "struct": ({"gate": {"structs": {"llama_batch": 1}}}, "struct"),
    "unknown struct": ({"gate": {"structs": {"llama_nonsense": 8}}}, "struct"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_base_that_does_not_fit_is_refused(name: str, tmp_path: Path, data: Path):
    """The reason is said, nothing is in place, and what was active still is."""
    changes, reason = REFUSED[name]
    folder = base_set(tmp_path, **changes)
    if "version" in changes or "platform" in changes:
        renamed = f"llamacore-{changes.get('version', __version__)}-{changes.get('platform', PLATFORM)}"
        folder = folder.rename(folder.with_name(renamed))
    with pytest.raises(IncompatibleSetError, match=reason):
        companions.install(folder)
    assert [] == left_in(data)


def test_an_add_on_for_another_llama_cpp_is_refused(tmp_path: Path, data: Path):
    folder = small_set(tmp_path, llama_cpp={"version": "0.5.0", "commit": "123456789"})
    with pytest.raises(IncompatibleSetError, match="123456789"):
        companions.install(archive_of(folder, tmp_path / "packed"))
    assert [] == left_in(data)


def test_an_add_on_of_an_unknown_back_end_is_refused(tmp_path: Path, data: Path):
    with pytest.raises(IncompatibleSetError, match="blas, cuda, vulkan"):
        companions.install(small_set(tmp_path, backend="metal"))
    assert [] == left_in(data)


def test_a_wrong_struct_size_names_both(tmp_path: Path):
    sizes = dict(_package.struct_sizes())
    sizes["llama_batch"] += 8
    with pytest.raises(IncompatibleSetError, match=rf"llama_batch of {sizes['llama_batch']} bytes, compiled for \d+"):
        companions.install(base_set(tmp_path, gate={"structs": sizes}))


def test_another_c_library_is_refused(base_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks.platform, "libc_ver", lambda: ("", ""))
    with pytest.raises(IncompatibleSetError, match="GNU C library"):
        companions.install(base_folder)
    assert [] == left_in(data)


def test_a_base_that_does_not_load_is_refused(tmp_path: Path, data: Path, release: Path):
    """Sound by its hashes, but one library is cut off: it is tried in another process first."""
    (good,) = companions.install(release)
    before = left_in(data)
    folder = base_set(tmp_path / "bad")
    library = next((folder / "lib").glob("*ggml-base*"))
    library.write_bytes(library.read_bytes()[:5000])
    with pytest.raises(IncompatibleSetError, match=r"tried and (cannot be loaded: .*ggml-base|died of SIG)"):
        companions.install(write_facts(folder))
    assert before == left_in(data)
    assert companions.active().set == good


def test_a_base_whose_library_is_no_library_is_refused(tmp_path: Path, data: Path):
    folder = base_set(tmp_path)
    next((folder / "lib").glob("*shim*")).write_bytes(b"no library at all")
    with pytest.raises(IncompatibleSetError, match="tried and cannot be loaded"):
        companions.install(write_facts(folder))
    assert [] == left_in(data)


def test_a_release_without_this_platform_lists_what_it_has(release: Path, data: Path):
    content = json.loads(release.read_text())
    content["platforms"] = {"aarch64-darwin": content["platforms"][PLATFORM], "x86_64-windows": {}}
    release.write_text(json.dumps(content))
    with pytest.raises(PlatformNotPublishedError, match="it has some for aarch64-darwin"):
        companions.install(release)
    with pytest.raises(PlatformNotPublishedError, match="riscv64-linux"):
        companions.install(release, platform="riscv64-linux", use=False)
    with pytest.raises(InvalidArgumentError, match="cannot be used on this machine"):
        companions.install(release, platform="aarch64-darwin")
    with pytest.raises(IncompatibleSetError, match=f"is for {PLATFORM}, not for aarch64-darwin"):
        companions.install(release, platform="aarch64-darwin", use=False)
    assert [] == left_in(data)


def test_a_set_for_another_platform_is_kept_but_not_used(tmp_path: Path, base_folder: Path):
    folder = shutil.copytree(base_folder, tmp_path / f"llamacore-{__version__}-aarch64-darwin")
    archive = archive_of(write_facts(folder, **{**facts_of_base(folder), "platform": "aarch64-darwin"}), tmp_path / "p")
    (found,) = companions.install(archive, platform="aarch64-darwin", use=False)
    assert "aarch64-darwin" in found.problem
    with pytest.raises(IncompatibleSetError, match="aarch64-darwin"):
        companions.use(found.id)


def facts_of_base(folder: Path) -> dict[str, Any]:
    """The description of the base set whose files a folder has, whatever it is called."""
    facts = json.loads((folder / "companion.json").read_text())
    return {**facts_of(folder), **facts}


def test_a_release_for_another_llama_cpp_is_refused_before_it_is_fetched(release: Path, files: Files):
    content = json.loads(release.read_text())
    content["platforms"][PLATFORM]["llama_cpp"]["commit"] = "123456789"
    release.write_text(json.dumps(content))
    files.add(release.parent)
    with pytest.raises(IncompatibleSetError, match="123456789"):
        companions.install(f"{files.url}/release-manifest.json")
    assert 1 == len(files.requests)


def test_an_add_on_that_the_release_lacks(release: Path, data: Path):
    with pytest.raises(PlatformNotPublishedError, match=r"no add-on 'vulkan'.*it has cuda"):
        companions.install(release, backends=["cuda", "vulkan"])
    assert [] == left_in(data)


def test_one_bad_archive_of_a_release_leaves_nothing(release: Path, data: Path):
    """The base is sound and the add-on is not: neither is installed."""
    archive = release.with_name(f"{BASE}-cuda.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-1] + b"\1")
    with pytest.raises(DamagedSetError, match="SHA-256"):
        companions.install(release, backends=["cuda"])
    assert [] == left_in(data)


def test_an_archive_is_what_the_release_says(release: Path, tmp_path: Path, data: Path):
    made = manifest(release.with_name(f"{BASE}-cuda.tar.gz"), release.with_name(f"{BASE}-cuda.tar.gz"))
    with pytest.raises(DamagedSetError, match="not the base"):
        companions.install(made)
    assert [] == left_in(data)


def test_a_hash_that_is_given_wins(release: Path, data: Path):
    """Over that of the manifest, for an archive and for a folder, in any case."""
    archive = release.with_name(f"{BASE}.tar.gz")
    for source in (release, archive):
        with pytest.raises(DamagedSetError, match="it has to be 0000"):
            companions.install(source, sha256="0" * 64)
    with pytest.raises(DamagedSetError, match="no SHA-256"):
        companions.install(archive, sha256="short")
    assert [] == left_in(data)
    content = json.loads(release.read_text())
    content["platforms"][PLATFORM]["companions_sha256"] = "0" * 64
    release.write_text(json.dumps(content))
    (found,) = companions.install(release, sha256=sha256_of(archive).upper(), use=False)
    assert companions.verify(found.id)[0].ok


def test_a_folder_can_be_pinned(base_folder: Path, data: Path):
    with pytest.raises(DamagedSetError, match="it has to be"):
        companions.install(base_folder, sha256="0" * 64)
    assert [] == left_in(data)
    companions.install(base_folder, sha256=sha256_of(base_folder / "companion.json"), use=False)


def test_arguments_that_do_not_go_together(release: Path, data: Path):
    with pytest.raises(InvalidArgumentError, match="release manifest"):
        companions.install(release.with_name(f"{BASE}.tar.gz"), backends=["cuda"])
    with pytest.raises(InvalidArgumentError, match="several archives"):
        companions.install(release, backends=["cuda"], sha256="0" * 64)
    with pytest.raises(TypeError):
        companions.install(release, backend="cuda")
    assert not data.exists()


def test_a_damaged_set_is_replaced(release: Path):
    (found,) = companions.install(release)
    library = next((found.path / "lib").glob("*shim*"))
    library.write_bytes(b"damaged")
    (found.path / "lib" / "more.so").write_bytes(b"")
    assert not companions.verify(found.id)[0].ok
    assert (found,) == companions.install(release)
    assert companions.verify(found.id)[0].ok
    shutil.rmtree(found.path)
    assert (found,) == companions.install(release)


def test_it_repairs_what_does_not_load(release: Path):
    """In a process that finds broken libraries from its start."""
    (found,) = companions.install(release)
    next((found.path / "lib").glob("*shim*")).write_bytes(b"damaged")
    assert f"{found.id} True" in run(INSTALL, release)
    assert str(found.path) in run(USE)
    shutil.rmtree(found.path)
    assert f"{found.id} True" in run(INSTALL, release)


def test_nothing_native_is_imported(release: Path):
    code = """
import sys
from llamacore import companions
companions.installed(), companions.active()
companions.install(sys.argv[1])
assert not {"numpy", "cffi", "_cffi_backend", "llamacore_sys._native", "typer", "jinja2"} & set(sys.modules)
"""
    run(code, release)


def test_two_at_once(release: Path, data: Path, files: Files):
    """One waits for the other and says so; the second finds what it wants."""
    files.add(release.parent)
    files.stall_after[f"/{BASE}.tar.gz"] = 1000
    url = f"{files.url}/release-manifest.json"
    first = start(INSTALL, url)
    assert files.stalled.wait(60)
    second = start(INSTALL, url)
    assert second.stdout is not None
    assert f"process {first.pid}" in second.stdout.readline()
    files.stall_after.clear()
    files.go_on.set()
    ended = [process.communicate(timeout=120) for process in (first, second)]
    assert [0, 0] == [first.returncode, second.returncode], ended
    assert 1 == len({out.splitlines()[-1] for out, _ in ended})
    assert 1 == len(files.asked_for(f"/{BASE}.tar.gz"))
    assert companions.verify()[0].ok
    assert {"active", "lock", "sets", "downloads"} >= {path.name for path in (data / "libs" / COMMIT).iterdir()}


def test_an_interrupt_leaves_nothing_but_the_part(release: Path, data: Path, files: Files):
    """Ctrl-C while the server is silent; another call goes on where it stopped."""
    files.add(release.parent)
    files.stall_after[f"/{BASE}.tar.gz"] = 500_000
    process = start(INSTALL, f"{files.url}/release-manifest.json")
    assert files.stalled.wait(60)
    downloads = data / "libs" / COMMIT / "downloads"
    while not any(part.stat().st_size == 500_000 for part in downloads.glob("*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (130, "") == (process.returncode, err)
    assert ["json", "part"] == sorted(path.rpartition(".")[2] for path in left_in(data))
    files.stall_after.clear()
    (found,) = companions.install(f"{files.url}/release-manifest.json")
    assert "bytes=500000-" == files.asked_for(f"/{BASE}.tar.gz")[-1]
    assert companions.verify(found.id)[0].ok


def test_a_killed_install_is_swept(release: Path, data: Path):
    home = data / "libs" / COMMIT
    leftover = home / ".aside-killed" / "0" / "lib"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"x")
    companions.install(release, use=False)
    assert not leftover.exists()
    assert {"lock", "sets"} == {path.name for path in home.iterdir()}


def test_a_folder_that_cannot_be_written(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LLAMACORE_DATA_DIR", str(tmp_path / "file" / "x"))
    with pytest.raises(OSError, match="file"):
        companions.install(release)


def test_the_archive_of_another_order_of_files(tmp_path: Path, base_folder: Path):
    """Only that the description comes first counts."""
    top, facts, *others = entries_of(base_folder)
    archive = archive_of(base_folder, tmp_path / "p", lambda entries: [facts, *reversed(others), top])
    (found,) = companions.install(archive, use=False)
    assert companions.verify(found.id)[0].ok
    assert entry("x")[0].isreg()
