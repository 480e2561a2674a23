"""A command with --user logs in once, however many calls it makes, and logs out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from streamedge.cli.main import app
from tests.cli.test_operators import STATUS, VIEWERS

COOKIE = "session=abc"
ID = "0" * 64
PAGES = 3
OBJECT: dict[str, Any] = {
    "id": ID, "name": "/a", "origin": "main", "kind": "object", "size_bytes": 1,
    "cached_bytes": 1, "ranges": [], "age_s": 0, "pinned": False, "details": [],
    "used_s": 0, "headers": {}, "freed_bytes": 1,
}  # fmt: skip


class Edge(ThreadingHTTPServer):
    """The admin address of an edge whose cache map has several pages."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.has_cookie: list[bool] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Edge

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def do_DELETE(self) -> None:
        self._respond()

    def _respond(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.server.calls.append(f"{self.command} {parts.path}")
        if parts.path != "/login":
            self.server.has_cookie.append(self.headers.get("Cookie") == COOKIE)
        text = json.dumps(document_of(parts.path, parse_qs(parts.query))).encode()
        self.send_response(200)
        if parts.path == "/login":
            self.send_header("Set-Cookie", f"{COOKIE}; HttpOnly")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def document_of(path: str, query: dict[str, list[str]]) -> dict[str, Any]:
    if path == "/cache":
        page = int(query.get("cursor", ["0"])[0]) + 1
        return {"objects": [OBJECT], "cursor": str(page) if page < PAGES else None}
    if path == "/status":
        return STATUS
    return VIEWERS if path == "/viewers" else OBJECT


@pytest.fixture(name="edge")
def _edge() -> Iterator[Edge]:
    with Edge() as edge:
        serving = threading.Thread(target=edge.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield edge
        edge.shutdown()
        serving.join()


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (["cache", "ls"], PAGES),
        (["cache", "export"], PAGES),
        (["cache", "show", ID], 2),
        (["cache", "purge", ID, ID], 4),
        (["cache", "pin", ID], 2),
        (["cache", "unpin", ID], 2),
        (["viewers", "end", "1-1", "1-2"], 2),
        (["top", "--count", "2", "--interval", "0.5"], 4),
        (["status"], 1),
        (["viewers"], 1),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_command_logs_in_once(edge: Edge, arguments: list[str], calls: int) -> None:
    result = CliRunner().invoke(
        app, ["--admin", edge.url, "--user", "anna", *arguments], "secret\n"
    )
    assert result.exit_code == 0, result.output
    assert edge.calls[0] == "POST /login"
    assert edge.calls[-1] == "POST /logout"
    assert len(edge.calls) == calls + 2
    assert all(edge.has_cookie)


@pytest.mark.parametrize(
    ("arguments", "member"),
    [
        (["cache", "purge", ID, ID], "object"),
        (["cache", "pin", ID], "object"),
        (["cache", "unpin", ID], "object"),
        (["viewers", "end", "1-1", "1-2"], "id"),
        (["writes", "retry", "7"], "serial"),
        (["writes", "discard", "7"], "serial"),
        (["fleet", "drain", "fra-1"], "name"),
        (["fleet", "undrain", "fra-1"], "name"),
        (["fleet", "remove", "fra-1"], "name"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_command_that_changes_something_prints_what_was_done_as_json(
    edge: Edge, arguments: list[str], member: str
) -> None:
    result = CliRunner().invoke(app, ["--admin", edge.url, *arguments, "--json"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert len(lines) == len(arguments) - 2
    assert all(member in line for line in lines)
