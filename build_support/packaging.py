"""Built libraries to what others fetch: archives, wheels, their hashes, and the manifest that names them all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from build_support import wheels
from build_support.builder import BUILD_ROOT, ROOT, SYS_DIR, build, pin
from build_support.companions import SBOM, Making, make_set
from build_support.config import BuildConfig
from build_support.errors import BuildError
from build_support.gate import read_gate
from build_support.libraries import Libraries, collect, split
from build_support.package import RECORD
from build_support.platforms import this_platform
from build_support.process import Console
from build_support.release_manifest import MANIFEST, merged, read_manifest, write_manifest
from build_support.sbom import licences
from build_support.source import pinned_source
from build_support.tarball import source_date, write_sidecar, write_tarball
from build_support.versions import project_version


@dataclass(frozen=True)
class Packaged:
    """What one packaging made.

    Attributes:
        folder: Where the files lie.
        platform: Platform key.
        entry: The platform's entry in the manifest.
        files: Names of the files, each followed by its sidecar.
    """

    folder: Path
    platform: str
    entry: dict[str, Any]
    files: tuple[str, ...]


def package(
    config: BuildConfig, output: Path, console: Console, *, from_dirs: Sequence[Path] = (), wheel: bool = True
) -> Packaged:
    """Packages the libraries of this machine's platform, and enters them into the manifest in the same folder.

    Args:
        config: What is built if it is not built yet, in a folder of its own; its add-ons become archives of their own.
        output: The folder that receives the files. Those of the same name are replaced.
        console: Where progress is shown.
        from_dirs: Folders with libraries to take instead of building any; one may be a whole `llamacore_sys`. No wheels
            are made of them.
        wheel: Make the wheels too.

    Raises:
        BuildError: The libraries are not whole or do not fit, or something could not be built or written.
    """
    version = project_version(ROOT)
    old = read_manifest(output / MANIFEST) if output.exists() else None
    BUILD_ROOT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="packaging-", dir=BUILD_ROOT) as folder:
        made = make_files(config, Path(folder, "files"), console, from_dirs=from_dirs, wheel=wheel)
        output.mkdir(parents=True, exist_ok=True)
        for name in made.files:
            place(made.folder / name, output / name)
    write_manifest(output / MANIFEST, merged(old, f"v{version}", made.platform, made.entry))
    return Packaged(output, made.platform, made.entry, made.files)


def make_files(
    config: BuildConfig, folder: Path, console: Console, *, from_dirs: Sequence[Path] = (), wheel: bool = True
) -> Packaged:
    """Makes all files but the manifest, in a new folder; arguments and errors as of `package`."""
    platform = this_platform()
    if not platform.endswith("-linux"):
        raise BuildError(
            f"packaging reads ELF libraries, which {platform} does not have",
            "package on Linux; docs/packaging.md tells what another platform takes",
        )
    if config.source is not None:
        raise BuildError("packages are made of the pinned llama.cpp only", "leave --source out")
    version = project_version(ROOT)
    date = source_date(ROOT)
    if from_dirs:
        places = [path.resolve() for path in from_dirs]
    else:
        places = [BUILD_ROOT / f"package-{'-'.join((config.profile, *config.addons))}" / "llamacore_sys"]
        build(config, places[0], console)
    base, addons = split(collect(places, platform), config.addons)
    extension = next((path for path in places if (path / RECORD).exists()), SYS_DIR)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="gate-", dir=folder) as aside:
        for name, library in base.files.items():
            shutil.copyfile(library.path, Path(aside, name))
        gate = read_gate(Path(aside), extension, SYS_DIR)
    if (gate.version, gate.commit) != (pin().version, pin().commit):
        raise BuildError(
            f"the libraries are llama.cpp {gate.version} ({gate.commit}), the pin is {pin().version} ({pin().commit})",
            "build them from the pinned source",
        )
    making = Making(version, platform, gate, ROOT, pinned_source(pin(), console).path, date)
    files: list[str] = []
    archive = f"{making.name()}-companions"
    entry = _archive(folder, archive, making, base, None, files)
    entry = {
        "file": entry["file"],
        "sha256": entry["sha256"],
        "companions": entry["file"],
        "companions_sha256": entry["sha256"],
        "addons": {
            backend: _archive(folder, making.name(backend), making, libraries, backend, files)
            for backend, libraries in addons.items()
        },
        "backends": list(base.backends),
        "profile": "portable" if base.portable else "native",
        "glibc": base.glibc,
        "llama_cpp": making.llama_cpp,
        "gate": {"structs": gate.structs},
        "licences": licences(whole=True),
        "sbom": f"{archive}.spdx.json",
        "size": entry["size"],
    }
    if wheel and not from_dirs:
        _wheels(config, folder, entry, files, console)
    return Packaged(folder, platform, entry, tuple(files))


def place(source: Path, target: Path) -> None:
    """Copies a file to its place, which has the old one or the whole new one at any time."""
    aside = target.with_name(f".{target.name}.new")
    try:
        shutil.copyfile(source, aside)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _archive(
    folder: Path, stem: str, making: Making, libraries: Libraries, backend: str | None, files: list[str]
) -> dict[str, Any]:
    """Makes the archive of a set, notes its files, and returns its entry in the manifest."""
    archive = folder / f"{stem}.tar.gz"
    with tempfile.TemporaryDirectory(prefix="set-", dir=folder) as aside:
        top = make_set(Path(aside), making, libraries, backend)
        write_tarball(top, archive, making.date)
        made = [archive]
        if backend is None:
            made.append(folder / f"{stem}.spdx.json")
            shutil.copyfile(top / SBOM, made[-1])
    hashes = [_note(path, files) for path in made]
    return {
        "file": archive.name,
        "sha256": hashes[0],
        "size": archive.stat().st_size,
        "requires": [asdict(requirement) for requirement in libraries.requires],
        "wheel": None,
        "wheel_sha256": None,
    }


def _wheels(config: BuildConfig, folder: Path, entry: dict[str, Any], files: list[str], console: Console) -> None:
    """Makes the wheels and enters them."""
    for path in wheels.build_wheels(config, folder, console):
        digest = _note(path, files)
        backend = path.name.split("-")[0].removeprefix("llamacore").removeprefix("_")
        if backend:
            entry["addons"][backend] |= {"wheel": path.name, "wheel_sha256": digest}
        else:
            entry |= {"file": path.name, "sha256": digest}


def _note(path: Path, files: list[str]) -> str:
    digest = write_sidecar(path)
    files += [path.name, f"{path.name}.sha256"]
    return digest
