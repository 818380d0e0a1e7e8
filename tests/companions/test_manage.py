"""Choosing, listing, verifying and removing what is installed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llamacore
from llamacore import companions
from llamacore.errors import CompanionError, DamagedSetError, IncompatibleSetError, InvalidArgumentError

from .making import COMMIT, LIBRARIES, base_set, left_in, small_set, write_facts

HOLD = """
import sys
import llamacore as lc
with lc.Llama(n_threads=1, n_ctx=256) as llm:
    print("ready", flush=True)
    sys.stdin.readline()
    print(llm.generate("Once upon a time", max_tokens=4, temperature=0).text)
"""


@pytest.fixture
def base(base_folder: Path) -> companions.InstalledSet:
    """A base set that is installed and active."""
    return companions.install(base_folder)[0]


@pytest.fixture
def addon(tmp_path: Path) -> companions.InstalledSet:
    """An add-on that is installed, and not active."""
    return companions.install(small_set(tmp_path), use=False)[0]


def test_nothing_is_installed(data: Path):
    assert () == companions.installed()
    assert () == companions.verify()
    now = companions.active()
    assert LIBRARIES == now.bundled
    assert (LIBRARIES, "package", None, None, "") == (now.folder, now.chosen_by, now.set, now.environment, now.problem)
    assert not data.exists(), "asking makes no folders"
    with pytest.raises(InvalidArgumentError, match="no set is installed"):
        companions.use("x")


def test_what_is_told_of_a_set(base: companions.InstalledSet, addon: companions.InstalledSet):
    assert (base, addon) == companions.installed()
    assert ("base", "addon", ("cuda",)) == (base.kind, addon.kind, addon.backends)
    assert base.size == sum(path.stat().st_size for path in base.path.rglob("*") if path.is_file())
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.active = False  # type: ignore[misc]
    now = companions.active()
    assert (base.path / "lib", "companion set", base) == (now.folder, now.chosen_by, now.set)
    assert "cuda" not in [found.backend for found in now.addons]


def test_choosing(base: companions.InstalledSet, addon: companions.InstalledSet, data: Path):
    """By id, its beginning, its hash, or an add-on's back end; the bundled libraries by their own name."""
    assert companions.use(companions.BUNDLED) is None
    assert "package" == companions.active().chosen_by
    for name in (base.id, base.id[:-3], base.id[-12:], base.id[-12:-5]):
        assert base == companions.use(name)
        assert base == companions.active().set
    used = companions.use("cuda")
    assert used is not None
    assert used.active
    assert "libggml-cuda.so" in used.problem, "why it cannot be opened"
    assert base == companions.active().set, "an add-on comes beside the base"
    assert ["active", "addons"] == sorted(path.name for path in (data / "libs" / COMMIT).glob("a*"))


@pytest.mark.parametrize("name", ["", "x", "../x", "llamacore-0.0", "/"])
def test_a_name_that_is_none(base: companions.InstalledSet, name: str):
    for call in (companions.use, companions.verify, companions.remove):
        with pytest.raises(InvalidArgumentError, match=base.id):
            call(name)


def test_a_name_of_two(base: companions.InstalledSet, addon: companions.InstalledSet):
    with pytest.raises(InvalidArgumentError, match=r"2 sets: .*give more"):
        companions.use("llamacore")


def test_the_environment_wins(base: companions.InstalledSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """And can name a set's folder; it is told, also when there is nothing."""
    for value, folder in ((LIBRARIES, LIBRARIES), (base.path, base.path / "lib")):
        monkeypatch.setenv("LLAMACORE_LIB_DIR", str(value))
        now = companions.active()
        assert (folder, "environment", None, str(value)) == (now.folder, now.chosen_by, now.set, now.environment)
    monkeypatch.setenv("LLAMACORE_LIB_DIR", str(tmp_path / "nothing"))
    now = companions.active()
    assert (None, "environment") == (now.folder, now.chosen_by)
    assert "nothing" in now.problem
    assert base == companions.use(base.id), "sets can be managed all the same"


def test_every_difference_is_found(base: companions.InstalledSet, addon: companions.InstalledSet):
    assert all(result.ok for result in companions.verify())
    assert 2 == len(companions.verify())
    libraries = sorted((base.path / "lib").iterdir())
    content = bytearray(libraries[0].read_bytes())
    content[100] ^= 1
    libraries[0].write_bytes(content)
    libraries[1].write_bytes(libraries[1].read_bytes() + b"x")
    libraries[2].unlink()
    libraries[3].rename(base.path / "moved")
    libraries[3].symlink_to(base.path / "moved")
    (base.path / "lib" / "more.so").write_bytes(b"")
    (found,) = companions.verify(base.id)
    assert not found.ok
    assert ("lib/" + libraries[0].name, "lib/" + libraries[1].name, "lib/" + libraries[3].name) == found.changed
    assert ("lib/" + libraries[2].name,) == found.missing
    assert ("lib/more.so", "moved") == found.additional
    assert companions.verify("cuda")[0].ok
    with pytest.raises(DamagedSetError, match="is not what was installed"):
        companions.use(base.id)


def test_a_description_that_is_gone(base: companions.InstalledSet):
    """The set is still listed, verified and removed."""
    (base.path / "companion.json").unlink()
    (found,) = companions.installed()
    assert ("damaged", True) == (found.kind, found.active)
    assert "companion.json" in found.problem
    assert ("companion.json",) == companions.verify()[0].changed
    assert found == companions.active().set
    with pytest.raises(DamagedSetError):
        companions.use(base.id)
    with pytest.raises(CompanionError, match="is the active set"):
        companions.remove(base.id)
    companions.remove(base.id, force=True)
    assert ((), "package") == (companions.installed(), companions.active().chosen_by)


def test_removing(base: companions.InstalledSet, addon: companions.InstalledSet, data: Path):
    """The active base only when it is forced, and then the bundled libraries are active; an add-on always."""
    with pytest.raises(CompanionError, match="is the active set"):
        companions.remove(base.id)
    companions.use("cuda")
    assert addon.id == companions.remove("cuda").id
    assert base.id == companions.remove(base.id, force=True).id
    assert [] == left_in(data)
    assert "package" == companions.active().chosen_by


def test_a_set_that_is_not_active_goes_without_force(base: companions.InstalledSet):
    companions.use(companions.BUNDLED)
    companions.remove(base.id)
    assert () == companions.installed()


def test_a_running_process_keeps_its_libraries(base: companions.InstalledSet):
    env = {**os.environ, "PYTHONPATH": str(Path(llamacore.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        companions.remove(base.id, force=True)
        out, _ = process.communicate("go on\n", timeout=60)
    assert 0 == process.returncode
    assert out.strip()


def test_sets_for_another_llama_cpp(base: companions.InstalledSet, data: Path):
    """Left by an earlier llamacore: listed with the reason, not usable, removable with what names them."""
    old = data / "libs" / "123456789"
    folder = shutil.copytree(base.path, old / "sets" / base.id.replace(base.id[-12:], "0" * 12))
    write_facts(folder, llama_cpp={"version": "0.4.0", "commit": "123456789"}, kind="base", backends=["cpu"],
                gate={"structs": {}}, libraries=[], modules=[])  # fmt: skip
    (old / "active").write_text(f"{folder}/lib\n")
    (other,) = [found for found in companions.installed() if found.id != base.id]
    assert ("123456789", False) == (other.commit, other.active)
    assert "123456789" in other.problem
    with pytest.raises(IncompatibleSetError, match="123456789"):
        companions.use(other.id)
    companions.remove(other.id)
    assert not (old / "active").exists()
    assert (base,) == companions.installed()


def test_a_set_of_another_llamacore_is_not_used(base: companions.InstalledSet):
    """As after an upgrade that keeps the llama.cpp: the shim in the set is of the old version."""
    companions.use(companions.BUNDLED)
    facts = (base.path / "companion.json").read_text().replace(llamacore.__version__, "0.0.9")
    (base.path / "companion.json").write_text(facts)
    with pytest.raises(IncompatibleSetError, match=r"0\.0\.9"):
        companions.use(base.id)
    assert "package" == companions.active().chosen_by


def test_a_marker_of_garbage(base: companions.InstalledSet, data: Path):
    marker = data / "libs" / COMMIT / "active"
    for content in (b"", b"/no/such/folder\n", b"relative\n", b"\xff\xfe"):
        marker.write_bytes(content)
        now = companions.active()
        assert (None, "companion set") == (now.folder, now.chosen_by)
        assert now.problem
        assert base == companions.use(base.id)


def test_a_marker_that_names_no_set(base: companions.InstalledSet, data: Path):
    """Somebody wrote it by hand: it is used as it says, and told."""
    (data / "libs" / COMMIT / "active").write_text(f"{LIBRARIES}\n")
    now = companions.active()
    assert (LIBRARIES, None) == (now.folder, now.set)
    assert "no installed set" in now.problem


def test_a_set_that_is_tried_while_somebody_waits(base: companions.InstalledSet, tmp_path: Path):
    """`use` takes turns with other changes."""
    import threading

    from llamacore.companions import store

    said: list[str] = []
    with store.changing(said.append):
        thread = threading.Thread(target=companions.use, args=(base.id,), kwargs={"say": said.append})
        thread.start()
        while not said:
            time.sleep(0.01)
        assert f"process {os.getpid()}" in said[0]
    thread.join(60)
    assert 1 == len(said)


def test_two_bases(base: companions.InstalledSet, tmp_path: Path):
    folder = base_set(tmp_path)
    (folder / "NOTE").write_text("another one")
    (second,) = companions.install(write_facts(folder), use=False)
    assert second.id == companions.use(second.id).id
    companions.remove(base.id)
    assert [second.id] == [found.id for found in companions.installed()]
