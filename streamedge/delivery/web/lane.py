"""The short lane: a plain GET of an object that is open, fresh and here, answered in one breath.

Owns the decision, the head and the log line of such an answer. Everything that is the same from
one request to the next is kept ready by target (host and URL): the object's header lines and the
place in the log line for good, date, age and freshness for a second. Whatever is out of the
ordinary (conditions, HEAD, HTTP/1.0, a range in another form, bytes that are not here) is not
answered here: ``decide`` says None, and the general way gives the same answer, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from streamedge.cache.cache import Cache
from streamedge.cache.extent import Ready
from streamedge.cache.open_version import OpenVersion
from streamedge.cache.reader import CacheResult
from streamedge.delivery.distributions import Distribution
from streamedge.delivery.web.access_log import quoted, target_fields
from streamedge.delivery.web.answer import Delivery, closing_lines, object_lines

TARGETS_MAX = 8192  # remembered

_PLAIN_RANGE = re.compile(rb"bytes=(\d{1,18})-(\d{0,18})")
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
        b"upgrade",
    }
)


class Target:
    """What is kept ready for a host and URL."""

    __slots__ = ("closing", "distribution", "key", "logged", "opened", "second", "size_bytes")

    def __init__(self, distribution: Distribution, key: str, logged: str) -> None:
        self.distribution = distribution
        self.key = key
        self.logged = logged
        self.second = -1
        self.opened: OpenVersion | None = None
        self.size_bytes = 0
        self.closing = b""


class LaneAnswer(NamedTuple):
    """An answer to send now: ``head``, then ``ready``, then what is left up to ``end``."""

    status: int
    head: bytes
    ready: Ready
    start: int
    end: int
    opened: OpenVersion


Locate = Callable[[str, bytes], tuple[Distribution, str] | None]


class Lane:
    """The short lane of a worker. ``locate`` gives a host's and path's distribution and key."""

    def __init__(self, cache: Cache, edge_name: str, locate: Locate) -> None:
        self._cache = cache
        self._edge_name = edge_name
        self._locate = locate
        self._targets: dict[tuple[bytes, bytes], Target] = {}

    def find(self, host: bytes, url: bytes) -> Target | None:
        """What is kept for a Host field and a URL; None when they name no object."""
        return self._targets.get((host, url)) or self._remember(host, url)

    def decide(self, target: Target, fields: dict[bytes, bytes], now_s: float) -> LaneAnswer | None:
        """The answer to a GET with these header fields, or None."""
        if not _ELSEWHERE.isdisjoint(fields):
            return None
        opened = target.opened
        if target.second != int(now_s) or opened is None or opened.superseded:
            opened = self._refresh(target, now_s)
            if opened is None:
                return None
        size = target.size_bytes
        wanted = fields.get(b"range")
        if wanted is None:
            start, end, status = 0, size, 200
            status_lines = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % size
        else:
            match = _PLAIN_RANGE.fullmatch(wanted)
            if match is None:
                return None
            first, last = match.groups()
            start, status = int(first), 206
            end = min(int(last) + 1, size) if last else size
            status_lines = (
                b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\n"
                b"content-range: bytes %d-%d/%d\r\n" % (end - start, start, end - 1, size)
            )
        if start >= end:
            return None
        ready = opened.ready(start, end)
        if ready is None:
            return None
        return LaneAnswer(status, status_lines + target.closing, ready, start, end, opened)

    def _refresh(self, target: Target, now_s: float) -> OpenVersion | None:
        """Looks whether the object is open and fresh, and makes this second's header lines."""
        opened = self._cache.peek(target.key, target.distribution.default_ttl_s, now_s)
        target.opened = opened
        if opened is not None:
            target.second = int(now_s)
            target.size_bytes = opened.version.size_bytes
            delivery = Delivery(self._edge_name, now_s, True, CacheResult.HIT)
            age_s = now_s - opened.record.validated_s
            lines = object_lines(opened.head) + closing_lines(age_s, delivery)
            target.closing = lines.encode("latin-1", "replace")
        return opened

    def _remember(self, host: bytes, url: bytes) -> Target | None:
        path = url.partition(b"?")[0]
        located = self._locate(host.decode("latin-1"), path)
        if located is None:
            return None
        distribution, key = located
        if len(self._targets) >= TARGETS_MAX:
            self._targets.clear()
        logged = target_fields(host, path, distribution.id)
        target = self._targets[host, url] = Target(distribution, key, logged)
        return target


def lane_line(
    process: str,
    client: str,
    target: Target,
    hit: LaneAnswer,
    fields: dict[bytes, bytes],
    now_s: float,
    sent_bytes: int,
) -> str:
    """The log line of an answer that went out at once, as ``access_log`` would write it."""
    line = (
        f'{{"time":{now_s:.3f},"event":"response","process":"{process}","client":"{client}",'
        f'"method":"GET",{target.logged},"status":{hit.status},"bytes":{sent_bytes},'
        f'"cache":"Hit","seconds":0.0'
    )
    wanted = fields.get(b"range")
    if wanted is not None:
        line += f',"range":"{wanted.decode()}"'
    agent = fields.get(b"user-agent")
    if agent is not None:
        line += f',"agent":{quoted(agent)}'
    return line + "}"
