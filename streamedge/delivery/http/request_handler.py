"""What a connection of HTTP/1.1 needs of the handler of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from streamedge.access.client_address import IpNetwork
from streamedge.cache.lookup.pass_through import RunningPass
from streamedge.delivery.http.exchange import Exchange
from streamedge.delivery.http.fast_path.batch import HitBatch
from streamedge.delivery.http.fast_path.fast_path import FastPath
from streamedge.delivery.http.fast_path.remembered import RememberedRequest
from streamedge.delivery.http.forwarding import Upgraded
from streamedge.delivery.http.request.dispatch import Outcome
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response_reports import ResponseReports


class RequestHandler(ResponseReports, Protocol):
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
