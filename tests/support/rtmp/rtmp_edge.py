"""An RTMP server, its cache and its scripted origin in the test's own event loop.

A test may replace what the server serves, and sets the time that signatures are checked against.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamedge.access.admission import AccessRules
from streamedge.access.client_address import IpNetwork
from streamedge.access.geo import CountryDatabase
from streamedge.access.wildcards import ResourcePattern
from streamedge.cache.objects import Cache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.store import Store
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDatabase
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.control.log import ControlLog
from streamedge.delivery.hosts import HostTable, OriginBinding
from streamedge.delivery.nearest import NearestEdges
from streamedge.delivery.rtmp.context import RtmpLimits
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.rtmp.session import RtmpSession
from streamedge.delivery.rtmp.streams import RtmpDistribution, StreamResolver
from streamedge.media.library import MediaLibrary
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts, Gauge
from streamedge.origin.http.origin import HttpOrigin
from tests.support.event_loop import until
from tests.support.origins.scripted_origin import ScriptedOrigin

PUBLIC = AccessRules()
NO_COUNTRIES = CountryDatabase(None)
LIMITS = RtmpLimits(
    connections_max=10,
    handshake_s=1e9,
    idle_s=1e9,
    stall_s=1e9,
    message_bytes=65536,
    streams_max=4,
    ahead_s=1e9,
    rate_bytes=0,
)


class RtmpEdge:
    """A server, its cache and its scripted origin; ``now_s`` is the time for signatures."""

    server: RtmpServer
    streams: StreamResolver
    control: ControlLog

    def __init__(
        self,
        origin: ScriptedOrigin,
        cache: Cache,
        port: int,
        log: Path,
        distribution: RtmpDistribution,
    ) -> None:
        self.origin = origin
        self.cache = cache
        self.counts = cache.counts
        self.port = port
        self.distribution = distribution
        self.now_s = time.time()
        self._log = log

    @property
    def sessions(self) -> set[RtmpSession]:
        """The sessions of the connected clients."""
        return {each for each in self.server.sessions if isinstance(each, RtmpSession)}

    @property
    def log_text(self) -> str:
        self.cache.log.flush()
        return self._log.read_text()

    def invalidate(self, *items: str, soft: bool = False) -> None:
        """Invalidates what was cached until now; ``soft``: treats it as expired."""
        self.control.invalidate(self.distribution.id, items, soft=soft)
        AnnouncedHead(self.cache.store.root).publish(self.control.position())
        self.cache.store.changes.announce_invalidation()

    def rule(self, **rules: Any) -> None:
        """Applies the distribution with other rules."""
        self.distribution = replace(self.distribution, **rules)
        self.streams.replace(HostTable([self.distribution]))

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log_text.splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    @property
    def readers(self) -> int:
        """The number of open readers in the cache, packagers' sources included."""
        return sum(version.reader_count for version in self.cache.open_versions)

    async def until_gone(self) -> None:
        """Returns when no session, fill or player task is left."""
        await until(
            lambda: (
                not self.sessions
                and not self.counts.gauges[Gauge.RUNNING_FILLS]
                and not _player_tasks()
            )
        )


def _player_tasks() -> list[asyncio.Task[Any]]:
    return [
        task
        for task in asyncio.all_tasks()
        if getattr(task.get_coro(), "__qualname__", "").startswith(
            ("Plays.", "LengthCalls.", "Switcher.")
        )
    ]


@asynccontextmanager
async def serve_rtmp(
    root: Path,
    *,
    access: AccessRules = PUBLIC,
    pages: Sequence[ResourcePattern] = (),
    countries: CountryDatabase = NO_COUNTRIES,
    proxies: Sequence[IpNetwork] = (),
    per_address_max: int = 0,
    nearest: NearestEdges | None = None,
    offers_rtmpe: bool = False,
    **limits: Any,
) -> AsyncIterator[RtmpEdge]:
    """Serves distribution "E", application cfx/st of any host, with these limits.

    With ``proxies`` each connection begins with a PROXY header. ``nearest``: the fleet's nearest
    edges.
    """
    async with ScriptedOrigin() as origin:
        site = HttpOrigin(origin.url)
        log = open_log(str(root.parent / "log"), "test")
        database = ControlDatabase(root)
        control = ControlLog(database)
        cache = Cache(
            Store(root, 0, log),
            log,
            Counts(),
            open_extents=64,
            retries=0,
            invalidation_index=InvalidationIndex(control, log),
        )
        binding = OriginBinding("site", "http site", site, site)
        distribution = RtmpDistribution(
            "E", ("*",), binding, TtlRules(), ("cfx/st",), False, access, tuple(pages)
        )
        titles = MediaLibrary(
            cache, memory_bytes=64 << 20, index_bytes=64 << 20, moov_bytes=1 << 20
        )
        listener = socket.create_server(("127.0.0.1", 0))
        edge = RtmpEdge(origin, cache, listener.getsockname()[1], root.parent / "log", distribution)
        edge.streams = StreamResolver(
            HostTable([distribution]),
            titles,
            countries,
            clock=lambda: edge.now_s,
            nearest=nearest,
        )
        server = RtmpServer(
            edge.streams,
            replace(LIMITS, **limits),
            log,
            cache.counts,
            proxies=proxies,
            per_address_max=per_address_max,
            offers_rtmpe=offers_rtmpe,
        )
        await server.start([listener], [listener] if proxies else [])
        edge.server = server
        edge.control = control
        try:
            yield edge
        finally:
            await server.drain(0)
            await titles.close()
            await cache.close()
            await site.close()
            database.close()
