"""PUT, DELETE and S3's multipart calls where the origin has objects: to the origin, or the queue.

Owns when a write is answered, and that nothing older is served once it is. How an object is
written is the origin's business (``origin/writing``), how it waits the journal's (``writing``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from streamedge.cache.responses import ResponseCache
from streamedge.delivery.web.behaviors import WriteMode
from streamedge.delivery.web.requests import WebRequest
from streamedge.delivery.web.routes import Route
from streamedge.errors import OriginError
from streamedge.origin.s3_protocol import (
    S3Call,
    S3Relay,
    hoisted_fields,
    read_call,
)
from streamedge.origin.writing import Write, WriteAnswer, WriteRefusedError, kept_fields, refuse
from streamedge.writing.journal import Journal

_OF_OBJECTS = frozenset({"PUT", "DELETE"})


class Writes:
    """The writes of a worker. ``journal`` is None where no behavior writes back."""

    def __init__(
        self, responses: ResponseCache, journal: Journal | None, body_bytes_max: int
    ) -> None:
        self._responses = responses
        self._journal = journal
        self._body_bytes_max = body_bytes_max

    def needs(self, found: Route, request: WebRequest) -> bool:
        """Whether a request is one of these, and not for the cache or the site to answer."""
        binding = found.rule.binding
        if binding.is_site:
            is_back = found.rule.behavior.write is WriteMode.BACK
            return is_back and request.method in _OF_OBJECTS and not request.query
        return request.method not in {"GET", "HEAD", "OPTIONS"} or (
            bool(binding.bucket) and "uploadId=" in request.query
        )

    def bounded(
        self, request: WebRequest, body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[bytes] | None:
        """A request's body; raises WriteRefusedError 413 when it is longer than allowed."""
        size_bytes = _size_bytes(request)
        if (size_bytes or 0) > self._body_bytes_max:
            raise refuse(413, "EntityTooLarge", "the body is larger than limits.request_body")
        if body is None or size_bytes is not None:
            return body
        return _bounded(body, self._body_bytes_max)

    async def write(
        self, found: Route, request: WebRequest, body: AsyncIterator[bytes] | None
    ) -> WriteAnswer:
        """Does what a request asks for. Raises OriginError, JournalError, what ``body`` raises."""
        try:
            return await self._write(found, request, body)
        except WriteRefusedError as exc:
            return exc.answer

    async def _write(
        self, found: Route, request: WebRequest, body: AsyncIterator[bytes] | None
    ) -> WriteAnswer:
        binding = found.rule.binding
        if "x-amz-copy-source" in request.headers:  # else its empty body would be the object
            raise refuse(501, "NotImplemented", "objects are not copied through the edge")
        size_bytes = _size_bytes(request)
        body = self.bounded(request, body)
        keys = binding.keys_written(found.name)
        fields = request.fields
        if found.is_s3:
            fields += hoisted_fields(request.query)
        if binding.relay is not None:
            call = read_call(request.method, found.name, request.query, fields, size_bytes)
            if call is not None:
                return await self._relay(binding.relay, call, keys, body)
        if request.method not in _OF_OBJECTS or binding.writer is None:
            raise refuse(405, "MethodNotAllowed", "objects are written with PUT and DELETE")
        write = Write(request.method, found.name, kept_fields(fields), size_bytes)
        if found.rule.behavior.write is WriteMode.BACK and self._journal is not None:
            answer = await self._journal.accept(keys[0], binding.written.name, write, body)
            if answer.succeeded:
                self._refuse_older(keys)
            return answer
        try:
            answer = await binding.writer.write(write, body)
        except OriginError:
            self._refuse_older(keys)  # nobody knows whether it was done
            raise
        if answer.succeeded:
            self._refuse_older(keys)
        return answer

    async def _relay(
        self,
        relay: S3Relay,
        call: S3Call,
        keys: tuple[str, ...],
        body: AsyncIterator[bytes] | None,
    ) -> WriteAnswer:
        try:
            return await relay.relay(call, body)
        finally:
            if call.changes_object:
                self._refuse_older(keys)

    def _refuse_older(self, keys: tuple[str, ...]) -> None:
        self._responses.refuse_older(*keys)


def _size_bytes(request: WebRequest) -> int | None:
    length = request.headers.get("content-length")
    if length is not None:
        return int(length)  # the parser let no other through
    return None if request.has_body else 0


async def _bounded(body: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    came_bytes = 0
    async for piece in body:
        came_bytes += len(piece)
        if came_bytes > bytes_max:
            raise refuse(413, "EntityTooLarge", "the body is larger than limits.request_body")
        yield piece
