"""Requests that bypass the cache: writes, other methods, upgrades, and calls of a bucket.

After an unsafe method the cache uses no response that was requested before (RFC 9111 §4.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

from streamedge.cache.lookup.in_flight import CacheStatus
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.unsafe_methods import invalidated_targets
from streamedge.delivery.http.policy.behaviors import SAFE_METHODS
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.request.body_buffer import BodyBuffer
from streamedge.delivery.http.request.cache_request import target_key_parts
from streamedge.delivery.http.request.origin_request import build_origin_request, forwarded_trailers
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route
from streamedge.delivery.http.response.build import Response, ResponseBuilder, passed_fields
from streamedge.delivery.http.response.cache_status import cache_status
from streamedge.delivery.http.s3_calls import call_bucket
from streamedge.delivery.http.writes import Writes
from streamedge.errors import OriginError
from streamedge.origin import Fields, OriginResponse
from streamedge.origin.answers import fold_fields
from streamedge.origin.writing import Write, WriteRefusedError
from streamedge.write_back.queue import WriteQueue
from streamedge.write_back.rows import WriteQueueError


class Upgraded(NamedTuple):
    """The origin has switched protocols; ``fields`` go with the 101 response."""

    fields: list[Field]
    response: OriginResponse


class Forwarder:
    """Sends requests to their origin, or to the queue of writes."""

    def __init__(
        self,
        edge_name: str,
        responses: ResponseCache,
        writes: Writes,
        builder: ResponseBuilder,
        write_queue: WriteQueue | None,
    ) -> None:
        self._edge_name = edge_name
        self._responses = responses
        self._write_queue = write_queue
        self._body_buffer = BodyBuffer()
        self._writes = writes
        self._builder = builder

    def replace(self, writes: Writes, builder: ResponseBuilder) -> None:
        """Uses these from the next request on."""
        self._writes = writes
        self._builder = builder

    async def forward(
        self,
        route: Route,
        request: WebRequest,
        body: AsyncIterator[bytes] | None,
        interim: Callable[[int, Fields], None],
        trailers: Callable[[], Fields] = list,
    ) -> Response | Upgraded:
        """The origin's response to a request that bypasses the cache.

        ``trailers`` is called when the body has ended.
        """
        try:
            if route.is_bucket:
                write_response = await call_bucket(route, request, self._write_queue)
                return self._builder.written(route, request, write_response)
            if self._writes.needs(route, request):
                write_response = await self._writes.write(route, request, body)
                return self._builder.written(route, request, write_response)
        except (OriginError, WriteQueueError) as exc:
            return self._builder.failed(route, request, exc)
        if not route.rule.binding.is_site:
            return self._builder.preflight(route, request)
        to_origin = build_origin_request(route, request, self._edge_name)
        try:
            if body is not None and "expect" not in request.headers:
                body = await self._body_buffer.buffer(body)
            body = self._writes.bounded(request, body)
            response = await route.rule.binding.upstream.send(
                replace(
                    to_origin,
                    body=body,
                    interim=interim,
                    trailers=lambda: forwarded_trailers(route, request, trailers()),
                )
            )
        except WriteRefusedError as exc:
            return self._builder.written(route, request, exc.response)
        except OriginError as exc:
            self._invalidate_after_unknown_outcome(route, request)
            return self._builder.failed(route, request, exc)
        except BaseException:
            self._invalidate_after_unknown_outcome(route, request)
            raise
        shared = self._invalidate_after_write(
            route, request, response.status, fold_fields(response.fields)
        )
        if shared:
            await asyncio.gather(*shared)
        status = cache_status(
            self._edge_name, CacheStatus(forwarded="method", status=response.status)
        )
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            fields = list(passed_fields(response.fields))
            fields += [("connection", "upgrade"), ("upgrade", request.headers["upgrade"])]
            return Upgraded(fields, response)
        return self._builder.passed(route, request, response, status)

    def _invalidate_after_unknown_outcome(self, route: Route, request: WebRequest) -> None:
        """Invalidates after an unsafe method that may have changed something, or still may."""
        if request.method in SAFE_METHODS:
            return
        invalidate = partial(self._invalidate_after_write, route, request, HTTPStatus.OK, {})
        invalidate()
        writer = route.rule.binding.writer
        if writer is not None:
            lingers_s = writer.lingers_s(Write(request.method, route.name))
            asyncio.get_running_loop().call_later(lingers_s, invalidate)

    def _invalidate_after_write(
        self, route: Route, request: WebRequest, status: int, fields: Mapping[str, str]
    ) -> list[asyncio.Future[None]]:
        """Invalidates stored responses after a successful unsafe method (RFC 9111 §4.4).

        In a fleet the futures end when the other edges will do so, too.
        """
        shared: list[asyncio.Future[None]] = []
        target = request.path.decode("latin-1") + (f"?{route.query}" if route.query else "")
        for changed in invalidated_targets(request.method, status, request.host, target, fields):
            keys = route.rule.binding.write_keys(*target_key_parts(route, changed))
            future = self._responses.refuse_written(*keys)
            if future is not None:
                shared.append(future)
        return shared
