"""A hub that speaks as much of the Hugging Face Hub's interface as downloading a model takes, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server serves and what it was asked."""

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]], *, gated: tuple[str, ...] = ()) -> None:
        self.repos = repos
        self.gated = gated
        self.token = "hf_secret"
        self.requests: list[str] = []
        self.url = ""

    def fetched(self) -> list[str]:
        """Paths of the files whose bytes were sent."""
        return [line.split(" ", 1)[1] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        pass

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _refuse(self, status: int, code: str, *, body: bool) -> None:
        message = json.dumps({"error": code}).encode()
        self._send(status, message, {"X-Error-Code": code, "X-Error-Message": code}, body=body)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:tree|revision)/([^/]+).*)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repo = match[1] if match else ""
        if repo not in self.hub.repos:
            return self._refuse(404, "RepoNotFound", body=body)
        if repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(403, "GatedRepo", body=body)
        if match[2] not in (None, "main", COMMIT):
            return self._refuse(404, "RevisionNotFound", body=body)
        files = self.hub.repos[repo]
        if api:
            rows = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
            siblings = [{"rfilename": name} for name in files]
            answer = rows if "/tree/" in path else {"id": repo, "sha": COMMIT, "siblings": siblings}
            return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body=body)
        if file[3] not in files:
            return self._refuse(404, "EntryNotFound", body=body)
        data = files[file[3]]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and body:
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._send(206, data[first : last + 1], headers, body=True)
        return self._send(200, data, headers, body=body)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port of this machine."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
