"""The fast path: answers a plain GET of an open and fresh object without a task.

It decides the response and builds its head and its log line. Everything that is the same from one
request to the next is prepared: for a host and URL the object's header lines, date, age and
freshness, for one second (``PreparedResponse``); for a request's bytes the parsed request
(``request_memo``). It does not answer what is out of the ordinary: conditions, HEAD, HTTP/1.0,
another form of range, bytes that are neither cached nor being filled. Then ``decide`` returns None,
and the general path sends the same response, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from streamedge.access.admission import OPEN_TO_ALL
from streamedge.cache.in_flight import CacheStatus
from streamedge.cache.objects import Cache
from streamedge.cache.open_object import OpenObject
from streamedge.cache.reader import CacheResult
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import IMMUTABLE
from streamedge.cache.storage.extent import Ready
from streamedge.cache.storage.records import Provenance, served_head
from streamedge.config.schema.field_names import CONDITIONS
from streamedge.delivery.http.compression.compressor import encoded_key
from streamedge.delivery.http.compression.negotiation import (
    encoded_head,
    is_compressible,
    negotiate,
    with_vary,
)
from streamedge.delivery.http.fast_path.request_memo import ByteRange, RequestMemo, plain_range
from streamedge.delivery.http.request.authorization import CachedGrant
from streamedge.delivery.http.request.dispatch import Dispatcher, Refused
from streamedge.delivery.http.request.request import WebRequest, without_field
from streamedge.delivery.http.request.routing import (
    Route,
    asset_key,
    invalidation_target,
    selecting_fields,
)
from streamedge.delivery.http.response.access_log import quoted, quoted_and_cut, target_fields
from streamedge.delivery.http.response.cache_status import cache_status, is_sampled, server_timing
from streamedge.delivery.http.response.response import ResponseContext, stored_header_lines
from streamedge.memo import Memo, MemoryBudget
from streamedge.origin import OriginHead
from streamedge.spans import Span

TARGET_BYTES = 2048  # about the size of a PreparedResponse, without its texts

# Fields that make a request not plain.
_NOT_PLAIN = CONDITIONS | {"content-length", "transfer-encoding", "expect", "te", "upgrade"}
_DIRECTIVES = frozenset({"cache-control", "pragma"})


class PreparedResponse:
    """The prepared parts of the response to a host and URL."""

    __slots__ = (
        "changes",
        "compress",
        "distribution",
        "encoding",
        "header_tail",
        "key",
        "opened",
        "origin_field",
        "policy",
        "rules",
        "secure",
        "since_s",
        "size_bytes",
        "stored",
        "subject",
        "until_s",
    )

    def __init__(self, route: Route, key: str, request: WebRequest) -> None:
        self.distribution = route.distribution
        self.policy = route.rule.behavior.response_headers
        self.rules = route.rule.rules
        self.origin_field = request.headers.get("origin")
        self.secure = request.secure
        self.compress = route.rule.behavior.compress
        self.encoding = negotiate(request.headers.get("accept-encoding")) if self.compress else None
        self.key = key
        self.subject = invalidation_target(route)
        self.stored: OpenObject | None = None  # the stored form of ``opened``
        self.changes = -1
        # The following fields are valid from ``since_s`` to ``until_s``, at most one second.
        self.since_s = 0.0
        self.until_s = 0.0
        self.opened: OpenObject | None = None
        self.size_bytes = 0
        self.header_tail = b""

    def provenance(self) -> Callable[[], Provenance] | None:
        """What a response that begins now comes from; built only when it is called."""
        stored = self.stored
        if stored is None:
            return None
        return lambda: Provenance(self.subject, stored.record.position, stored.record.head.headers)


class PlainGet(NamedTuple):
    """A plain GET. ``named`` are the log fields of its target, ``logged`` the last log fields.

    ``address``: the viewer's address from a trusted proxy, or "" for the connection's own.
    ``admitted``: the grant, or None where access is open to all. ``host``: as it was sent.
    """

    target: PreparedResponse
    named: str
    logged: str
    address: str
    admitted: CachedGrant | None
    host: str


Hit = tuple[int, bytes, Ready | None, int, int, OpenObject]
"""Status, head, ready bytes, start and end of the span, and the open object.

No bytes are ready while the first one is still on its way from the origin.
"""

SentHit = tuple[PlainGet, ByteRange | None, int, str, int]
"""A hit that was sent completely: request, range, status, client, and bytes sent."""


class FastPath:
    """The fast path of a worker for one kind of connection.

    Kinds differ by TLS and by whether the peer is a trusted proxy: a remembered request depends on
    both.
    """

    def __init__(
        self,
        cache: Cache,
        responses: ResponseCache,
        edge_name: str,
        dispatcher: Dispatcher,
        budget: MemoryBudget,
    ) -> None:
        self._cache = cache
        self._responses = responses
        self._edge_name = edge_name
        self._dispatcher = dispatcher
        self._changes = cache.store.changes
        self._targets: Memo[tuple[str, str, str | None, str | None, bool], PreparedResponse] = (
            budget.memo()
        )
        self.memo: RequestMemo[PlainGet] = RequestMemo(budget)

    def replace(self, dispatcher: Dispatcher) -> None:
        """Uses another dispatcher from now on, and forgets what the previous one decided."""
        self._dispatcher = dispatcher
        self._targets.clear()
        self.memo.forget()

    def ask(self, request: WebRequest) -> tuple[PlainGet, ByteRange | None] | None:
        """Parses a GET; None when it is not plain, or refused."""
        headers = request.headers
        if not _NOT_PLAIN.isdisjoint(headers) or len(headers) != len(request.fields):
            return None
        byte_range = None
        if "range" in headers:
            byte_range = plain_range(headers["range"].encode("latin-1"))
            if byte_range is None:
                return None
            # Not part of the remembered request: players request another range each time.
            request = without_field(request, "range")
        outcome = self._dispatcher.dispatch(request)
        if isinstance(outcome, Refused) or not self._is_plain(outcome.route, request):
            return None
        route = outcome.route
        rules = route.rule.behavior.access
        admitted = None if rules == OPEN_TO_ALL else CachedGrant(rules, outcome.grant)
        agent = headers.get("user-agent")
        logged = "" if agent is None else f',"agent":{quoted_and_cut(agent)}'
        if request.forwarded_client:
            logged += f',"viewer":"{request.forwarded_client}"'
        request_fields = target_fields(request.host, request.path, route.distribution.id)
        target = self._target(route, request)
        return PlainGet(
            target, request_fields, logged, request.forwarded_client, admitted, request.host
        ), byte_range

    def remember(self, data: bytes, plain_get: PlainGet, byte_range: ByteRange | None) -> None:
        """Remembers ``data``, which is one complete request."""
        # The target's texts come from these bytes too, and live as long.
        size_bytes = TARGET_BYTES + 3 * len(data) + len(plain_get.named) + len(plain_get.logged)
        self.memo.put(data, plain_get, byte_range, size_bytes)

    def awaited(self, target: PreparedResponse) -> asyncio.Task[None] | None:
        """The task that fetches the object, if its origin request is running."""
        return self._responses.in_flight_fetch(target.key)

    def decide(
        self, target: PreparedResponse, byte_range: ByteRange | None, now_s: float
    ) -> Hit | None:
        """The response to a plain GET, or None if the general path has to send it."""
        opened = target.opened
        if (
            opened is None
            or not target.since_s <= now_s < target.until_s
            or opened.superseded
            or target.changes != self._changes.word[0]
        ):
            opened = self._refresh(target, now_s)
            if opened is None:
                return None
        size = target.size_bytes
        if byte_range is None:
            start, end, status = 0, size, 200
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b" % (size, target.header_tail)
        else:
            first, last = byte_range
            start, end, status = int(first), size, 206
            if last:
                end = int(last) + 1
                if end > size:  # noqa: PLR1730 - for every hit: a third of what min() takes
                    end = size
            head = (
                b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\n"
                b"content-range: bytes %d-%d/%d\r\n%b"
                % (end - start, start, end - 1, size, target.header_tail)
            )
        if start >= end:
            return None
        ready = opened.ready(start, end)
        if ready is None and not opened.is_covered(Span(start, start + 1)):
            return None
        return status, head, ready, start, end, opened

    def _refresh(self, target: PreparedResponse, now_s: float) -> OpenObject | None:
        """Checks whether the object is open and fresh, and builds this second's header lines."""
        changes = self._changes.word[0]
        opened = self._cache.peek(target.key, target.rules, now_s, target.subject)
        if opened is not None and (opened.head.status != 200 or not opened.version.has_ended):
            opened = None
        if opened is None:
            target.opened = None
            return None
        head, sent = self._representation(target, opened, now_s)
        target.opened, target.stored = sent, opened
        if sent is not None:
            target.since_s, target.until_s = now_s, int(now_s) + 1
            target.changes = changes
            target.size_bytes = sent.version.size_bytes
            age_s = opened.record.age_s(now_s)
            ttl_s = opened.lifetime_s(target.rules) - age_s
            delivery = ResponseContext(
                self._edge_name,
                now_s,
                True,
                CacheResult.HIT,
                cache_status(self._edge_name, _HIT, ttl_s),
                target.policy,
                target.secure,
                target.origin_field,
                timing=self._timing(target),
            )
            target.header_tail = stored_header_lines(served_head(head), age_s, delivery).encode(
                "latin-1", "replace"
            )
        return sent

    def _timing(self, target: PreparedResponse) -> str:
        """Server-Timing of this second's responses: sampled by second, not by response."""
        if not is_sampled(target.policy.server_timing_percent):
            return ""
        return server_timing(self._edge_name, CacheResult.HIT, 0.0)

    def _representation(
        self, target: PreparedResponse, opened: OpenObject, now_s: float
    ) -> tuple[OriginHead, OpenObject | None]:
        """The representation for this viewer: its head, and its object if it is open."""
        head = opened.head
        if not target.compress or not is_compressible(head):
            return head, opened
        if target.encoding is None:
            return replace(head, headers=with_vary(head.headers)), opened
        key = encoded_key(opened.asset.key, opened.version, target.encoding)
        encoded = self._cache.peek(key, IMMUTABLE, now_s)
        if encoded is None:
            return head, None
        return encoded_head(head, target.encoding, encoded.version.size_bytes), encoded

    def _target(self, route: Route, request: WebRequest) -> PreparedResponse:
        named, coding = request.headers, None
        policy = route.rule.behavior.cache
        key = self._responses.variant(
            asset_key(route, policy, request),
            lambda: selecting_fields(route, request, self._edge_name),
        )
        if route.rule.behavior.compress:
            coding = named.get("accept-encoding")
        memo_key = key, route.distribution.id, named.get("origin"), coding, request.secure
        target = self._targets.get(memo_key)
        if target is None:
            target = PreparedResponse(route, key, request)
            # Python keeps a text that is not ASCII in up to four bytes a character.
            size_bytes = 2 * len(key) + len(memo_key[2] or "") + len(coding or "")
            self._targets.put(memo_key, target, TARGET_BYTES + size_bytes)
        return target

    def _is_plain(self, route: Route, request: WebRequest) -> bool:
        """Whether only the object determines the response."""
        if route.is_s3:  # S3 has its own errors, and the request may be for the bucket
            return False
        behavior = route.rule.behavior
        policy = behavior.cache
        if (policy.viewer_directives or policy.strict) and _DIRECTIVES & request.headers.keys():
            return False
        timed = behavior.response_headers.server_timing_percent > 0
        return not (timed and "pragma" in request.headers)


_HIT = CacheStatus(hit=True)


def hit_log_lines(
    process: str, answered: Sequence[SentHit], now_s: float, duration_s: float, cut: str | None
) -> list[str]:
    """The log lines of hits, in the form of ``access_log``."""
    begin = f'{{"time":{now_s:.3f},"event":"response","process":"{process}","client":"'
    seconds = f"{duration_s:.4f}" if duration_s else "0.0"
    end = "}" if cut is None else f',"reason":{quoted(cut)}}}'
    lines = []
    for plain_get, byte_range, status, client, sent_bytes in answered:
        ranged = ""
        if byte_range is not None:
            ranged = f',"range":"bytes={byte_range[0].decode()}-{byte_range[1].decode()}"'
        lines.append(
            f'{begin}{client}","method":"GET",{plain_get.named},"status":{status},"bytes":{sent_bytes},'
            f'"cache":"Hit","seconds":{seconds}{ranged}{plain_get.logged}{end}'
        )
    return lines
