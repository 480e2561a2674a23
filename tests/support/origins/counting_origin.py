"""An HTTP origin in a thread that counts what it sends. Its objects are made of their names."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.patience import PATIENCE_S

PIECE_BYTES = 64 << 10
_MODIFIED = "Mon, 05 Jan 2026 10:00:00 GMT"


def content(name: str, size_bytes: int, edition: int = 0) -> bytes:
    """The bytes of an object."""
    seed = hashlib.sha256(f"{name} {edition}".encode()).digest()
    block = b"".join(hashlib.sha256(seed + bytes([n])).digest() for n in range(251))
    return (block * (size_bytes // len(block) + 1))[:size_bytes]


@dataclass
class CountingOrigin:
    """``sizes``: by path without the leading slash. ``contents``: objects with given bytes.

    ``fields``: further fields of all responses.

    ``stop_after``: once so many bytes were sent, all bodies wait until ``go_on``. ``is_failing``:
    answers 503. ``has_date``: whether objects have a Date.
    """

    sizes: dict[str, int]
    contents: dict[str, bytes] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    editions: dict[str, int] = field(default_factory=dict)
    is_failing: bool = False
    has_date: bool = True
    sent_bytes: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop_after: int | None = None
    _is_stopped: threading.Event = field(default_factory=threading.Event)
    _may_go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def bytes_of(self, name: str) -> bytes:
        if name in self.contents:
            return self.contents[name]
        return content(name, self.sizes[name], self.editions.get(name, 0))

    @property
    def total_bytes(self) -> int:
        """The body bytes sent so far."""
        with self.lock:
            return sum(self.sent_bytes.values())

    def await_stop(self) -> None:
        """Returns when ``stop_after`` bytes were sent."""
        if not self._is_stopped.wait(PATIENCE_S):
            raise TimeoutError("the origin was not read that far")

    def go_on(self) -> None:
        self.stop_after = None
        self._may_go_on.set()

    def sending(self) -> None:
        """Called before each piece."""
        if self.stop_after is not None and self.total_bytes >= self.stop_after:
            self._is_stopped.set()
            self._may_go_on.wait(PATIENCE_S)

    def count(self, method: str, path: str) -> int:
        """How many requests of a method came for a path, with any query."""
        with self.lock:
            return sum(
                1
                for one, target, _ in self.requests
                if one == method and target.split("?")[0] == path
            )


@contextlib.contextmanager
def counting_origin(
    sizes: dict[str, int], fields: dict[str, str] | None = None
) -> Iterator[CountingOrigin]:
    """Runs the origin on a free port of loopback."""
    origin = CountingOrigin(sizes, fields=fields or {})

    class Handler(_Handler):
        site = origin

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    origin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield origin
    finally:
        origin.go_on()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: CountingOrigin
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        name = self.path.split("?")[0].lstrip("/")
        with self.site.lock:
            self.site.editions[name] = self.site.editions.get(name, 0) + 1
        self.send_response(204)
        self.end_headers()

    def _answer(self) -> None:
        site, name = self.site, self.path.split("?")[0].lstrip("/")
        with site.lock:
            fields = {key.lower(): value for key, value in self.headers.items()}
            site.requests.append((self.command, self.path, fields))
        if site.is_failing or (name not in site.sizes and name not in site.contents):
            self.send_response(503 if site.is_failing else 404)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        body = site.bytes_of(name)
        if "vary/" in name:
            body = content(name + self.headers.get("x-flavour", ""), len(body))
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if self.headers.get("if-none-match") == etag:
            self._head(304, etag, None)
            return
        if self.headers.get("if-match", etag) != etag:
            self._head(412, etag, 0)
            return
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", ""))
        start, end, status = 0, len(body), 200
        if match is not None and self.command == "GET":
            status = 206
            if match[1]:
                start, end = int(match[1]), min(end, int(match[2] or end) + 1)
            else:
                start = max(0, end - int(match[2]))
            if start >= len(body):
                self._head(416, etag, 0, f"bytes */{len(body)}")
                return
        part = f"bytes {start}-{end - 1}/{len(body)}" if status == 206 else None
        self._head(status, etag, end - start, part)
        if self.command == "HEAD":
            return
        for at in range(start, end, PIECE_BYTES):
            site.sending()
            piece = body[at : min(end, at + PIECE_BYTES)]
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            with site.lock:
                site.sent_bytes[name] += len(piece)

    def _fields(self) -> list[tuple[str, str]]:
        """The object's own fields: those of the first folder in its path."""
        folder = self.path.strip("/").partition("/")[0]
        by_folder = {
            "vary": [("vary", "x-flavour")],
            "private": [("cache-control", "private, no-store")],
            "short": [("cache-control", "max-age=1, stale-while-revalidate=600")],
            "tagged": [("cache-tag", "news")],
            "text": [("content-type", "text/plain")],
            "short-lived": [("cache-control", "max-age=1, stale-if-error=600")],
            "aged": [("age", "50"), ("cache-control", "max-age=100")],
            "rude": [("streamedge-as-of", "9-9"), ("streamedge-stale", "1")],
        }
        return [*self.site.fields.items(), *by_folder.get(folder, [])]

    def _head(self, status: int, etag: str, length: int | None, part: str | None = None) -> None:
        if self.site.has_date:
            self.send_response(status)
        else:
            self.send_response_only(status)
        self.send_header("etag", etag)
        self.send_header("last-modified", _MODIFIED)
        if length is not None:
            self.send_header("content-length", str(length))
        if part is not None:
            self.send_header("content-range", part)
        for name, value in self._fields():
            self.send_header(name, value)
        self.end_headers()
