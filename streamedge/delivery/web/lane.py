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
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from streamedge.access.admission import OPEN_TO_ALL, Denied
from streamedge.access.proxies import IpNetwork, forwarded_address, forwarded_secure
from streamedge.cache.asset import Provenance
from streamedge.cache.cache import Cache
from streamedge.cache.extent import Ready
from streamedge.cache.freshness import IMMUTABLE
from streamedge.cache.open_version import OpenVersion
from streamedge.cache.reader import CacheResult
from streamedge.cache.responses import Handling, ResponseCache
from streamedge.delivery.distributions import HostTable
from streamedge.delivery.web.access_log import quoted, target_fields
from streamedge.delivery.web.answer import Delivery, object_lines
from streamedge.delivery.web.behaviors import ViewerProtocol
from streamedge.delivery.web.cache_status import cache_status
from streamedge.delivery.web.compressor import encoded_key
from streamedge.delivery.web.encodings import encoded_head, is_compressible, negotiate, with_vary
from streamedge.delivery.web.gate import Gate, Pass
from streamedge.delivery.web.requests import WebRequest
from streamedge.delivery.web.routes import (
    Route,
    Unroutable,
    WebDistribution,
    as_selected_by,
    asset_key,
    invalidation_subject,
    route,
)
from streamedge.delivery.web.server_timing import is_sampled, server_timing
from streamedge.delivery.web.spellings import Spellings, Wanted, plain_range
from streamedge.origin import OriginHead
from streamedge.spans import Span

TARGETS_MAX = 8192  # remembered

# With any of these the answer is not plain.
_ELSEWHERE = frozenset(
    {
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"te",
        b"upgrade",
    }
)
_DIRECTIVES = frozenset({"cache-control", "pragma"})


class Target:
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
        self.stored: OpenVersion | None = None  # what ``opened`` is, or is a form of
        self.changes = -1
        # What follows holds from ``since_s`` until, at the latest, a second later.
        self.since_s = 0.0
        self.until_s = 0.0
        self.opened: OpenVersion | None = None
        self.size_bytes = 0
        self.closing = b""

    def provenance(self) -> Callable[[], Provenance] | None:
        """What an answer that begins now is of; nothing need be made up before it is asked for."""
        stored = self.stored
        if stored is None:
            return None
        return lambda: Provenance(self.subject, stored.record.position, stored.record.head.headers)


class Asked(NamedTuple):
    """A plain GET: what it asks for. Of its log line, ``named``: the fields that say what was
    asked for; ``logged``: the last ones.

    ``address``: the viewer's, told by a trusted proxy; "" is the connection's. ``admitted``: why
    it was let in, where not everybody is. ``host``: as it was sent.
    """

    target: Target
    named: str
    logged: str
    address: str
    admitted: Pass | None
    host: str


LaneAnswer = tuple[int, bytes, Ready | None, int, int, OpenVersion]
"""Status and head to send now, then what is ready; start and end of the span, and its object.

Nothing is ready when the first byte is still on its way from the origin.
"""

Answered = tuple[Asked, Wanted | None, int, str, int]
"""What was asked, the status of what has been sent at once and whole, to whom, and its bytes."""


class Lane:
    """The short lane of a worker, for one kind of connection: what it recalls holds for that alone.

    ``secure``: connections over TLS. ``proxies``: all that are trusted, for connections from them,
    whose requests tell who the viewer is; or else none.
    """

    def __init__(
        self,
        cache: Cache,
        responses: ResponseCache,
        edge_name: str,
        distributions: HostTable[WebDistribution],
        gate: Gate,
        *,
        secure: bool,
        proxies: Sequence[IpNetwork] = (),
    ) -> None:
        self._cache = cache
        self._responses = responses
        self._edge_name = edge_name
        self._distributions = distributions
        self._gate = gate
        self._secure = secure
        self._proxies = proxies
        self._changes = cache.store.changes.word
        self._targets: dict[tuple[str, str, str | None, str | None, bool], Target] = {}
        self.spellings: Spellings[Asked] = Spellings()

    def replace(self, distributions: HostTable[WebDistribution]) -> None:
        """Answers by these from now on, and forgets all that was made of others."""
        self._distributions = distributions
        self._targets.clear()
        self.spellings.forget()

    def ask(
        self, host: bytes, url: bytes, fields: dict[bytes, bytes], peer_address: str
    ) -> tuple[Asked, Wanted | None] | None:
        """What a GET with these header fields asks for; None when it is not plain, or refused."""
        if not _ELSEWHERE.isdisjoint(fields):
            return None
        value = fields.pop(b"range", None)
        address, secure = "", self._secure
        if self._proxies:
            told, proto = (
                fields.get(name, b"").decode("latin-1")
                for name in (b"x-forwarded-for", b"x-forwarded-proto")
            )
            address = forwarded_address(told, self._proxies)
            secure = forwarded_secure(proto, secure=secure)
        path, _, query = url.partition(b"?")
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields.items()}
        request = WebRequest(
            "GET",
            host.decode("latin-1"),
            path,
            named,
            "",
            True,
            0.0,
            query.decode("latin-1"),
            tuple(named.items()),
            secure,
            address=address or peer_address,
        )
        found = route(self._distributions, request.host, path, request.query, named)
        if isinstance(found, Unroutable) or not self._is_plain(found, request):
            return None
        admitted = None
        rules = found.rule.behavior.access
        if rules != OPEN_TO_ALL:
            granted = self._gate.admit(rules, request, time.time())
            if isinstance(granted, Denied):
                return None
            admitted = Pass(rules, granted)
        target = self._target(found, request)
        wanted = None
        if value is not None:
            wanted = plain_range(value)
            if wanted is None:
                return None
        agent = fields.get(b"user-agent")
        logged = "" if agent is None else f',"agent":{quoted(agent)}'
        if address:
            logged += f',"viewer":"{address}"'
        said = target_fields(request.host, path, found.distribution.id)
        return Asked(target, said, logged, address, admitted, request.host), wanted

    def awaited(self, target: Target) -> asyncio.Task[None] | None:
        """What will find out about an object that nothing is known of, if its origin is asked."""
        return self._responses.asking(target.key)

    def decide(self, target: Target, wanted: Wanted | None, now_s: float) -> LaneAnswer | None:
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

    def _refresh(self, target: Target, now_s: float) -> OpenVersion | None:
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
            target.closing = object_lines(head, age_s, delivery).encode("latin-1", "replace")
        return sent

    def _timing(self, target: Target) -> str:
        """Server-Timing for this second's answers: sampled by second, not by answer."""
        if not is_sampled(target.policy.server_timing_percent):
            return ""
        return server_timing(self._edge_name, CacheResult.HIT, 0.0)

    def _form(
        self, target: Target, opened: OpenVersion, now_s: float
    ) -> tuple[OriginHead, OpenVersion | None]:
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

    def _target(self, found: Route, request: WebRequest) -> Target:
        named, coding = request.headers, None
        policy = found.rule.behavior.cache
        key = self._responses.variant(asset_key(found, policy, request), as_selected_by(named))
        if found.rule.behavior.compress:
            coding = named.get("accept-encoding")
        known = key, found.distribution.id, named.get("origin"), coding, request.secure
        target = self._targets.get(known)
        if target is None:
            if len(self._targets) >= TARGETS_MAX:
                self._targets.clear()
            target = self._targets[known] = Target(found, key, request)
        return target

    def _is_plain(self, found: Route, request: WebRequest) -> bool:
        """Whether nothing but the object decides on the answer."""
        if found.is_s3:  # whose errors are S3's, and whose bucket may be meant
            return False
        behavior = found.rule.behavior
        policy = behavior.cache
        if not request.secure and behavior.viewer_protocol is not ViewerProtocol.ALLOW_ALL:
            return False
        if (policy.viewer_directives or policy.strict) and _DIRECTIVES & request.headers.keys():
            return False
        timed = behavior.response_headers.server_timing_percent > 0
        return "cdn-loop" not in request.headers and not (timed and "pragma" in request.headers)


_HIT = Handling(hit=True)


def lane_lines(
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
