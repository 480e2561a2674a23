"""A web server in the test's own process and loop, over a scripted origin."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamedge.access.geo import CountryDatabase
from streamedge.build.origins import bind_origins
from streamedge.build.parts import ServerParts
from streamedge.build.web import web_server
from streamedge.cache.objects import Cache
from streamedge.cache.storage.changes import is_changes_file_whole
from streamedge.cache.storage.store import Store
from streamedge.config.schema.config import Config
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDatabase
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.control.log import ControlLog
from streamedge.coordination.invalidation_feed import apply_invalidations
from streamedge.delivery.http.http1.connection import Http1Connection
from streamedge.delivery.http.server import WebServer
from streamedge.delivery.nearest import NearestEdges
from streamedge.ops.log import Log, open_log
from streamedge.ops.metrics import Counts
from tests.support.origins.scripted_origin import ScriptedOrigin


@dataclass(slots=True)
class WebEdge:
    """A running web server, its origin, cache and log."""

    port: int
    origin: ScriptedOrigin
    server: WebServer
    cache: Cache
    counts: Counts
    log: Log
    log_file: Path
    control_log: ControlLog

    def invalidate(
        self,
        *items: str,
        soft: bool = False,
        revoke: bool = False,
        distributions: Sequence[str] = ("EWEB",),
    ) -> None:
        """Invalidates as the control process does, then applies it as a worker does."""
        for distribution in distributions:
            self.control_log.invalidate(distribution, items, soft=soft, revoke=revoke)
        AnnouncedHead(self.cache.store.root).publish(self.control_log.position())
        self.cache.store.changes.announce_invalidation()
        apply_invalidations(self.cache.invalidation_checker, (self.server.revoke,))

    def lines(self, event: str = "response") -> list[dict[str, Any]]:
        """The log lines of an event so far."""
        self.log.flush()
        lines = [json.loads(line) for line in self.log_file.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def serve_web(
    root: Path,
    *,
    limits: dict[str, Any] | None = None,
    aliases: tuple[str, ...] = ("*",),
    default_ttl: str = "24h",
    policy: dict[str, Any] | None = None,
    rules: dict[str, Any] | None = None,
    origin_keys: dict[str, Any] | None = None,
    tables: dict[str, Any] | None = None,
    beside: WebEdge | None = None,
    context: ssl.SSLContext | None = None,
    proxied: bool = False,
    nearest: NearestEdges | None = None,
) -> AsyncIterator[WebEdge]:
    """Serves the distribution EWEB; ``root`` is a prepared cache folder (``prepare_folder``).

    Without its files the cache would store responses, and never send one of them: ValueError.

    ``policy`` replaces its built-in cache policy. ``rules`` are further keys of the distribution,
    ``origin_keys`` of its origin, ``tables`` of the config. ``beside``: another worker of that
    edge, with the same folder. ``context``: over TLS. ``proxied``: each connection begins with a
    PROXY header. ``nearest``: the fleet's nearest edges.
    """
    if not is_changes_file_whole(root):
        raise ValueError(f"{root} is no prepared cache folder: take the fixture cache_root")
    async with AsyncExitStack() as stack:
        if beside is None:
            origin = await stack.enter_async_context(ScriptedOrigin())
        else:
            origin = beside.origin
        distribution = {
            "id": "EWEB",
            "type": "web",
            "origin": "main",
            "aliases": aliases,
            "default_ttl": default_ttl,
            **({} if policy is None else {"cache_policy": "own"}),
            **(rules or {}),
        }
        config = Config.model_validate(
            {
                "edge": {"name": "test"},
                "limits": {"origin_retries": 1, **(limits or {})},
                "origins": {"main": {"type": "http", "url": origin.url, **(origin_keys or {})}},
                "cache_policies": {} if policy is None else {"own": policy},
                "distributions": [distribution],
                **(tables or {}),
            }
        )
        slot = 0 if beside is None else 1
        log_file = root / f"test{slot}.log"
        log_file.touch()
        log, counts = open_log(str(log_file), "test"), Counts()
        database = ControlDatabase(root)
        stack.callback(database.close)
        store = Store(root, slot, log)
        invalidation_index = InvalidationIndex(ControlLog(database), log)
        cache = Cache(
            store,
            log,
            counts,
            open_extents=config.limits.open_extents,
            retries=config.limits.origin_retries,
            invalidation_index=invalidation_index,
        )
        cache.invalidation_checker.apply_new()  # as a worker does at its start
        bindings = bind_origins(config, log, counts)
        countries = CountryDatabase(config.countries.database)
        parts = ServerParts(bindings, cache, log, counts, countries, nearest=nearest)
        server = web_server(config, parts)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        plain, secure = ([listener], []) if context is None else ([], [listener])
        await server.start(plain, secure, context, [listener] if proxied else [])
        try:
            yield WebEdge(port, origin, server, cache, counts, log, log_file, ControlLog(database))
        finally:
            await server.drain(0)
            await cache.close()
            for binding in bindings.values():
                await binding.origin.close()
            log.flush()
            log.close()


def connections(edge: WebEdge) -> list[Http1Connection]:
    """The open connections, from within."""
    return [one for one in edge.server.connections if isinstance(one, Http1Connection)]


def waiting_requests(edge: WebEdge) -> int:
    """How many requests wait on their connection for the response to another."""
    return sum(1 for one in connections(edge) if one.stats().is_waiting)


def descriptors() -> int:
    """How many open descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))
