"""An invalidation of everything in a cache of many assets, and when the last worker applies it.

The store's functions write the assets' records, because fetching each over HTTP would take an hour;
the requested objects are fetched as any other. Each connection requests an object that was a hit
on it. As soon as the call returns, all connections request it again until none receives the old
response. The origin sends a different body for each request.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.server import LOOPBACK, BenchError, Server, scratch_folder
from streamedge.cache.storage.folder import WORKERS_MAX
from streamedge.cache.storage.records import Record, decode_record
from streamedge.cache.storage.store import Store
from streamedge.ops.log import open_log
from streamedge.origin import OriginHead, Version

WORKERS = 2
FILLERS = 2
CONNECTIONS = 32  # so many that each worker surely has some
ROUNDS = 9
TIMEOUT_S = 30.0
OBJECT = "/object-{}"


@dataclass(frozen=True, slots=True)
class _Round:
    """``call_s``: the duration of the call. ``applied_s``: from its return to the last request
    with the old response, 0 without one."""

    call_s: float
    applied_s: float


def invalidation(options: Options) -> list[Figure]:
    """Medians and worst cases of invalidating everything."""
    with scratch_folder() as cache, _origin() as origin_port:
        with streamedge(origin_port, workers=WORKERS, core=None, cache=cache) as server:
            with _Viewers(server) as viewers:
                viewers.request_all(0)
            key = _cached_key(cache)
        began_s = time.monotonic()
        _fill(cache, key, options.assets)
        filled_s = time.monotonic() - began_s
        with streamedge(origin_port, workers=WORKERS, core=None, cache=cache) as server:
            rounds = [_invalidate(server, number) for number in range(ROUNDS)]
    calls = [each.call_s * 1000 for each in rounds]
    applied = [each.applied_s * 1000 for each in rounds]
    return [
        Figure("assets in the cache", "", {STREAMEDGE: float(options.assets)}),
        Figure("time to write their records", "s", {STREAMEDGE: filled_s}),
        Figure("the call, median", "ms", {STREAMEDGE: statistics.median(calls)}, Target(20.0)),
        Figure("the call, longest", "ms", {STREAMEDGE: max(calls)}),
        Figure(
            "from its return to the last old response",
            "ms",
            {STREAMEDGE: max(applied)},
            Target(5.0),
        ),
    ]


def _invalidate(server: Server, number: int) -> _Round:
    with _Viewers(server) as viewers:
        before = viewers.request_all(number)
        if viewers.request_all(number) != before:
            raise BenchError("a response was not a hit")
        admin = http.client.HTTPConnection(LOOPBACK, server.admin_port, timeout=TIMEOUT_S)
        admin.connect()
        body = json.dumps({"distribution": "EWEB", "items": ["/*"]})
        began_s = time.monotonic()
        admin.request("POST", "/invalidations", body)
        response = admin.getresponse()
        response.read()
        returned_s = time.monotonic()
        admin.close()
        if response.status != http.client.CREATED:
            raise BenchError(f"the call returned {response.status}")
        applied_s = returned_s
        while True:
            request_s = time.monotonic()
            if before.isdisjoint(viewers.request_all(number)):
                return _Round(returned_s - began_s, applied_s - returned_s)
            applied_s = request_s
            if request_s > returned_s + TIMEOUT_S:
                raise BenchError(f"old responses {TIMEOUT_S:.0f} s after the call")


class _Viewers:
    """Keep-alive connections; any worker may have accepted each."""

    def __init__(self, server: Server) -> None:
        self._all = [
            http.client.HTTPConnection(LOOPBACK, server.http_port, timeout=TIMEOUT_S)
            for _ in range(CONNECTIONS)
        ]

    def __enter__(self) -> _Viewers:
        return self

    def __exit__(self, *_exc: object) -> None:
        for viewer in self._all:
            viewer.close()

    def request_all(self, number: int) -> set[bytes]:
        """Requests an object on all connections at once; returns the bodies."""
        for viewer in self._all:
            viewer.request("GET", OBJECT.format(number))
        return {viewer.getresponse().read() for viewer in self._all}


@contextmanager
def _origin() -> Iterator[int]:
    """Runs an origin whose responses all differ; yields its port."""
    numbers = itertools.count()

    class NumberedResponses(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = str(next(numbers)).encode()
            self.send_response(http.client.OK)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "max-age=86400")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer((LOOPBACK, 0), NumberedResponses) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()


def _cached_key(cache: Path) -> str:
    """The key of a cached object, as the prefix of other keys."""
    for path in (cache / "assets").glob("*/*"):
        data = path.read_bytes()
        line = data.partition(b"\n")[0]  # the body of a small object is behind it
        record = decode_record(data, str(json.loads(line)["key"]))
        if record is not None and not record.is_marker:
            return record.key
    raise BenchError("no fetched object is in the cache")


def _fill(cache: Path, key: str, count: int) -> None:
    """Writes records of ``count`` more objects; ``key`` is the prefix of their keys."""
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(FILLERS))
        shares = [range(first, count, FILLERS) for first in range(FILLERS)]
        list(pool.map(_write, [cache] * FILLERS, [key] * FILLERS, shares, range(FILLERS)))


def _write(cache: Path, key: str, numbers: range, filler: int) -> None:
    silent = open_log(os.devnull, "bench")
    store = Store(cache, WORKERS_MAX - 1 - filler, silent)
    headers = {"cache-control": "max-age=86400"}
    now_s = time.time()
    for number in numbers:
        version = Version(f'"{number}"', 1 << 20, 1_700_000_000)
        head = OriginHead(version, "application/octet-stream", headers)
        store.save_record(Record(f"{key}-asset-{number}", head, now_s))
