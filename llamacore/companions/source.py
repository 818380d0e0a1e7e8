"""Where a companion set comes from: a manifest, an archive or a folder, at a path or at an address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from ..errors import CompanionError, DamagedSetError, InvalidArgumentError
from ..params import StrPath
from .download import read_small

MAX_MANIFEST_BYTES = 4 << 20
_MAX_SIDECAR_BYTES = 4096
_ARCHIVE_ENDINGS = (".tar.gz", ".tgz")


@dataclass(frozen=True)
class Place:
    """A file or a folder.

    Attributes:
        text: Its path or its address, as messages have it.
        path: Its path; None for an address.
    """

    text: str
    path: Path | None

    @property
    def name(self) -> str:
        """Its last part, without what an address has behind it."""
        return self.path.name if self.path else unquote(urlsplit(self.text).path.rsplit("/", 1)[-1])

    def beside(self, name: str) -> Place:
        """The file of another name in the same folder."""
        if self.path:
            found = self.path.with_name(name)
            return Place(str(found), found)
        address = urlsplit(self.text)
        return Place(address._replace(path=f"{address.path.rsplit('/', 1)[0]}/{quote(name)}").geturl(), None)

    def read(self, limit: int, timeout: float) -> bytes | None:
        """Read all of a small file.

        Returns:
            Its content; None when there is no such file.

        Raises:
            DownloadError: It could not be fetched, or is too large.
            CompanionError: It could not be read, or is too large.
        """
        if self.path is None:
            return read_small(self.text, limit, timeout)
        try:
            with open(self.path, "rb") as file:
                content = file.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise CompanionError(f"{self.text} cannot be read: {exc.strerror}") from exc
        if len(content) > limit:
            raise DamagedSetError(f"{self.text} is larger than the {limit} bytes that it may have")
        return content


def place_of(source: StrPath) -> tuple[Place, Literal["manifest", "archive", "folder"]]:
    """Find out what a source is.

    Args:
        source: A path, or an address that starts with http://, https:// or file://. What ends in .json is a release
            manifest, what ends in .tar.gz or .tgz an archive; a folder is an unpacked set.

    Raises:
        InvalidArgumentError: It is none of these, or is not there.
    """
    text = os.fspath(source)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    path: Path | None = Path(text).expanduser()
    if scheme:
        address = urlsplit(text)
        kind = scheme[1].lower()
        if kind == "file" and address.netloc in ("", "localhost"):
            path = Path(unquote(address.path))
        elif kind in ("http", "https") and address.hostname and not address.fragment:
            path = None
        else:
            raise InvalidArgumentError(f"the source {text!r}", hint="use http://, https://, file:/// or a path")
    if not text:
        raise InvalidArgumentError("the source is empty", hint="give a manifest, an archive or a folder")
    place = Place(text if path is None else str(path), path)
    if path is not None and path.is_dir():
        return place, "folder"
    if path is not None and not path.is_file():
        raise InvalidArgumentError(f"there is no {path}", hint="give a manifest, an archive or a folder")
    name = place.name.lower()
    if name.endswith(".json"):
        return place, "manifest"
    if name.endswith(_ARCHIVE_ENDINGS):
        return place, "archive"
    raise InvalidArgumentError(
        f"{text} is neither a release manifest (.json) nor an archive (.tar.gz)", hint="give one of them, or a folder"
    )


def sidecar_hash(archive: Place, timeout: float) -> str | None:
    """The SHA-256 in the file `<archive>.sha256`; None when there is no such file.

    Raises:
        DamagedSetError: There is one, but no SHA-256 in it.
        DownloadError: It could not be fetched.
    """
    sidecar = archive.beside(f"{archive.name}.sha256")
    content = sidecar.read(_MAX_SIDECAR_BYTES, timeout)
    if content is None:
        return None
    words = content.decode("ascii", "replace").split()
    if not words:
        raise DamagedSetError(f"{sidecar.text} is empty")
    return checked_hash(words[0], sidecar.text)


def checked_hash(text: str, where: str) -> str:
    """A SHA-256 in lower case.

    Raises:
        DamagedSetError: It is none.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise DamagedSetError(f"{where}: {text[:80]!r} is no SHA-256", hint="it has 64 digits 0-9 a-f")
    return text.lower()
