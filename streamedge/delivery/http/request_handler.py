"""What a connection of HTTP/1.1 needs of the handler of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from streamedge.access.client_address import IpNetwork
from streamedge.cache.lookup.pass_through import RunningPass
from streamedge.delivery.http.exchange import Exchange
from streamedge.delivery.http.fast_path.batch import HitBatch
from streamedge.delivery.http.fast_path.fast_path import FastPath
from streamedge.delivery.http.fast_path.remembered import Hit, RememberedRequest, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.forwarding import Upgraded
from streamedge.delivery.http.request.dispatch import Outcome
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.viewer import Viewer


class RequestHandler(Protocol):
    """Handles requests: of viewers (``HttpHandler``), or of other edges."""

    @property
    def batch(self) -> HitBatch: ...

    @property
    def proxies(self) -> Sequence[IpNetwork]:
        """The proxies that may name a viewer's address."""
        ...

    @property
    def fast_paths(self) -> Mapping[tuple[bool, bool], FastPath[bytes, bytes, bytes]]:
        """By whether the connection uses TLS, and whether its peer is one of ``proxies``."""
        ...

    def without_edge_name(self, request: WebRequest) -> WebRequest:
        """The request with an alias as its host, where it came to an edge's name below it."""
        ...

    def dispatch(self, request: WebRequest) -> Outcome: ...

    def admits(
        self,
        remembered: RememberedRequest[Any, Any],
        serves: Callable[[str], bool] | None,
        address: str,
        now_s: float,
    ) -> bool: ...

    def begin_pass(self, exchange: Exchange) -> RunningPass | None: ...

    def pass_at_once(self, exchange: Exchange, running: RunningPass) -> Response | None: ...

    async def finish_pass(self, exchange: Exchange, running: RunningPass) -> Response: ...

    async def respond(self, exchange: Exchange) -> Response | Upgraded: ...

    def new_request_id(self) -> bytes:
        """The id of a request, for X-Amz-Cf-Id; b"" where responses have none."""
        ...

    def finished(
        self,
        request: WebRequest,
        response: Response,
        viewer: Viewer,
        first_byte_s: float,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None: ...

    def hits_finished(
        self, hits: Sequence[SentHit], duration_s: float = ..., cut: str | None = ...
    ) -> None: ...

    def hit_finished(
        self,
        remembered: RememberedRequest[Any, Any],
        byte_range: ByteRange | None,
        hit: Hit[bytes],
        viewer: Viewer,
        response: Response | None,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None: ...

    def refused_connection(
        self,
        client: str,
        status: HTTPStatus,
        request: WebRequest | None = None,
        request_id: str = "",
    ) -> None: ...
