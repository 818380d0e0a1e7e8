"""Fetching over HTTP: with progress, limits, and going on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from .. import __version__
from ..errors import CompanionError, DamagedSetError, DownloadError

Progress = Callable[[str, int, int], bool | None]
"""Called with the name of a file, the bytes of it that are here and all of its bytes (0 when the server does not tell);
returning False cancels."""

KEPT_SECONDS = 7 * 24 * 3600
"""How long a part of a file that was never completed is kept."""

_CHUNK = 1 << 16
_ATTEMPTS = 4
_PAUSES = (0.2, 1.0, 3.0)
_TRANSPORT = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class _Origin:
    """What a part of a file is a part of."""

    url: str
    etag: str
    modified: str
    size: int | None


class _Restart(Exception):  # noqa: N818
    """What is here does not belong to what the server has now."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to something less."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            fp.close()
            raise DownloadError(
                f"{req.full_url} leads from {req.type} to {newurl}", hint="give the address where it really lies"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def read_small(url: str, limit: int, timeout: float) -> bytes | None:
    """Fetch a small file.

    Args:
        url: Its address, http or https.
        limit: Most bytes that it may have.
        timeout: Seconds without a byte after which it is given up.

    Returns:
        Its content; None when the server has no such file.

    Raises:
        DownloadError: It could not be fetched, or is larger.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _open(url, {}, timeout) as response:
                content: bytes = response.read(limit + 1)
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code in (404, 410):
                return None
            _stop_or_wait(url, exc, attempt)
        except DownloadError:
            raise
        except _TRANSPORT as exc:
            _stop_or_wait(url, exc, attempt)
        else:
            if len(content) > limit:
                raise DownloadError(f"{url} is larger than the {limit} bytes that it may have")
            return content
    raise AssertionError("the last attempt returns or raises")


def fetch(
    url: str, folder: Path, *, limit: int, size: int | None, timeout: float, progress: Progress | None, fresh: bool
) -> tuple[Path, bool]:
    """Fetch a file into a folder, going on with the part of it that is there.

    Args:
        url: Its address, http or https.
        folder: Folder for it; made when it is not there. The name of the file is derived from the address.
        limit: Most bytes that it may have.
        size: Bytes that it has to have; None when nobody knows.
        timeout: Seconds without a byte after which an attempt is given up.
        progress: See `Progress`.
        fresh: Do not go on with what is there, start anew.

    Returns:
        The file, of which nothing is verified, and whether a part of it was there before.

    Raises:
        DownloadError: It could not be fetched; the part that came stays for the next time.
        DamagedSetError: It has another size than it has to have.
        CompanionError: `progress` returned False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (hashlib.sha256(url.encode()).hexdigest()[:16] + ".part")
    if fresh:
        discard(part)
    resumed = part.exists()
    failures = 0
    while True:
        before = _size_of(part)
        try:
            _attempt(url, part, limit, size, timeout, progress)
            return part, resumed
        except _Restart:
            discard(part)
            failures += 1
            if failures >= _ATTEMPTS:
                raise DownloadError(f"{url} changes while it is fetched", hint="try again later") from None
        except urllib.error.HTTPError as exc:
            exc.close()
            _stop_or_wait(url, exc, failures)
            failures += 1
        except (DownloadError, DamagedSetError):
            raise
        except _TRANSPORT as exc:
            failures = 0 if _size_of(part) > before + _CHUNK else failures
            _stop_or_wait(url, exc, failures)
            failures += 1


def discard(part: Path) -> None:
    """Remove what `fetch` keeps of a file."""
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove parts of files that nobody went on with."""
    for part in folder.glob("*.part"):
        if part.stat().st_mtime < time.time() - KEPT_SECONDS:
            discard(part)


def _attempt(url: str, part: Path, limit: int, size: int | None, timeout: float, progress: Progress | None) -> None:
    have, origin = _size_of(part), _origin_of(part, url)
    if origin is None or not (origin.etag or origin.modified or origin.size):
        discard(part)  # nothing would tell whether the rest is of the same file
        have, origin = 0, None
    headers = {}
    if have and origin is not None:
        if have == origin.size:
            return  # it was complete, and what came after it was interrupted
        headers["Range"] = f"bytes={have}-"
        if origin.etag or origin.modified:
            headers["If-Range"] = origin.etag or origin.modified
    try:
        response = _open(url, headers, timeout)
    except urllib.error.HTTPError as exc:
        if exc.code == 416:
            exc.close()
            raise _Restart from None
        raise
    with response:
        have, total = _start_of(response, have, origin)
        if (total or 0) > limit:
            raise DownloadError(f"{url} has {total} bytes, more than the {limit} that it may have")
        if size is not None and total is not None and total != size:
            discard(part)
            raise DamagedSetError(f"{url} has {total} bytes, the release says {size}", hint="ask who published it")
        if not have:
            _note_of(part).write_text(json.dumps(asdict(_origin(url, response.headers, total))), encoding="utf-8")
        name = urlsplit(url).path.rsplit("/", 1)[-1]
        with open(part, "ab" if have else "wb") as file:
            while block := response.read1(_CHUNK):
                file.write(block)
                have += len(block)
                if have > (limit if total is None else total):
                    file.close()
                    discard(part)
                    raise DownloadError(f"{url} is larger than it may be")
                if progress is not None and progress(name, have, total or 0) is False:
                    raise CompanionError(f"downloading {url}: cancelled by the progress callback")
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def _start_of(response: Any, have: int, origin: _Origin | None) -> tuple[int, int | None]:
    """At which byte an answer starts, and how many bytes the whole file has, if the server tells."""
    length = response.headers.get("Content-Length", "")
    if response.status != 206:
        return 0, int(length) if length.isdecimal() else None
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if origin is None or found is None or int(found[1]) != have:
        raise _Restart
    total = int(found[3])
    etag = response.headers.get("ETag", "")
    if (origin.size is not None and total != origin.size) or (origin.etag and etag and etag != origin.etag):
        raise _Restart
    return have, total


def _open(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    request = urllib.request.Request(
        url, headers={"User-Agent": f"llamacore/{__version__}", "Accept-Encoding": "identity", **headers}
    )
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


def _stop_or_wait(url: str, exc: Exception, failures: int) -> None:
    """Wait before another attempt at what may go away by itself, raise what will not."""
    if isinstance(exc, urllib.error.HTTPError):
        hint = {401: "it is not public", 403: "it is not public", 404: "check the address", 410: "check the address"}
        if exc.code < 500 and exc.code != 429:
            raise DownloadError(f"{url}: the server says {exc.code} {exc.reason}", hint=hint.get(exc.code, "")) from exc
        reason = f"the server says {exc.code} {exc.reason}"
    elif isinstance(exc, http.client.IncompleteRead):
        reason = f"the transfer ended {exc.expected} bytes before its end"
    else:
        reason = str(getattr(exc, "reason", exc)) or type(exc).__name__
    if getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        raise CompanionError(f"{url} cannot be kept: {exc}", hint="free some space, or set LLAMACORE_DATA_DIR") from exc
    certificate = "certificate" in reason.lower()
    if certificate or failures >= _ATTEMPTS - 1:
        raise DownloadError(
            f"{url} could not be fetched: {reason}",
            hint="" if certificate else "check the network and try again: it goes on where it stopped",
        ) from exc
    time.sleep(_PAUSES[failures])


def _origin(url: str, headers: Message, total: int | None) -> _Origin:
    etag = headers.get("ETag", "")
    return _Origin(url, "" if etag.startswith("W/") else etag, headers.get("Last-Modified", ""), total)


def _origin_of(part: Path, url: str) -> _Origin | None:
    try:
        origin = _Origin(**json.loads(_note_of(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return origin if origin.url == url else None


def _note_of(part: Path) -> Path:
    return part.with_suffix(".json")


def _size_of(part: Path) -> int:
    try:
        return os.stat(part).st_size
    except FileNotFoundError:
        return 0
