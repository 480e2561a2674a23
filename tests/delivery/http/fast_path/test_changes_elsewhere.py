"""Hot objects after writes and invalidations of other objects: no worker looks them up again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamedge.delivery.http.http1.encoding import Http1Heads
from streamedge.delivery.http.policy.response_headers import Field
from tests.support.http.http_viewer import Viewer, open_viewer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Reply

DISK_EVENTS = {"open", "os.utime", "os.rename", "os.remove", "os.link", "os.mkdir", "os.truncate"}
RULES = {
    "methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
    "compress": True,
}
ETAG = '"1"'
REQUESTS = {
    "whole object": ("/hot", "GET", {}),
    "range": ("/hot", "GET", {"range": "bytes=1-2"}),
    "suffix range": ("/hot", "GET", {"range": "bytes=-2"}),
    "not modified": ("/hot", "GET", {"if-none-match": ETAG}),
    "HEAD": ("/hot", "HEAD", {}),
    "stored error": ("/gone", "GET", {}),
    "query": ("/hot?page=1", "GET", {}),
    "compressed form": ("/hot.css", "GET", {"accept-encoding": "gzip"}),
}
_recorders: list[list[tuple[str, object]]] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event in DISK_EVENTS:
        for recorder in _recorders:
            recorder.append((event, arguments[0]))


@pytest.fixture(scope="module")
def _audited() -> None:
    sys.addaudithook(_audit)  # cannot be removed: it records only within ``disk_accesses``


@contextmanager
def disk_accesses() -> Iterator[list[tuple[str, object]]]:
    """The files that this process opens or changes."""
    accesses: list[tuple[str, object]] = []
    _recorders.append(accesses)
    try:
        yield accesses
    finally:
        _recorders.remove(accesses)


async def post_through(edge: WebEdge, viewer: Viewer) -> None:
    edge.origin.script(Reply(status=200, body=b"ok", headers=(("Cache-Control", "no-store"),)))
    assert (await viewer.get("/form", "POST", content_length="0")).status == 200


@pytest.mark.usefixtures("_audited")
@pytest.mark.parametrize("change", ["write", "invalidation", "soft invalidation"])
@pytest.mark.parametrize("name", REQUESTS)
async def test_change_of_another_object_costs_hits_no_disk_access(
    cache_root: Path, name: str, change: str
) -> None:
    path, method, fields = REQUESTS[name]
    async with (
        serve_web(cache_root, rules=RULES) as edge,
        serve_web(cache_root, rules=RULES, beside=edge) as other,
        open_viewer(edge.port) as one,
        open_viewer(other.port) as two,
    ):
        for hot in ("hot", "hot?page=1"):
            edge.origin.put(hot, b"hot object", etag=ETAG)
        edge.origin.put("hot.css", b"a { color: red }" * 1000, etag=ETAG, content_type="text/css")
        await one.get(path)
        for viewer in (one, two) * 3:
            response = await viewer.get(path, method, **fields)
        requests = len(edge.origin.requests)
        for _round in range(3):
            if change == "write":
                await post_through(edge, one)
                requests += 1
            else:
                edge.invalidate("/elsewhere", "/other/*", soft=change == "soft invalidation")
            with disk_accesses() as accesses:
                for viewer in (one, two, one, two):
                    again = await viewer.get(path, method, **fields)
                    assert (again.status, again.body) == (response.status, response.body)
            assert accesses == []
        assert len(edge.origin.requests) == requests


async def test_change_of_another_object_keeps_the_prepared_response(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_at_s: list[int] = []
    tail = Http1Heads.tail

    def counted(self: Http1Heads, fields: Iterable[Field]) -> bytes:
        prepared_at_s.append(int(time.time()))
        return tail(self, fields)

    async with serve_web(cache_root, rules=RULES) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("hot", b"hot object", etag=ETAG)
        await viewer.get("/hot")
        monkeypatch.setattr(Http1Heads, "tail", counted)
        for _round in range(20):
            await post_through(edge, viewer)
            assert (await viewer.get("/hot")).cache == "Hit"
            edge.invalidate("/elsewhere")
            assert (await viewer.get("/hot")).cache == "Hit"
    # About once a second, as without changes.
    assert len(prepared_at_s) <= 2 * len(set(prepared_at_s))
