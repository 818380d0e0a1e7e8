"""`build_lib.py release`: what it checks, what it leaves, and what it gives to `gh`."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build_support.config import BuildConfig
from build_support.packaging import package
from build_support.platforms import this_platform
from build_support.process import Console
from build_support.release_manifest import MANIFEST
from build_support.source import sha256_of
from build_support.versions import project_version

ROOT = Path(__file__).resolve().parents[2]
VERSION = project_version(ROOT)
TAG = f"v{VERSION}"
HERE = this_platform()
OTHER = "aarch64-darwin"
TOP = f"llamacore-{VERSION}-{HERE}"
ARCHIVE = f"{TOP}-companions.tar.gz"
DRY_RUN = f"release-dry-run-{TAG}-{HERE}"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="packaging reads ELF libraries")

# Releases as files of a folder; like the real gh it replaces an asset only with --clobber.
GH = f"""#!{sys.executable}
import argparse, hashlib, json, os, pathlib, shutil, sys

home = pathlib.Path(os.environ["FAKE_GH"])
with open(home / "calls", "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
parser = argparse.ArgumentParser()
parser.add_argument("group", choices=["release"])
parser.add_argument("command", choices=["create", "download", "upload", "view"])
parser.add_argument("tag")
parser.add_argument("files", nargs="*")
for name in ("--repo", "--target", "--title", "--notes", "--pattern", "--dir", "--json"):
    parser.add_argument(name)
parser.add_argument("--clobber", action="store_true")
args = parser.parse_args()
if (home / "broken").exists():
    sys.exit("HTTP 401: Bad credentials")
release = home / args.tag
if args.command == "create":
    release.mkdir()
elif not release.exists():
    sys.exit("release not found")
elif args.command == "view":
    digests = not (home / "no-digests").exists()
    print(json.dumps({{"assets": [
        {{"name": p.name, "digest": "sha256:" + hashlib.sha256(p.read_bytes()).hexdigest() if digests else None}}
        for p in sorted(release.iterdir())
    ]}}))
elif args.command == "download":
    shutil.copy(release / args.pattern, pathlib.Path(args.dir, args.pattern))
else:
    for file in map(pathlib.Path, args.files):
        if (release / file.name).exists() and not args.clobber:
            sys.exit(f"asset under the same name already exists: {{file.name}}")
        shutil.copy(file, release)
"""


class Hub:
    """What the fake `gh` keeps, and how it was called."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "gh"
        program.write_text(GH)
        program.chmod(0o755)
        self.folder = folder
        self.env = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "FAKE_GH": str(folder)}

    @property
    def release(self) -> Path:
        return self.folder / TAG

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.release.iterdir()}


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


@pytest.fixture(scope="module")
def libraries(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed libraries, which count as portable: there is a module with the name of a variant for the CPU."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("portable") / "package"
    shutil.copytree(installed, folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["cc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-Wl,-soname,libggml-cpu-test.so"]
    subprocess.run([*command, "-o", str(folder / "lib" / "libggml-cpu-test.so")], check=True)
    return folder


@pytest.fixture(scope="module")
def packed(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `build_lib.py package` makes of them."""
    output = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        package(BuildConfig(), output, Console(io.StringIO()), from_dirs=[libraries])
    return output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["1.0.0"], "is no tag of a release"),
        (["v1.0"], "is no tag of a release"),
        (["v1.0.0/../x"], "is no tag of a release"),
        ([TAG, "--platform", "linux"], "is no platform"),
        ([TAG, "--platform", "x86_64-beos"], "unknown operating system"),
        ([TAG, "--dry-run", "--upload"], "publishes nothing"),
        ([TAG, "--repo", "not a repository"], "is no repository"),
        ([TAG, "--backend", "abacus"], "invalid choice"),
        ([], "required: tag"),
    ],
)
def test_wrong_usage_ends_with_64(arguments: list[str], said: str):
    done = subprocess.run(
        [sys.executable, str(ROOT / "build_lib.py"), "release", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (64, "")
    assert said in done.stderr


def test_a_dry_run_leaves_everything_in_its_folder(checkout, libraries: Path, packed: Path, validate):
    made = checkout("repository")
    (made.root / "untracked").write_text("a dry run does not mind")
    done = made.build_lib("release", TAG, "--dry-run", "--from-dir", libraries)
    assert done.returncode == 0, done.stderr
    folder = made.root / DRY_RUN
    assert {path.name for path in folder.iterdir()} >= {ARCHIVE, f"{ARCHIVE}.sha256", MANIFEST}
    manifest = validate(folder / MANIFEST, "release-manifest")
    assert manifest["version"] == TAG
    assert manifest["platforms"][HERE]["companions_sha256"] == sha256_of(folder / ARCHIVE)
    assert not (made.root / "dist").exists()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert made.build_lib("release", TAG, "--dry-run", "--from-dir", packed).returncode == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / ARCHIVE).write_bytes(b"another")
    again = made.build_lib("release", TAG, "--dry-run", "--from-dir", packed)
    assert again.returncode == 1
    assert f"{ARCHIVE} is there already and differs" in again.stderr
    assert (folder / ARCHIVE).read_bytes() == b"another"


def test_what_does_not_fit_together_is_refused(checkout, libraries: Path):
    made = checkout("repository")

    def refused(*arguments: object) -> str:
        done = made.build_lib("release", *arguments)
        assert done.returncode == 1, done.stderr
        assert not (made.root / "dist").exists()
        assert "next step: " in done.stderr
        return done.stderr

    assert f"the tag is v9.9.9, the version of this checkout is {VERSION}" in refused("v9.9.9", "--dry-run")
    said = refused(TAG, "--platform", "arm64-macosx", "--from-dir", libraries)
    assert f"this machine is {HERE}, it cannot build for {OTHER}" in said

    (made.root / "CHANGELOG.md").write_text("changed")
    (made.root / "new.cpp").write_text("")
    assert "2 files differ from the commit: CHANGELOG.md, new.cpp" in refused(TAG, "--from-dir", libraries)
    made.git("tag", TAG)
    made.git("add", "--all")
    made.git("commit", "--quiet", "-m", "later")
    assert f"the tag {TAG} is commit" in refused(TAG, "--from-dir", libraries)

    file = made.root / "addons" / "cuda" / "pyproject.toml"
    file.write_text(re.sub(r'^version = ".*"', 'version = "0.0.1"', file.read_text(), flags=re.MULTILINE))
    assert "0.0.1 in addons/cuda/pyproject.toml" in refused(TAG, "--dry-run")


def test_libraries_for_one_cpu_are_not_released(checkout, installed: Path):
    made = checkout("repository")
    if list((installed / "lib").glob("libggml-cpu-*")):
        pytest.skip("the installed libraries are portable")
    done = made.build_lib("release", TAG, "--from-dir", installed)
    assert done.returncode == 1
    assert "made for the CPU of the machine" in done.stderr


def test_an_upload_makes_the_release_once_and_changes_nothing_in_it(checkout, packed: Path, hub: Hub):
    made = checkout("repository")
    arguments = ("release", TAG, "--upload", "--from-dir", packed, "--repo", "somebody/something")
    done = made.build_lib(*arguments, **hub.env)
    assert done.returncode == 0, done.stderr
    local = {path.name: path.read_bytes() for path in (made.root / "dist" / TAG).iterdir()}
    assert hub.files() == local
    calls = hub.calls()
    assert all(call[-2:] == ["--repo", "somebody/something"] for call in calls)
    create = next(call for call in calls if call[1] == "create")
    assert create[create.index("--target") + 1] == made.git("rev-parse", "HEAD")
    assert create[create.index("--notes") + 1].strip()
    uploads = [Path(call[3]).name for call in calls if call[1] == "upload"]
    assert uploads[-1] == MANIFEST, "the manifest names what is there"
    assert not any("--clobber" in call for call in calls)

    # again: nothing is missing
    count = len(calls)
    assert made.build_lib(*arguments, **hub.env).returncode == 0
    assert [call[1] for call in hub.calls()[count:]] == ["view", "download"]
    assert hub.files() == local

    # one asset was lost, another was exchanged
    (hub.release / f"{ARCHIVE}.sha256").unlink()
    assert made.build_lib(*arguments, **hub.env).returncode == 0
    assert hub.files() == local
    (hub.release / ARCHIVE).write_bytes(b"another")
    for digests in (True, False):
        if not digests:
            (hub.folder / "no-digests").touch()
        done = made.build_lib(*arguments, **hub.env)
        assert done.returncode == 1
        assert f"the release {TAG} has another {ARCHIVE} already" in done.stderr
        assert (hub.release / ARCHIVE).read_bytes() == b"another"


def test_platforms_of_several_machines_join(checkout, packed: Path, hub: Hub, validate, tmp_path: Path):
    """What was packaged elsewhere is released from here, beside what is there already."""
    made = checkout("repository")
    assert made.build_lib("release", TAG, "--upload", "--from-dir", packed, **hub.env).returncode == 0
    # the files of this machine stand for those of another: only names and platform key differ
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(packed, elsewhere)
    manifest = json.loads((elsewhere / MANIFEST).read_text().replace(HERE, OTHER))
    (elsewhere / MANIFEST).write_text(json.dumps(manifest))
    for path in elsewhere.glob(f"*{HERE}*"):
        path.rename(elsewhere / path.name.replace(HERE, OTHER))

    arguments = ("release", TAG, "--upload", "--platform", "arm64-macosx", "--from-dir", elsewhere)
    assert made.build_lib(*arguments, **hub.env).returncode == 0
    published = validate(hub.release / MANIFEST, "release-manifest")
    assert published["platforms"].keys() == {HERE, OTHER}
    assert [Path(call[3]).name for call in hub.calls() if "--clobber" in call] == [MANIFEST]

    damaged = elsewhere / ARCHIVE.replace(HERE, OTHER)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    done = made.build_lib(*arguments, **hub.env)
    assert done.returncode == 1
    assert "not the one that was written down" in done.stderr
    damaged.unlink()
    assert "is missing" in made.build_lib(*arguments, **hub.env).stderr
    wrong = made.build_lib("release", TAG, "--platform", "aarch64-linux", "--from-dir", elsewhere)
    assert f"for {OTHER}, not {TAG} for aarch64-linux" in wrong.stderr


def test_gh_is_explained_when_it_fails(checkout, packed: Path, hub: Hub, tmp_path: Path):
    made = checkout("repository")
    arguments = ("release", TAG, "--upload", "--from-dir", packed)
    (hub.folder / "broken").touch()
    done = made.build_lib(*arguments, **hub.env)
    assert done.returncode == 1
    assert "Bad credentials" in done.stderr
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("git", "cc"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = made.build_lib(*arguments, PATH=str(tools))
    assert done.returncode == 1
    assert "gh does not start" in done.stderr
    (hub.folder / "broken").unlink()
    assert made.build_lib(*arguments, GH_REPO="a/b", **hub.env).returncode == 0
    assert hub.calls()[-1][-2:] == ["--repo", "a/b"]
