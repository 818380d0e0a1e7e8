"""What a release says of itself: `release-manifest.json`, schema 1."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DamagedSetError, PlatformNotPublishedError
from .facts import check_schema, is_safe

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Archive:
    """An archive of a release.

    Attributes:
        file: Its name, beside the manifest.
        sha256: Of its content, lower case hex.
        size: Bytes, where the manifest tells.
        backend: The back end of an add-on; None for the base.
    """

    file: str
    sha256: str
    size: int | None
    backend: str | None


@dataclass(frozen=True)
class Release:
    """What a release has for one platform.

    Attributes:
        version: Its tag, as in "v0.1.0".
        platform: Platform key.
        base: The base set.
        addons: The add-ons, by back end.
        commit: Commit of llama.cpp, where the manifest tells.
    """

    version: str
    platform: str
    base: Archive
    addons: Mapping[str, Archive]
    commit: str | None


def parse_manifest(raw: bytes, where: str, platform: str) -> Release:
    """Read the entry of a platform. Fields that it does not know are left alone.

    Args:
        raw: Content of the manifest.
        where: Where it comes from, for messages.
        platform: Platform key.

    Raises:
        DamagedSetError: It is no release manifest, or its entry is not sound.
        IncompatibleSetError: It is of another schema.
        PlatformNotPublishedError: It has no companion set for the platform.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise DamagedSetError(f"{where} is no JSON: {exc}", hint="give a release-manifest.json") from None
    if not isinstance(content, dict) or not isinstance(content.get("platforms"), dict):
        raise DamagedSetError(f"{where} is no release manifest", hint="give a release-manifest.json")
    check_schema(content, where)
    platforms = content["platforms"]
    published = [key for key, entry in platforms.items() if isinstance(entry, dict) and entry.get("companions")]
    if platform not in published:
        raise PlatformNotPublishedError(
            f"{where} has no companion set for {platform}",
            hint=f"it has some for {', '.join(published)}" if published else "it has none for any platform",
        )
    try:
        entry = platforms[platform]
        addons = {
            name: _archive(addon["file"], addon["sha256"], addon.get("size"), name)
            for name, addon in entry.get("addons", {}).items()
        }
        return Release(
            version=str(content["version"]),
            platform=platform,
            base=_archive(entry["companions"], entry["companions_sha256"], entry.get("size"), None),
            addons=addons,
            commit=entry.get("llama_cpp", {}).get("commit"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DamagedSetError(f"{where}: the entry of {platform} is not sound: {type(exc).__name__} {exc}") from None


def _archive(file: Any, sha256: Any, size: Any, backend: str | None) -> Archive:
    if not isinstance(file, str) or not is_safe(file) or "/" in file:
        raise ValueError(f"{file!r} is no name of a file")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is no SHA-256")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError(f"{size!r} is no size")
    return Archive(file, sha256.lower(), size, backend)
