"""A companion set as a folder: libraries, licences, what is inside them, and `companion.json` that describes it all."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from build_support.c_files import write_c_files
from build_support.gate import Gate
from build_support.libraries import Libraries
from build_support.sbom import licence_texts, sbom
from build_support.source import sha256_of

SCHEMA = 1
NAME = "llamacore"
DESCRIPTION = "companion.json"
SBOM = "sbom.spdx.json"


@dataclass(frozen=True)
class Making:
    """What all sets of one packaging have in common.

    Attributes:
        version: Version of llamacore.
        platform: Platform key.
        gate: What the libraries said of themselves.
        root: The checkout.
        source: The source of llama.cpp.
        date: Time of packed files, in seconds since 1970.
    """

    version: str
    platform: str
    gate: Gate
    root: Path
    source: Path
    date: int

    @property
    def llama_cpp(self) -> dict[str, str]:
        """llama.cpp as the description and the manifest name it."""
        return {"version": self.gate.version, "commit": self.gate.commit}

    def name(self, backend: str | None = None) -> str:
        """Name of the base set, or of the add-on of a back end."""
        return "-".join((NAME, self.version, self.platform, *((backend,) if backend else ())))


def make_set(into: Path, making: Making, libraries: Libraries, backend: str | None = None) -> Path:
    """Makes the folder of a set.

    Args:
        into: The folder that it is made in.
        making: What all sets have in common.
        libraries: What goes into this one.
        backend: The back end of an add-on; None for the base.

    Returns:
        The new folder.
    """
    whole = backend is None
    top = into / making.name(backend)
    (top / "lib").mkdir(parents=True)
    for name, library in libraries.files.items():
        shutil.copyfile(library.path, top / "lib" / name)
        (top / "lib" / name).chmod(0o755)
    if whole:
        shim = making.root / "llamacore_sys" / "shim" / "llamacore_shim.h"
        upstream = (making.gate.version, making.gate.commit)
        write_c_files(top, libraries, making.source, shim, making.version, upstream)
    (top / "licenses").mkdir()
    shutil.copyfile(making.root / "LICENSE", top / "licenses" / "LICENSE")
    for name in licence_texts(whole=whole):
        shutil.copyfile(making.root / "llamacore_sys" / "licenses" / name, top / "licenses" / name)
    document = sbom(
        top.name,
        making.version,
        (making.gate.version, making.gate.commit),
        making.source,
        making.date,
        whole=whole,
    )
    write_json(top / SBOM, document)
    write_json(top / DESCRIPTION, _description(top, making, libraries, backend))
    return top


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as all files of a release have it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _description(top: Path, making: Making, libraries: Libraries, backend: str | None) -> dict[str, Any]:
    files = sorted(path for path in top.rglob("*") if path.is_file())
    return {
        "schema": SCHEMA,
        "kind": "addon" if backend else "base",
        "name": NAME,
        "version": making.version,
        "platform": making.platform,
        "backends": [backend] if backend else list(libraries.backends),
        **({} if backend else {"profile": "portable" if libraries.portable else "native"}),
        "llama_cpp": making.llama_cpp,
        **({} if backend else {"gate": {"structs": making.gate.structs}}),
        "glibc": libraries.glibc,
        "libraries": list(libraries.linked),
        "modules": list(libraries.modules),
        "requires": [asdict(requirement) for requirement in libraries.requires],
        "files": {
            path.relative_to(top).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size} for path in files
        },
    }
