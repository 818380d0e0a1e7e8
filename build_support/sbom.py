"""What is inside the libraries, as SPDX 2.3: llama.cpp and the sources that it carries, with their licences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from build_support.errors import BuildError

_PUBLIC_DOMAIN = "LicenseRef-Public-Domain"


@dataclass(frozen=True)
class Part:
    """Source of somebody else's that is compiled into the libraries.

    Attributes:
        name: Its name.
        licence: SPDX expression.
        path: File or folder in the source of llama.cpp.
        text: Name of its licence in `llamacore_sys/licenses/`; empty where no text has to be passed on.
        version: File that states its version, and the expression that finds its numbers there.
    """

    name: str
    licence: str
    path: str
    text: str = ""
    version: tuple[str, str] | None = None


PARTS = (
    Part(
        "cpp-httplib",
        "MIT",
        "vendor/cpp-httplib",
        "cpp-httplib.txt",
        ("vendor/cpp-httplib/httplib.h", r'CPPHTTPLIB_VERSION "([\d.]+)"'),
    ),
    Part("llamafile-sgemm", "MIT", "ggml/src/ggml-cpu/llamafile", "llamafile-sgemm.txt"),
    Part(
        "miniaudio",
        "Unlicense OR MIT-0",
        "vendor/miniaudio",
        version=("vendor/miniaudio/miniaudio.h", r"#define MA_VERSION_(?:MAJOR|MINOR|REVISION)\s+(\d+)"),
    ),
    Part(
        "nlohmann-json",
        "MIT",
        "vendor/nlohmann",
        "nlohmann-json.txt",
        ("vendor/nlohmann/json.hpp", r"#define NLOHMANN_JSON_VERSION_(?:MAJOR|MINOR|PATCH)\s+(\d+)"),
    ),
    Part("rotate-bits", "MIT", "vendor/hash/rotate-bits", "rotate-bits.txt"),
    Part("sha1", _PUBLIC_DOMAIN, "vendor/hash/sha1"),
    Part("sha256", _PUBLIC_DOMAIN, "vendor/hash/sha256", "sha256.txt"),
    Part("stb_image", "MIT OR Unlicense", "vendor/stb", version=("vendor/stb/stb_image.h", r"stb_image - v([\d.]+)")),
    Part("subprocess.h", "Unlicense", "vendor/sheredom"),
    Part(
        "xxHash",
        "BSD-2-Clause",
        "vendor/hash/xxhash",
        "xxhash.txt",
        ("vendor/hash/xxhash/xxhash.h", r"#define XXH_VERSION_(?:MAJOR|MINOR|RELEASE)\s+(\d+)"),
    ),
)
UPSTREAM_TEXT = "llama.cpp.txt"


def licences(*, whole: bool) -> list[str]:
    """The SPDX expressions of a set, sorted; `whole` when it has more of llama.cpp than a back end."""
    return sorted({"MIT", *(part.licence for part in PARTS if whole)})


def licence_texts(*, whole: bool) -> list[str]:
    """Names of the files in `llamacore_sys/licenses/` that go with a set."""
    return sorted({UPSTREAM_TEXT, *(part.text for part in PARTS if whole and part.text)})


def sbom(name: str, version: str, upstream: tuple[str, str], source: Path, date: int, *, whole: bool) -> dict[str, Any]:
    """The SPDX document of a set.

    Args:
        name: The set's name.
        version: Version of llamacore.
        upstream: Version and commit of llama.cpp.
        source: Its source tree, which the versions of its parts are read from.
        date: Seconds since 1970.
        whole: False for a set that has a back end only.

    Raises:
        BuildError: A part is not where it is said to be, or its version cannot be found.
    """
    number, commit = upstream
    packages = [
        _package(name, version, "MIT", "NOASSERTION"),
        _package("llama.cpp", number, "MIT", f"git+https://github.com/ggml-org/llama.cpp@{commit}"),
    ]
    packages += [_package(part.name, _version(part, source), part.licence, "NOASSERTION") for part in PARTS if whole]
    ids = [package["SPDXID"] for package in packages]
    contained = [(ids[0], ids[1]), *((ids[1], other) for other in ids[2:])]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{commit}-{date}",
        "creationInfo": {
            "created": datetime.fromtimestamp(date, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: llamacore-build_lib-{version}"],
        },
        "packages": packages,
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", ids[0]),
            *(_relationship(one, "CONTAINS", other) for one, other in contained),
        ],
    }
    if any(package["licenseDeclared"] == _PUBLIC_DOMAIN for package in packages):
        document["hasExtractedLicensingInfos"] = [
            {
                "licenseId": _PUBLIC_DOMAIN,
                "name": "Public domain",
                "extractedText": "The authors have placed this source in the public domain.",
            }
        ]
    return document


def _package(name: str, version: str, licence: str, location: str) -> dict[str, Any]:
    package = {
        "SPDXID": f"SPDXRef-Package-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": location,
        "filesAnalyzed": False,
        "licenseConcluded": licence,
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
    }
    return package if version else {key: value for key, value in package.items() if key != "versionInfo"}


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _version(part: Part, source: Path) -> str:
    if not (source / part.path).exists():
        raise BuildError(f"{part.name} is not at {source / part.path}", "bring build_support/sbom.py up to date")
    if part.version is None:
        return ""
    file, pattern = part.version
    numbers = re.findall(pattern, (source / file).read_text(encoding="utf-8"))
    if not numbers:
        raise BuildError(f"{file} does not tell the version of {part.name}", "bring build_support/sbom.py up to date")
    return ".".join(numbers[:3])
