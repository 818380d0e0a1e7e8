"""Fetch, verify, unpack aside, try, and only then put in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import (
    DamagedSetError,
    IncompatibleSetError,
    InvalidArgumentError,
    PlatformNotPublishedError,
)
from ..params import StrPath
from . import _package, store
from .checks import check_commit, check_loads, check_says, check_structs, why_idle
from .download import Progress, discard, fetch, sweep
from .facts import MAX_BYTES, SetFacts
from .manifest import Archive, parse_manifest
from .source import MAX_MANIFEST_BYTES, Place, checked_hash, place_of, sidecar_hash
from .store import InstalledSet
from .unpack import copy_folder, read_facts_file, sha256_of, unpack_archive
from .verification import differences

Say = Callable[[str], None]
"""Called with a line for whoever waits."""

_MAX_ARCHIVE_BYTES = MAX_BYTES // 2


@dataclass(frozen=True)
class _Wanted:
    """One set to be installed; `backend` tells what it has to be, "base" for a base, empty for whatever it is."""

    place: Place
    folder: bool
    sha256: str | None
    size: int | None = None
    backend: str = ""


@dataclass(frozen=True)
class _Ready:
    """A set that is verified: in a folder aside, or in its place already."""

    id: str
    path: Path
    facts: SetFacts
    new: bool


def install(
    source: StrPath,
    *,
    backends: Sequence[str] = (),
    platform: str | None = None,
    sha256: str | None = None,
    allow_unverified: bool = False,
    use: bool = True,
    timeout: float = 60.0,
    progress: Progress | None = None,
    say: Say | None = None,
) -> tuple[InstalledSet, ...]:
    """Install a companion set for this user and make it active.

    Nothing that is there changes until every set is fetched, verified, unpacked and, for a base, loaded in a process of
    its own. A set that is there already, and whole, is not fetched again; one that is there and damaged is replaced.

    Args:
        source: A release manifest (.json) or an archive (.tar.gz), by its path or its address (http, https, file), or
            the folder of an unpacked set. Of a manifest the base set for the platform is installed.
        backends: Add-ons of the manifest to install with it, as in "cuda".
        platform: Key of the platform whose entry of the manifest is taken; None for this machine's. Sets for another
            platform are verified and kept, and `use` has to be False.
        sha256: What the SHA-256 of the archive has to be (for a folder, that of its `companion.json`), whatever a
            manifest or a sidecar says.
        allow_unverified: Take an archive for which there is no SHA-256 at all. Its files are still compared with the
            `companion.json` inside it, which shows damage but not deceit.
        use: Make it active.
        timeout: Seconds without a byte from a server after which an attempt is given up.
        progress: Called as bytes arrive.
        say: Called with a line when another process has to be waited for.

    Returns:
        The sets, the base first. `problem` of an add-on says why its back end does nothing on this machine, if so.

    Raises:
        InvalidArgumentError: There is no such source, or the arguments do not go together.
        DownloadError: It could not be fetched. What has come stays in `downloads/` for the next time, for a week.
        DamagedSetError: A hash differs, the archive is damaged or hostile, or it is no companion set.
        IncompatibleSetError: It is for another platform, llama.cpp or llamacore, needs a newer system or does not load.
        PlatformNotPublishedError: The release has nothing for this platform, or no such add-on.
        OSError: A file could not be written.
    """
    here = _package.platform_key()
    if platform not in (None, here) and use:
        raise InvalidArgumentError(
            f"sets for {platform} cannot be used on this machine, which is {here}", hint="leave the platform out"
        )
    foreign = platform not in (None, here)
    wanted = _plan(source, backends, platform or here, sha256, allow_unverified, timeout)
    with store.changing(say or _silent):
        downloads = store.folder() / "downloads"
        sweep(downloads)
        with store.aside() as aside:
            ready = [
                _stage(one, aside / str(number), platform or here, timeout, progress)
                for number, one in enumerate(wanted)
            ]
            for one in ready:
                if one.facts.kind == "base" and not foreign:
                    check_structs(one.facts, one.id)
                    check_loads(one.path, one.id)
            placed = [store.place(one.path, one.id) if one.new else one.path for one in ready]
        found = tuple(map(store.describe, placed))
        return tuple(map(make_active, found)) if use else found


def make_active(installed: InstalledSet) -> InstalledSet:
    """Make a set active that is known to be sound; the lock is held.

    Returns:
        The set; an add-on with the reason why it does nothing here, if so.
    """
    store.activate(installed)
    found = store.describe(installed.path)
    if found.kind != "addon":
        return found
    return replace(found, problem=why_idle(store.facts_of(found.path), found.path))


def _plan(
    source: StrPath, backends: Sequence[str], platform: str, sha256: str | None, allow_unverified: bool, timeout: float
) -> list[_Wanted]:
    """What has to be installed, and what is known of it beforehand."""
    place, kind = place_of(source)
    pinned = None if sha256 is None else checked_hash(sha256, "the SHA-256 that was given")
    if kind != "manifest":
        if backends:
            raise InvalidArgumentError(
                f"add-ons are chosen from a release manifest, not from {place.text}",
                hint="give the manifest, or the archive of the add-on",
            )
        if kind == "archive" and pinned is None:
            pinned = sidecar_hash(place, timeout)
            if pinned is None and not allow_unverified:
                raise DamagedSetError(
                    f"nothing says what {place.text} has to be: there is no {place.name}.sha256 beside it",
                    hint="give its SHA-256, or allow it unverified (--sha256, --allow-unverified)",
                )
        return [_Wanted(place, kind == "folder", pinned)]
    if pinned is not None and backends:
        raise InvalidArgumentError("one SHA-256 for several archives", hint="install the add-ons by themselves")
    raw = place.read(MAX_MANIFEST_BYTES, timeout)
    if raw is None:
        raise InvalidArgumentError(f"there is no {place.text}")
    release = parse_manifest(raw, place.text, platform)
    check_commit(release.commit, f"{place.text} ({release.version})")
    missing = [name for name in backends if name not in release.addons]
    if missing:
        raise PlatformNotPublishedError(
            f"{place.text} has no add-on {missing[0]!r} for {platform}",
            hint=f"it has {', '.join(release.addons)}" if release.addons else "it has none",
        )
    return [
        _of(release.base, place, pinned or release.base.sha256),
        *(_of(release.addons[name], place, release.addons[name].sha256) for name in dict.fromkeys(backends)),
    ]


def _of(archive: Archive, manifest: Place, sha256: str) -> _Wanted:
    return _Wanted(manifest.beside(archive.file), False, sha256, archive.size, archive.backend or "base")


def _stage(wanted: _Wanted, aside: Path, platform: str, timeout: float, progress: Progress | None) -> _Ready:
    """Bring a set into a folder aside, or find it in its place."""
    where = wanted.place.text

    def check(facts: SetFacts) -> None:
        if wanted.backend and wanted.backend != (facts.kind if facts.kind == "base" else facts.backends[0]):
            raise DamagedSetError(f"{where} is {facts.folder_name}, not the {wanted.backend} that the release says")
        if platform != _package.platform_key():
            if facts.platform != platform:
                raise IncompatibleSetError(f"{where} is for {facts.platform}, not for {platform}")
            check_commit(facts.commit, where)
        else:
            check_says(facts, where)

    if wanted.folder:
        assert wanted.place.path is not None
        digest = hashlib.sha256(read_facts_file(wanted.place.path, where)).hexdigest()
        _compare(digest, wanted, where)
        there = _there(digest, check)
        if there is not None:
            return there
        facts = copy_folder(wanted.place.path, where, aside, check)
        return _Ready(f"{facts.folder_name}-{digest[:12]}", aside, facts, new=True)
    there = None if wanted.sha256 is None else _there(wanted.sha256, check)
    if there is not None:
        return there
    if wanted.place.path is not None:
        return _unpack(wanted.place.path, wanted, aside, check)
    return _fetch_and_unpack(wanted, aside, check, timeout, progress)


def _fetch_and_unpack(
    wanted: _Wanted, aside: Path, check: Callable[[SetFacts], None], timeout: float, progress: Progress | None
) -> _Ready:
    def fetched(*, fresh: bool) -> tuple[Path, bool]:
        limit = _MAX_ARCHIVE_BYTES if wanted.size is None else wanted.size
        folder = store.folder() / "downloads"
        return fetch(
            wanted.place.text, folder, limit=limit, size=wanted.size, timeout=timeout, progress=progress, fresh=fresh
        )

    part, resumed = fetched(fresh=False)
    if resumed and wanted.sha256 is not None:
        with open(part, "rb") as archive:
            differs = sha256_of(archive) != wanted.sha256
        if differs:  # what was there may have been a part of another file
            part, _ = fetched(fresh=True)
    try:
        return _unpack(part, wanted, aside, check)
    finally:
        discard(part)


def _unpack(file: Path, wanted: _Wanted, aside: Path, check: Callable[[SetFacts], None]) -> _Ready:
    where = wanted.place.text
    with open(file, "rb") as archive:  # hashed and unpacked through one handle, so that it is one and the same file
        digest = sha256_of(archive)
        _compare(digest, wanted, where)
        archive.seek(0)
        facts = unpack_archive(archive, where, aside, check)
    return _Ready(f"{facts.folder_name}-{digest[:12]}", aside, facts, new=True)


def _compare(digest: str, wanted: _Wanted, where: str) -> None:
    if wanted.sha256 is not None and digest != wanted.sha256:
        raise DamagedSetError(
            f"{where} has the SHA-256 {digest}, it has to be {wanted.sha256}", hint="nothing of it was used"
        )


def _there(digest: str, check: Callable[[SetFacts], None]) -> _Ready | None:
    """The set of this hash, if it is installed and whole."""
    for path in store.folder().glob(f"sets/*-{digest[:12]}"):
        try:
            facts = store.facts_of(path)
            if differences(path, facts).ok:
                check(facts)
                return _Ready(path.name, path, facts, new=False)
        except DamagedSetError:
            continue
    return None


def _silent(_: str) -> None:
    """Nobody is told."""
