"""Handles PUT, DELETE and S3's multipart calls for origins with objects: directly or write-back.

Decides when a write gets its response, and invalidates cached responses before that.
``origin/writing`` writes the object; ``write_back`` queues it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

from streamedge.cache.responses import ResponseCache
from streamedge.delivery.hosts import OriginBinding
from streamedge.delivery.http.policy.behaviors import WriteMode
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route
from streamedge.origin.names import site_path
from streamedge.origin.s3.protocol import S3Call, hoisted_fields, read_call
from streamedge.origin.writing import Write, WriteRefusedError, WriteResponse, object_fields, refuse
from streamedge.write_back.queue import WriteQueue

_OF_OBJECTS = frozenset({"PUT", "DELETE"})


class Writes:
    """The writes of a worker. ``write_queue`` is None where no behavior writes back."""

    def __init__(
        self, responses: ResponseCache, write_queue: WriteQueue | None, body_bytes_max: int
    ) -> None:
        self._responses = responses
        self._write_queue = write_queue
        self._body_bytes_max = body_bytes_max

    def needs(self, route: Route, request: WebRequest) -> bool:
        """Whether a request is a write that is handled here."""
        binding = route.rule.binding
        if binding.is_site:
            is_back = route.rule.behavior.write is WriteMode.BACK
            is_object = request.method in _OF_OBJECTS and not request.query
            # The queue identifies an object by its name: only paths in the usual encoding work.
            return is_back and is_object and route.path == site_path(route.name)
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
        self, route: Route, request: WebRequest, body: AsyncIterator[bytes] | None
    ) -> WriteResponse:
        """Carries out a write. Raises OriginError, WriteQueueError, and what ``body`` raises."""
        try:
            return await self._write(route, request, body)
        except WriteRefusedError as exc:
            return exc.response

    async def _write(
        self, route: Route, request: WebRequest, body: AsyncIterator[bytes] | None
    ) -> WriteResponse:
        binding = route.rule.binding
        if "x-amz-copy-source" in request.headers:  # its empty body would become the object
            raise refuse(501, "NotImplemented", "objects are not copied through the edge")
        if "content-range" in request.headers:  # a part would become the object (RFC 9110 §14.5)
            message = "objects are written whole: send no Content-Range"
            raise refuse(400, "InvalidRequest", message)
        size_bytes = _size_bytes(request)
        body = self.bounded(request, body)
        keys = binding.write_keys(route.origin_path)
        fields = request.fields
        if route.is_s3:
            fields += hoisted_fields(request.query)
        if binding.relay is not None:
            call = read_call(request.method, route.name, request.query, fields, size_bytes)
            if call is not None:
                return await self._relay(binding, call, keys, body)
        if request.method not in _OF_OBJECTS or binding.writer is None:
            raise refuse(405, "MethodNotAllowed", "objects are written with PUT and DELETE")
        write = Write(request.method, route.name, object_fields(fields), size_bytes)
        if route.rule.behavior.write is WriteMode.BACK and self._write_queue is not None:
            name, check = binding.write_target.name, binding.writer.check
            queued = self._write_queue.accept(keys[0], name, write, body, check)
            return await self._invalidate_after(keys, 0.0, queued)
        lingers_s = binding.writer.lingers_s(write)
        return await self._invalidate_after(keys, lingers_s, binding.writer.write(write, body))

    async def _relay(
        self,
        binding: OriginBinding,
        call: S3Call,
        keys: tuple[str, ...],
        body: AsyncIterator[bytes] | None,
    ) -> WriteResponse:
        if binding.relay is None or binding.writer is None:
            raise refuse(501, "NotImplemented", "the origin takes no uploads")
        relayed = binding.relay.relay(call, body)
        if not call.changes_object:
            return await relayed
        lingers_s = binding.writer.lingers_s(Write("PUT", call.name))
        return await self._invalidate_after(keys, lingers_s, relayed)

    async def _invalidate_after(
        self, keys: tuple[str, ...], lingers_s: float, writing: Awaitable[WriteResponse]
    ) -> WriteResponse:
        """Awaits a write, and invalidates cached responses unless it certainly changed nothing.

        When the outcome is unknown, because the origin failed or the caller left, responses stored
        while the origin may still execute the write (``lingers_s``) are invalidated too.
        """
        response: WriteResponse | None = None
        shared: asyncio.Future[None] | None = None
        try:
            response = await writing
        finally:
            if response is None or not response.is_certain:
                shared = self._responses.refuse_written(*keys)
                if lingers_s > 0:
                    asyncio.get_running_loop().call_later(
                        lingers_s, self._responses.refuse_written, *keys
                    )
            elif response.succeeded:
                shared = self._responses.refuse_written(*keys)
        if shared is not None:
            await shared
        return response


def _size_bytes(request: WebRequest) -> int | None:
    length = request.headers.get("content-length")
    if length is not None:
        return int(length)  # the parser accepts only a number
    return None if request.has_body else 0


async def _bounded(body: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    received_bytes = 0
    async for piece in body:
        received_bytes += len(piece)
        if received_bytes > bytes_max:
            raise refuse(413, "EntityTooLarge", "the body is larger than limits.request_body")
        yield piece
