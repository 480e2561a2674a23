"""Compressed responses of objects that the origin cannot deliver for a time."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

from tests.support.http.http_viewer import TruncatedError, open_viewer
from tests.support.http.web_edge import serve_web

PAGE = b"a { color: red }\n" * 6000  # two chunks


async def test_error_while_an_object_is_compressed_is_not_stored(cache_root: Path) -> None:
    async with serve_web(cache_root, rules={"compress": True}) as edge:

        def put() -> None:
            edge.origin.put("page.css", PAGE, etag='"1"', content_type="text/css")

        put()
        async with open_viewer(edge.port) as viewer:
            assert (await viewer.get("/page.css", range="bytes=0-9")).body == PAGE[:10]
        edge.origin.remove("page.css")
        with contextlib.suppress(TruncatedError):
            async with open_viewer(edge.port) as viewer:
                await viewer.get("/page.css", accept_encoding="gzip")  # its second chunk is gone
        put()
        async with open_viewer(edge.port) as viewer:
            for _each in range(3):
                response = await viewer.get("/page.css", accept_encoding="gzip")
                assert response.status == 200
                assert response.fields["content-encoding"] == "gzip"
                assert gzip.decompress(response.body) == PAGE
