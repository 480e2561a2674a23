"""The short lane: a plain GET of an object that is open and fresh, answered in one breath.

Owns the decision, the head and the log line of such an answer. Everything that is the same from
one request to the next is kept ready: by target (host and URL) the object's header lines, date,
age and freshness for a second; by spelling what the parser made of a request (``spellings``).
Whatever is out of the ordinary (conditions, HEAD, HTTP/1.0, a range in another
form, bytes that are neither here nor coming) is not answered here: ``decide`` says None, and the
general way gives the same answer, byte for byte.
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
from streamedge.delivery.http.fast_path.request_memo import RequestMemo, Wanted, plain_range
from streamedge.delivery.http.request.authorization import CachedGrant
from streamedge.delivery.http.request.dispatch import Dispatcher, Refused
from streamedge.delivery.http.request.request import WebRequest, without_field
from streamedge.delivery.http.request.routing import (
    Route,
    asset_key,
    invalidation_subject,
    selecting_fields,
)
from streamedge.delivery.http.response.access_log import quoted, shortened, target_fields
from streamedge.delivery.http.response.cache_status import cache_status, is_sampled, server_timing
from streamedge.delivery.http.response.response import Delivery, object_lines
from streamedge.memo import Memo, MemoryBudget
from streamedge.origin import OriginHead
from streamedge.spans import Span

TARGET_BYTES = 2048  # of a target, beside the texts that it is known by: about

# With any of these the answer is not plain.
_ELSEWHERE = CONDITIONS | {"content-length", "transfer-encoding", "expect", "te", "upgrade"}
_DIRECTIVES = frozenset({"cache-control", "pragma"})


class PreparedResponse:
    """What is kept ready for a host and URL."""

    __slots__ = (
        "changes",
        "closing",
        "compress",
        "distribution",
        "encoding",
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

    def __init__(self, found: Route, key: str, request: WebRequest) -> None:
        self.distribution = found.distribution
        self.policy = found.rule.behavior.response_headers
        self.rules = found.rule.rules
        self.origin_field = request.headers.get("origin")
        self.secure = request.secure
        self.compress = found.rule.behavior.compress
        self.encoding = negotiate(request.headers.get("accept-encoding")) if self.compress else None
        self.key = key
        self.subject = invalidation_subject(found)
        self.stored: OpenObject | None = None  # what ``opened`` is, or is a form of
        self.changes = -1
        # What follows holds from ``since_s`` until, at the latest, a second later.
        self.since_s = 0.0
        self.until_s = 0.0
        self.opened: OpenObject | None = None
        self.size_bytes = 0
        self.closing = b""

    def provenance(self) -> Callable[[], Provenance] | None:
        """What an answer that begins now is of; nothing need be made up before it is asked for."""
        stored = self.stored
        if stored is None:
            return None
        return lambda: Provenance(self.subject, stored.record.position, stored.record.head.headers)


class PlainGet(NamedTuple):
    """A plain GET: what it asks for. Of its log line, ``named``: the fields that say what was
    asked for; ``logged``: the last ones.

    ``address``: the viewer's, told by a trusted proxy; "" is the connection's. ``admitted``: why
    it was let in, where not everybody is. ``host``: as it was sent.
    """

    target: PreparedResponse
    named: str
    logged: str
    address: str
    admitted: CachedGrant | None
    host: str


LaneAnswer = tuple[int, bytes, Ready | None, int, int, OpenObject]
"""Status and head to send now, then what is ready; start and end of the span, and its object.

Nothing is ready when the first byte is still on its way from the origin.
"""

Answered = tuple[PlainGet, Wanted | None, int, str, int]
"""What was asked, the status of what has been sent at once and whole, to whom, and its bytes."""


class FastPath:
    """The short lane of a worker, for one kind of connection.

    What it recalls holds for connections alike: over TLS or not, from a trusted proxy or not.
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
        self._changes = cache.store.changes.word
        self._targets: Memo[tuple[str, str, str | None, str | None, bool], PreparedResponse] = (
            budget.memo()
        )
        self.spellings: RequestMemo[PlainGet] = RequestMemo(budget)

    def replace(self, dispatcher: Dispatcher) -> None:
        """Decides by this one from now on, and forgets all that another has decided."""
        self._dispatcher = dispatcher
        self._targets.clear()
        self.spellings.forget()

    def ask(self, request: WebRequest) -> tuple[PlainGet, Wanted | None] | None:
        """What a GET asks for; None when it is not plain, or refused."""
        headers = request.headers
        if not _ELSEWHERE.isdisjoint(headers) or len(headers) != len(request.fields):
            return None
        wanted = None
        if "range" in headers:
            wanted = plain_range(headers["range"].encode("latin-1"))
            if wanted is None:
                return None
            # No part of what is recalled: players ask for another range each time.
            request = without_field(request, "range")
        outcome = self._dispatcher.dispatch(request)
        if isinstance(outcome, Refused) or not self._is_plain(outcome.route, request):
            return None
        found = outcome.route
        rules = found.rule.behavior.access
        admitted = None if rules == OPEN_TO_ALL else CachedGrant(rules, outcome.grant)
        agent = headers.get("user-agent")
        logged = "" if agent is None else f',"agent":{shortened(agent)}'
        if request.told_address:
            logged += f',"viewer":"{request.told_address}"'
        said = target_fields(request.host, request.path, found.distribution.id)
        target = self._target(found, request)
        return PlainGet(target, said, logged, request.told_address, admitted, request.host), wanted

    def remember(self, data: bytes, asked: PlainGet, wanted: Wanted | None) -> None:
        """Keeps what ``data`` asked for: one request, all of it."""
        # Its target's texts are of these bytes too, and stay as long as it does.
        size_bytes = TARGET_BYTES + 3 * len(data) + len(asked.named) + len(asked.logged)
        self.spellings.remember(data, asked, wanted, size_bytes)

    def awaited(self, target: PreparedResponse) -> asyncio.Task[None] | None:
        """What will find out about an object that nothing is known of, if its origin is asked."""
        return self._responses.in_flight_fetch(target.key)

    def decide(
        self, target: PreparedResponse, wanted: Wanted | None, now_s: float
    ) -> LaneAnswer | None:
        """The answer to a plain GET, or None."""
        opened = target.opened
        if (
            opened is None
            or not target.since_s <= now_s < target.until_s
            or opened.superseded
            or target.changes != self._changes[0]
        ):
            opened = self._refresh(target, now_s)
            if opened is None:
                return None
        size = target.size_bytes
        if wanted is None:
            start, end, status = 0, size, 200
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b" % (size, target.closing)
        else:
            first, last = wanted
            start, end, status = int(first), size, 206
            if last:
                end = int(last) + 1
                if end > size:  # noqa: PLR1730 - for every hit: a third of what min() takes
                    end = size
            head = (
                b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\n"
                b"content-range: bytes %d-%d/%d\r\n%b"
                % (end - start, start, end - 1, size, target.closing)
            )
        if start >= end:
            return None
        ready = opened.ready(start, end)
        if ready is None and not opened.is_covered(Span(start, start + 1)):
            return None
        return status, head, ready, start, end, opened

    def _refresh(self, target: PreparedResponse, now_s: float) -> OpenObject | None:
        """Looks whether the object is open and fresh, and makes this second's header lines."""
        changes = self._changes[0]
        opened = self._cache.peek(target.key, target.rules, now_s, target.subject)
        if opened is not None and (opened.head.status != 200 or not opened.version.has_ended):
            opened = None
        if opened is None:
            target.opened = None
            return None
        head, sent = self._form(target, opened, now_s)
        target.opened, target.stored = sent, opened
        if sent is not None:
            target.since_s, target.until_s = now_s, int(now_s) + 1
            target.changes = changes
            target.size_bytes = sent.version.size_bytes
            age_s = opened.record.age_s(now_s)
            ttl_s = opened.lifetime_s(target.rules) - age_s
            delivery = Delivery(
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
            target.closing = object_lines(served_head(head), age_s, delivery).encode(
                "latin-1", "replace"
            )
        return sent

    def _timing(self, target: PreparedResponse) -> str:
        """Server-Timing for this second's answers: sampled by second, not by answer."""
        if not is_sampled(target.policy.server_timing_percent):
            return ""
        return server_timing(self._edge_name, CacheResult.HIT, 0.0)

    def _form(
        self, target: PreparedResponse, opened: OpenObject, now_s: float
    ) -> tuple[OriginHead, OpenObject | None]:
        """The form in which this viewer gets it: the head, and the version if it is open here."""
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

    def _target(self, found: Route, request: WebRequest) -> PreparedResponse:
        named, coding = request.headers, None
        policy = found.rule.behavior.cache
        key = self._responses.variant(
            asset_key(found, policy, request),
            lambda: selecting_fields(found, request, self._edge_name),
        )
        if found.rule.behavior.compress:
            coding = named.get("accept-encoding")
        known = key, found.distribution.id, named.get("origin"), coding, request.secure
        target = self._targets.get(known)
        if target is None:
            target = PreparedResponse(found, key, request)
            # Python keeps a text that is not ASCII in up to four bytes a character.
            size_bytes = 2 * len(key) + len(known[2] or "") + len(coding or "")
            self._targets.put(known, target, TARGET_BYTES + size_bytes)
        return target

    def _is_plain(self, found: Route, request: WebRequest) -> bool:
        """Whether nothing but the object decides on the answer."""
        if found.is_s3:  # whose errors are S3's, and whose bucket may be meant
            return False
        behavior = found.rule.behavior
        policy = behavior.cache
        if (policy.viewer_directives or policy.strict) and _DIRECTIVES & request.headers.keys():
            return False
        timed = behavior.response_headers.server_timing_percent > 0
        return not (timed and "pragma" in request.headers)


_HIT = CacheStatus(hit=True)


def hit_log_lines(
    process: str, answered: Sequence[Answered], now_s: float, duration_s: float, cut: str | None
) -> list[str]:
    """The log lines of such answers, as ``access_log`` would write them."""
    begin = f'{{"time":{now_s:.3f},"event":"response","process":"{process}","client":"'
    seconds = f"{duration_s:.4f}" if duration_s else "0.0"
    end = "}" if cut is None else f',"reason":{quoted(cut)}}}'
    lines = []
    for asked, wanted, status, client, sent_bytes in answered:
        ranged = ""
        if wanted is not None:
            ranged = f',"range":"bytes={wanted[0].decode()}-{wanted[1].decode()}"'
        lines.append(
            f'{begin}{client}","method":"GET",{asked.named},"status":{status},"bytes":{sent_bytes},'
            f'"cache":"Hit","seconds":{seconds}{ranged}{asked.logged}{end}'
        )
    return lines
