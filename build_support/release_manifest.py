"""`release-manifest.json`: which files a release has for which platform, and their hashes."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from build_support.companions import NAME, SCHEMA, write_json
from build_support.errors import BuildError

MANIFEST = "release-manifest.json"


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest as it was written, None when there is no such file.

    Raises:
        BuildError: It cannot be read, or is none of ours.
    """
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        whole = value["name"] == NAME and isinstance(value["version"], str) and isinstance(value["platforms"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path} cannot be read: {error!r}", "move it away and run the command again") from error
    if not whole or value.get("schema") != SCHEMA:
        raise BuildError(f"{path} is no manifest of {NAME}, schema {SCHEMA}", "move it away and run the command again")
    return dict(value)


def merged(old: dict[str, Any] | None, tag: str, platform: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A manifest with one platform's entry put in: those of other platforms stay if it is of the same release."""
    platforms = dict(old["platforms"]) if old is not None and old["version"] == tag else {}
    platforms[platform] = entry
    return {
        "schema": SCHEMA,
        "name": NAME,
        "version": tag,
        "platforms": {key: platforms[key] for key in sorted(platforms)},
    }


def added(old: dict[str, Any] | None, tag: str, platform: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A release's manifest with an entry put in: what it has already stays as it is, but for add-ons that come to it.

    Raises:
        BuildError: It is of another release, or differs from the entry in what both have.
    """
    if old is not None and old["version"] != tag:
        raise BuildError(f"the manifest is of {old['version']}, not of {tag}", "move it away and run the command again")
    there = old["platforms"].get(platform) if old is not None else None
    if there is not None:
        names = [key for key in sorted({*there, *entry} - {"addons"}) if there.get(key) != entry.get(key)]
        both = there["addons"].keys() & entry["addons"].keys()
        names += [f"add-on {key}" for key in sorted(both) if there["addons"][key] != entry["addons"][key]]
        if names:
            raise BuildError(
                f"{tag} has another {', '.join(names)} for {platform} already",
                "what a release has never changes: give the new files a new version",
            )
        addons = {**there["addons"], **entry["addons"]}
        entry = {**entry, "addons": {backend: addons[backend] for backend in sorted(addons)}}
    return merged(old, tag, platform, entry)


def assets(entry: dict[str, Any]) -> list[str]:
    """Names of the files of a platform's entry, each followed by its sidecar."""
    names = [entry["companions"], entry["sbom"], *(addon["file"] for addon in entry["addons"].values())]
    names += [entry["file"], *(addon["wheel"] for addon in entry["addons"].values() if addon["wheel"])]
    return [name for one in dict.fromkeys(names) for name in (one, f"{one}.sha256")]


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest, aside first."""
    handle, aside = tempfile.mkstemp(prefix=".manifest-", dir=path.parent)
    os.close(handle)
    try:
        write_json(Path(aside), manifest)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
