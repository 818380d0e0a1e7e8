"""A server of files that can do what servers do to downloads: no ranges, lost connections, changed files, silence."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Files:
    """What is served and how.

    Attributes:
        content: Files by their path, as in "/a.tar.gz".
        ranges: Whether a part can be asked for.
        tags: Whether answers carry an ETag.
        lengths: Whether answers tell how long they are.
        cuts: After how many bytes the connection is lost; one of a path is used up by each answer.
        statuses: Answers that are only a status; one of a path is used up by each answer.
        redirects: Where a path leads.
        stall_after: The byte of a file, by path, at which answers stop and wait until `go_on` is set.
        requests: Each request: its path and its headers in lower case.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    tags: bool = True
    lengths: bool = True
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    stall_after: dict[str, int] = field(default_factory=dict)
    go_on: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    url: str = ""

    def add(self, folder: Path) -> None:
        """Serve the files of a folder."""
        self.content.update({f"/{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()})

    def asked_for(self, path: str) -> list[str]:
        """The ranges that were asked for of a file, an empty text for all of it."""
        return [headers.get("range", "") for asked, headers in self.requests if asked == path]


class _Handler(BaseHTTPRequestHandler):
    files: Files
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        files, path = self.files, self.path
        files.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
        self.close_connection = True
        if files.statuses.get(path):
            self._empty(files.statuses[path].pop(0))
            return
        if path in files.redirects:
            self._empty(302, Location=files.redirects[path])
            return
        if path not in files.content:
            self._empty(404)
            return
        data = files.content[path]
        tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
        first = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and files.ranges and self.headers.get("If-Range", tag) == tag:
            first = int(wanted[1])
            if first >= len(data):
                self._empty(416)
                return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if files.tags:
            self.send_header("ETag", tag)
        if files.lengths:
            self.send_header("Content-Length", str(len(data) - first))
        self.send_header("Connection", "close")
        self.end_headers()
        body = data[first:]
        if files.cuts.get(path):
            body = body[: files.cuts[path].pop(0)]
        if path in files.stall_after:
            here = max(0, files.stall_after[path] - first)
            self.wfile.write(body[:here])
            self.wfile.flush()
            files.stalled.set()
            files.go_on.wait(60)
            body = body[here:]
        with suppress(OSError):  # whoever asked may have gone
            self.wfile.write(body)

    def _empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    """Serve on a free port of this machine."""
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield files
    finally:
        files.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
