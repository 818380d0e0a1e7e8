"""Publishing with `gh`, the command line of GitHub: what is missing is added, nothing that is there is replaced."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from build_support.errors import BuildError
from build_support.packaging import Packaged
from build_support.process import Console
from build_support.release_manifest import MANIFEST, added, read_manifest, write_manifest
from build_support.source import sha256_of


def publish(repo: str | None, tag: str, commit: str, notes: str, made: Packaged, console: Console) -> None:
    """Uploads the files of one platform to a release, which is made if there is none.

    The manifest comes last, so that it never names a file that is not there. It alone is replaced, by one that has all
    of it and more.

    Args:
        repo: `OWNER/NAME`, None for what `gh` finds by itself.
        tag: The release.
        commit: What the tag is made of if it does not exist.
        notes: Text of a new release.
        made: The files.
        console: Where progress is shown.

    Raises:
        BuildError: `gh` is missing or fails, or the release has a file of the same name with another hash.
    """
    there = _assets(repo, tag)
    if there is None:
        _gh(repo, "release", "create", tag, "--target", commit, "--title", tag, "--notes", notes)
        console.say(f"made the release {tag}")
        there = {}
    with tempfile.TemporaryDirectory(prefix="llamacore-release-") as folder:
        missing = [name for name in made.files if name not in there]
        for name in made.files:
            if name in there and _hash(repo, tag, name, there[name], Path(folder)) != sha256_of(made.folder / name):
                raise BuildError(
                    f"the release {tag} has another {name} already",
                    "what a release has never changes: give the new files a new version",
                )
        old = None
        if MANIFEST in there:
            old = read_manifest(_download(repo, tag, MANIFEST, Path(folder)))
        manifest = added(old, tag, made.platform, made.entry)
        for name in missing:
            console.say(f"uploading {name}")
            _gh(repo, "release", "upload", tag, str(made.folder / name))
        if manifest != old:
            write_manifest(made.folder / MANIFEST, manifest)
            replace = ["--clobber"] if old is not None else []
            _gh(repo, "release", "upload", tag, str(made.folder / MANIFEST), *replace)
    console.say(f"published {len(missing)} files of {tag}, {len(made.files) - len(missing)} were there already")


def _assets(repo: str | None, tag: str) -> dict[str, str] | None:
    """The files of a release with their hashes as far as GitHub tells; None when there is no such release."""
    done = _run(repo, "release", "view", tag, "--json", "assets")
    if done.returncode != 0:
        if "release not found" in done.stderr:
            return None
        raise _error(["release", "view", tag], done)
    assets: list[dict[str, Any]] = json.loads(done.stdout)["assets"]
    return {asset["name"]: (asset.get("digest") or "").removeprefix("sha256:") for asset in assets}


def _hash(repo: str | None, tag: str, name: str, told: str, folder: Path) -> str:
    return told or sha256_of(_download(repo, tag, name, folder))


def _download(repo: str | None, tag: str, name: str, folder: Path) -> Path:
    _gh(repo, "release", "download", tag, "--pattern", name, "--dir", str(folder))
    return folder / name


def _gh(repo: str | None, *arguments: str) -> None:
    done = _run(repo, *arguments)
    if done.returncode != 0:
        raise _error(arguments, done)


def _run(repo: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["gh", *arguments, *(["--repo", repo] if repo else [])]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"gh does not start: {error}", "install it from https://cli.github.com") from error


def _error(arguments: Any, done: subprocess.CompletedProcess[str]) -> BuildError:
    return BuildError(
        f"gh {' '.join(arguments[:3])} failed: {(done.stderr or done.stdout).strip()}",
        "check `gh auth status` and run the command again; it continues with what is missing",
    )
