"""What the fast path remembers of requests, and the responses that it prepares for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from streamedge.cache.open_object import OpenObject
from streamedge.cache.storage.extent import Ready
from streamedge.cache.storage.records import InvalidationTarget, Provenance
from streamedge.delivery.http.compression.negotiation import negotiate
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.request.authorization import CachedGrant
from streamedge.delivery.http.request.cache_request import PreparedLookup
from streamedge.delivery.http.request.dispatch import Dispatched, Refused
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route, nearest_from_bytes
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.cloudfront_log import LoggedRequest
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.delivery.http.viewer import Viewer
from streamedge.logs.escaping import ABSENT

Head = TypeVar("Head")
Tail = TypeVar("Tail")


class HeadEncoder(Protocol[Head, Tail]):
    """Encodes heads for one HTTP version. ``Tail`` is the part that all ranges share.

    Heads have the request's id; it is b"" where responses have none.
    """

    def tail(self, fields: Iterable[Field]) -> Tail: ...

    def whole(self, size_bytes: int, tail: Tail, request_id: bytes) -> Head: ...

    def part(
        self, start: int, end: int, size_bytes: int, tail: Tail, request_id: bytes
    ) -> Head: ...

    def message(self, head: ResponseHead, *, closes: bool) -> Head: ...

    def with_id(self, head: Head, request_id: bytes) -> Head:
        """A head that ``message`` has encoded, with the field of a request's id."""
        ...


Sources = tuple[tuple[OpenObject, InvalidationTarget], ...]
"""The objects that a response was made from, which must stay valid and not be superseded, and what
invalidations of them match."""


class Kind(Enum):
    """How a remembered request is answered."""

    PLAIN = auto()  # with its target's fields, for any range
    PREPARED = auto()  # with a whole prepared response
    HANDLED = auto()  # on the general path each time


class PreparedResponse(Generic[Tail]):
    """The prepared parts of the response to a host and URL."""

    __slots__ = (
        "changes",
        "compress",
        "content_type",
        "distribution",
        "encoding",
        "has_other_status",
        "header_tail",
        "key",
        "nearest_from_bytes",
        "opened",
        "origin_field",
        "policy",
        "rules",
        "secure",
        "since_s",
        "size_bytes",
        "sources",
        "stored",
        "subject",
        "until_s",
    )

    def __init__(
        self, lookup: PreparedLookup, key: str, request: WebRequest, *, compress: bool
    ) -> None:
        route = lookup.route
        self.distribution = route.distribution
        self.policy = route.rule.behavior.response_headers
        self.rules = route.rule.rules
        self.origin_field = request.headers.get("origin")
        # Objects from this size are answered on the general path, which may redirect the viewer.
        self.nearest_from_bytes = nearest_from_bytes(route, request)
        self.secure = request.secure
        self.compress = compress
        self.encoding = negotiate(request.headers.get("accept-encoding")) if compress else None
        self.key = key
        self.subject = lookup.subject()
        self.stored: OpenObject | None = None  # the stored form of ``opened``
        self.sources: Sources = ()
        self.changes = -1
        # The following fields are valid from ``since_s`` to ``until_s``, at most one second.
        self.since_s = 0.0
        self.until_s = 0.0
        self.opened: OpenObject | None = None
        self.has_other_status = False  # than 200, in the stored response
        self.size_bytes = 0
        self.content_type = ABSENT.encode()  # as in CloudFront's log
        self.header_tail: Tail

    def provenance(self) -> Callable[[], Provenance] | None:
        """The provenance of a response that begins now; built only when it is called."""
        stored, subject = self.stored, self.subject
        if stored is None:
            return None
        return lambda: Provenance(subject, stored.record.position, stored.record.head.headers)


class PageTarget:
    """An error page for a viewer: its route and key, and the request it is the response to."""

    __slots__ = ("encoding", "key", "request", "route")

    def __init__(self, route: Route, request: WebRequest, key: str) -> None:
        self.route = route
        self.request = request
        self.key = key
        compress = route.rule.behavior.compress
        self.encoding = negotiate(request.headers.get("accept-encoding")) if compress else None


class ShownPage(NamedTuple):
    """An error page as the response to a request, the object of its bytes, and its sources."""

    response: Response
    opened: OpenObject
    sources: Sources


class PreparedMessage(Generic[Head]):
    """A whole prepared response to a request; valid from ``since_s`` to ``until_s``.

    ``opened`` has the bytes of its span or parts, None where it has none.
    """

    __slots__ = (
        "changes",
        "head",
        "opened",
        "page_target",
        "response",
        "since_s",
        "sources",
        "until_s",
    )

    def __init__(self) -> None:
        self.changes = -1
        self.since_s = 0.0
        self.until_s = 0.0
        self.sources: Sources = ()
        self.opened: OpenObject | None = None
        self.page_target: PageTarget | None = None
        self.head: Head
        self.response: Response


class RememberedRequest(NamedTuple, Generic[Head, Tail]):
    """A request without a body, how it was dispatched, and what its response is made of.

    ``request`` is without its range where ``kind`` is PLAIN. ``target_fields`` and
    ``viewer_fields`` are its parts of the log line. ``address``: the viewer's address from a
    trusted proxy, or "" for the connection's own. ``admitted``: the grant, or None where access is
    open to all. ``distribution``: its id, "" where none matches.
    ``logged_request``: its part of CloudFront's log, or None where the distribution has none.
    """

    kind: Kind
    request: WebRequest
    outcome: Dispatched | Refused
    target: PreparedResponse[Tail] | None
    message: PreparedMessage[Head]
    target_fields: bytes
    viewer_fields: bytes
    address: str
    admitted: CachedGrant | None
    distribution: str
    logged_request: LoggedRequest | None = None

    def provenance(self, response: Response | None) -> Callable[[], Provenance] | None:
        """The provenance of a hit: of its prepared ``response``, or of the target's object."""
        if response is not None:
            return response.provenance
        return None if self.target is None else self.target.provenance()

    def for_viewer(
        self, client: str, address: str, started_s: float, request_id: str
    ) -> WebRequest:
        """The request as it comes now over a connection with ``client``."""
        request = self.request
        # Three times as fast as dataclasses.replace.
        return WebRequest(
            request.method,
            request.host,
            request.path,
            request.headers,
            client,
            request.keep_alive,
            started_s,
            request.query,
            request.fields,
            request.secure,
            request.http_version,
            time.time(),
            self.address or address,
            request.misdirected,
            request.forwarded_client,
            edge_label=request.edge_label,
            request_id=request_id,
        )


# Plain tuples, because each hit makes one of both; a NamedTuple takes five times as long to make.
# They are always unpacked whole, under these names.

Hit = tuple[
    int,  # status
    Head,  # head, encoded
    Ready | None,  # ready: the span's bytes; None: the first is on its way, or there are none
    int,  # start of the span
    int,  # end of the span
    OpenObject | None,  # opened: the object with the bytes
    PreparedMessage[Head] | None,  # message; None for a plain GET
    bytes,  # request_id
]
"""A response that can be sent now."""

SentHit = tuple[
    RememberedRequest,  # type: ignore[type-arg]  # remembered
    ByteRange | None,  # byte_range
    int,  # status
    Viewer,  # viewer
    int,  # sent_bytes
    Response | None,  # response, if it was a prepared message
    bytes,  # request_id
    int,  # start of the span
    int,  # end of the span
]
"""A hit that was sent completely."""

FinishedHits = tuple[Sequence[SentHit], float, float, str | None]
"""Hits that ended together: when, in seconds since 1970; seconds taken; why they were cut off."""


class QueuedHit(NamedTuple):
    """A hit that was not sent at once. ``response``: of its prepared message, as it was then."""

    remembered: RememberedRequest[Any, Any]
    byte_range: ByteRange | None
    hit: Hit[Any]
    viewer: Viewer
    response: Response | None

    def sent(self, sent_bytes: int) -> SentHit:
        """The hit at its end, of which so many bytes were sent."""
        status, _head, _ready, start, end, _opened, _message, request_id = self.hit
        return (
            self.remembered,
            self.byte_range,
            status,
            self.viewer,
            sent_bytes,
            self.response,
            request_id,
            start,
            end,
        )
