"""A release: the files of one platform under one tag, checked, merged with those of other platforms, never changed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from build_support import github
from build_support.builder import BUILD_ROOT, ROOT
from build_support.config import BuildConfig
from build_support.errors import BuildError
from build_support.packaging import Packaged, make_files, place
from build_support.platforms import this_platform
from build_support.process import Console
from build_support.release_manifest import MANIFEST, added, assets, read_manifest, write_manifest
from build_support.source import sha256_of
from build_support.versions import project_version


@dataclass(frozen=True)
class Release:
    """What is asked for.

    Attributes:
        tag: `v` and the version.
        platform: Platform key; another than this machine's needs what was packaged on one of that platform.
        dry_run: Leave the files in `release-dry-run-<tag>-<platform>/`, whatever state the checkout is in.
        upload: Publish them with `gh`.
        repo: `OWNER/NAME`, None for what `gh` finds by itself (`GH_REPO`, the checkout's remote).
    """

    tag: str
    platform: str
    dry_run: bool = False
    upload: bool = False
    repo: str | None = None

    @property
    def folder(self) -> Path:
        """Where the files of the release are left."""
        if self.dry_run:
            return Path(f"release-dry-run-{self.tag}-{self.platform}").resolve()
        return ROOT / "dist" / self.tag


def release(asked: Release, config: BuildConfig, console: Console, *, from_dirs: Sequence[Path] = ()) -> Packaged:
    """Makes the files of a release, or takes those that `package` made, and publishes them if that was asked.

    Args:
        asked: What to release.
        config: What is built if it is not built yet.
        console: Where progress is shown.
        from_dirs: Folders with libraries, or one folder that `package` filled, on this machine or another.

    Raises:
        BuildError: Versions, checkout, platform or files are not as they have to be; nothing was published.
    """
    _check_version(asked.tag)
    commit = None if asked.dry_run else _check_checkout(asked.tag)
    packed = len(from_dirs) == 1 and (from_dirs[0] / MANIFEST).exists()
    if asked.platform != this_platform() and not packed:
        raise BuildError(
            f"this machine is {this_platform()}, it cannot build for {asked.platform}",
            "run `build_lib.py package` on such a machine, and give the folder that it fills with --from-dir",
        )
    BUILD_ROOT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="release-", dir=BUILD_ROOT) as folder:
        if packed:
            made = _adopt(from_dirs[0].resolve(), asked)
        else:
            made = make_files(config, Path(folder, "files"), console, from_dirs=from_dirs)
        if made.entry["profile"] != "portable" and not asked.dry_run:
            raise BuildError(
                "the libraries are made for the CPU of the machine that built them", "release the profile portable"
            )
        done = _put(made, asked)
    console.say(f"{asked.tag} for {asked.platform}: {len(done.files)} files and {MANIFEST} in {done.folder}")
    if asked.upload:
        assert commit is not None  # an upload is no dry run
        github.publish(asked.repo, asked.tag, commit, _notes(asked.tag), done, console)
    return done


def _check_version(tag: str) -> None:
    version = project_version(ROOT)
    if tag != f"v{version}":
        raise BuildError(f"the tag is {tag}, the version of this checkout is {version}", f"release v{version}")


def _check_checkout(tag: str) -> str:
    """The commit that is released: all files are as it has them, and the tag names it if it exists."""
    changes = _git("status", "--porcelain").splitlines()
    if changes:
        shown = ", ".join(line[3:] for line in changes[:5]) + (", ..." if len(changes) > 5 else "")
        raise BuildError(f"{len(changes)} files differ from the commit: {shown}", "commit or remove them, or --dry-run")
    commit = _git("rev-parse", "HEAD").strip()
    if _git("tag", "--list", tag).strip():
        tagged = _git("rev-list", "-n", "1", tag).strip()
        if tagged != commit:
            raise BuildError(
                f"the tag {tag} is commit {tagged[:12]}, the checkout is {commit[:12]}", f"git checkout {tag}"
            )
    return commit


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"git does not start: {error}", "install it") from error
    if done.returncode != 0:
        raise BuildError(f"git {arguments[0]} failed: {done.stderr.strip()}", "release from a git checkout")
    return done.stdout


def _adopt(folder: Path, asked: Release) -> Packaged:
    """What `package` left in a folder, every file checked against the manifest."""
    manifest = read_manifest(folder / MANIFEST)
    assert manifest is not None  # looked for before
    if manifest["version"] != asked.tag or asked.platform not in manifest["platforms"]:
        listed = ", ".join(sorted(manifest["platforms"])) or "nothing"
        raise BuildError(
            f"{folder} holds {manifest['version']} for {listed}, not {asked.tag} for {asked.platform}",
            "give the folder that `build_lib.py package` filled for this release",
        )
    entry = manifest["platforms"][asked.platform]
    files = assets(entry)
    hashes = {entry["file"]: entry["sha256"], entry["companions"]: entry["companions_sha256"]}
    for addon in entry["addons"].values():
        hashes |= {addon["file"]: addon["sha256"], addon["wheel"]: addon["wheel_sha256"]}
    for name in files[::2]:
        path = folder / name
        if not path.is_file() or not path.with_name(f"{name}.sha256").is_file():
            raise BuildError(f"{path} or its .sha256 is missing", "package again")
        actual = sha256_of(path)
        stated = path.with_name(f"{name}.sha256").read_text(encoding="ascii")
        if actual != stated or actual != hashes.get(name, actual):
            raise BuildError(f"{path} has sha256 {actual}, not the one that was written down", "package again")
    return Packaged(folder, asked.platform, entry, tuple(files))


def _put(made: Packaged, asked: Release) -> Packaged:
    """Puts files into the release's folder and its manifest, if nothing there is changed by that."""
    folder = asked.folder
    for name in made.files:
        if (folder / name).exists() and sha256_of(folder / name) != sha256_of(made.folder / name):
            raise BuildError(
                f"{folder / name} is there already and differs",
                "files of a release never change: remove the folder if it was not published, else take a new version",
            )
    old = read_manifest(folder / MANIFEST)
    manifest = added(old, asked.tag, made.platform, made.entry)
    folder.mkdir(parents=True, exist_ok=True)
    for name in made.files:
        if not (folder / name).exists():
            place(made.folder / name, folder / name)
    write_manifest(folder / MANIFEST, manifest)
    return Packaged(folder, made.platform, made.entry, made.files)


def _notes(tag: str) -> str:
    """The part of the change log that tells of a version."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(tag[1:])}\b[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise BuildError(f"CHANGELOG.md has no part for {tag[1:]}", "write it")
    return found[1].strip()
