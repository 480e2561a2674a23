"""Objects that the origin stores in a content coding; the encoded bytes are the object (RFC 9110
§8.4)."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from streamedge.cache.storage.extent import CHUNK_BYTES
from tests.support.http.http_viewer import Viewer, open_viewer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Reply

CODED = gzip.compress(random.Random(1).randbytes(1_500_000), 1, mtime=0)
FAR = len(CODED) - 2 * CHUNK_BYTES


def put(edge: WebEdge, name: str, body: bytes, coding: str) -> None:
    fields = (("Cache-Control", "max-age=600"), ("Content-Encoding", coding))
    edge.origin.put(name, body, etag='"v1"', headers=fields, content_type="text/css")


async def looks_right(viewer: Viewer, path: str, coding: str | None, body: bytes) -> None:
    """Every kind of request gets the encoded bytes, in any order."""
    first = await viewer.get(path, range=f"bytes={FAR}-{FAR + 9}", accept_encoding="gzip")
    assert (first.status, first.body) == (206, body[FAR : FAR + 10])
    for accepted in ("gzip", "identity"):
        whole = await viewer.get(path, accept_encoding=accepted)
        assert (whole.status, whole.fields.get("content-encoding")) == (200, coding)
        assert whole.body == body
        part = await viewer.get(path, range="bytes=5-9", accept_encoding=accepted)
        assert (part.status, part.body) == (206, body[5:10])
        assert part.fields.get("content-encoding") == coding
        assert part.fields["etag"] == '"v1"'
    head = await viewer.get(path, "HEAD")
    assert (head.status, head.fields["content-length"]) == (200, str(len(body)))


CODINGS = [
    ("gzip", "gzip"),
    ("br", "br"),
    ("utf-8", "utf-8"),
    ("aws-chunked", None),
    ("gzip,aws-chunked", "gzip"),
    ("identity", None),
]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("stored", "sent"), CODINGS)
async def test_encoded_object_of_a_site_is_passed_on(
    cache_root: Path, stored: str, sent: str | None, compress: bool
) -> None:
    if compress and sent is None:
        stored, sent = "gzip", "gzip"  # a plain object is compressed
    async with (
        serve_web(cache_root, rules={"compress": compress}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, "css", CODED, stored)
        await looks_right(viewer, "/css", sent, CODED)


@pytest.mark.parametrize(("stored", "sent"), CODINGS)
async def test_encoded_object_of_a_bucket_is_passed_on(
    cache_root: Path, stored: str, sent: str | None
) -> None:
    async with serve_web(cache_root) as site:
        tables = {
            "origins": {
                "main": {
                    "type": "s3",
                    "bucket": "b",
                    "endpoint": site.origin.url,
                    "path_style": True,
                    "anonymous": True,
                }
            }
        }
        (cache_root / "other").mkdir()
        async with (
            serve_web(cache_root, tables=tables, beside=site) as edge,
            open_viewer(edge.port) as viewer,
        ):
            put(edge, "b/css", CODED, stored)
            await looks_right(viewer, "/css", sent, CODED)


async def test_plain_text_with_a_framing_for_a_coding_is_compressed(cache_root: Path) -> None:
    page = b"<p>page</p>" * 500
    async with (
        serve_web(cache_root, rules={"compress": True}) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge, "css", page, "aws-chunked")
        response = await viewer.get("/css", accept_encoding="gzip")
        assert response.fields["content-encoding"] == "gzip"
        assert gzip.decompress(response.body) == page


async def test_encoded_response_that_is_not_stored_has_its_content_encoding(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        fields = (("Cache-Control", "no-store"), ("Content-Encoding", "gzip, aws-chunked"))
        edge.origin.script(Reply(status=200, headers=fields, body=CODED))
        response = await viewer.get("/css")
        assert response.fields["content-encoding"] == "gzip"
        assert response.body == CODED
