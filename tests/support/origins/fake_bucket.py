"""A bucket in the test's own loop: objects in memory, requests recorded, signatures ignored.

It supports the operations that the edge uses, and responds 501 to all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from tests.support.http.h11_server import H11Server

BUCKET = "bucket"
_LISTING = (
    "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>"
)


class FakeBucket(H11Server):
    """Serves BUCKET on 127.0.0.1. ``requests``: method, key ("" is the bucket) and query."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []

    async def respond(
        self, request: h11.Request, body: AsyncIterator[bytes]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        received = b"".join([piece async for piece in body])
        method, target = request.method.decode(), request.target.decode()
        status, fields, content = self._response(method, target, received)
        return status, [*fields.items()], content

    def _response(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(target)
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        assert bucket == BUCKET
        query = parse_qs(parts.query, keep_blank_values=True)
        self.requests.append((method, key, parts.query))
        etag = {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}
        if not key:
            return 200, {}, b"" if "location" in query else _LISTING.encode()
        match method, "uploads" in query, "uploadId" in query:
            case "POST", True, _:
                return 200, {}, b"<Result><UploadId>id</UploadId></Result>"
            case "POST", _, True:
                self.objects[key] = b"in parts"
                return 200, {}, b"<Result><ETag>&quot;e&quot;</ETag></Result>"
            case "PUT", _, True:
                return 200, etag, b""
            case "DELETE", _, True:
                return 204, {}, b""
            case "GET", _, True:
                return 200, {}, b"<ListPartsResult/>"
            case "PUT", _, _:
                self.objects[key] = body
                return 200, etag, b""
            case "DELETE", _, _:
                self.objects.pop(key, None)
                return 204, {}, b""
            case (("GET" | "HEAD"), _, _):
                if key not in self.objects:
                    return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
                content = self.objects[key]
                tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
                return 200, {"ETag": f'"{tag}"', "Content-Length": str(len(content))}, content
        return 501, {}, b""
