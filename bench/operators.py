"""What it costs that operators watch: access logs, the status stream, the list of viewers.

Two edges serve the same load. One has nothing to write or to show but its JSON log; the other
writes CloudFront's access logs, and a program reads what the operators' page reads while it shows
the viewers: the status stream and the list of viewers. ``python -m bench.operators PORT`` is that
program.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.http.requests import CONNECTIONS
from bench.loads.load import LoadResult
from bench.loads.rtmp_client import play_whole
from bench.loads.wrk import WrkPlan, wrk
from bench.machine import LOAD_CORE, SERVER_CORE
from bench.options import Options
from bench.report import Figure, Target
from bench.rounds import SHORT_ROUNDS, SHORT_ROUNDS_MAX, ratio_figures, rounds_of
from bench.rtmp.rtmp_rows import COST_VIEWERS, NAME, watch_viewers
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import origin
from bench.servers.peers import APPLICATION
from bench.servers.server import LOOPBACK, Failure, Server, process, scratch_folder
from bench.servers.titles import titles

UNWATCHED = f"{STREAMEDGE}, unwatched"
OBJECT = "/synthetic-1024"
COST_MAX = 1.05
VIEWERS = "/viewers?sort=-rate&limit=200"
RTMP_ROUNDS = 7
RTMP_ROUND_SHARE = 0.4  # of the length of a timed measurement


def watching(options: Options) -> list[Figure]:
    """1 KiB hits and 200 RTMP viewers, with and without operators who watch."""
    with _edges() as servers:
        hits = rounds_of(
            servers,
            lambda server: _hits(server, options.seconds / SHORT_ROUNDS),
            rounds=SHORT_ROUNDS,
            rounds_max=SHORT_ROUNDS_MAX,
        )
        plays = rounds_of(
            servers,
            lambda server: _plays(server, RTMP_ROUND_SHARE * options.seconds),
            rounds=RTMP_ROUNDS,
            rounds_max=2 * RTMP_ROUNDS,
        )
    return [
        *ratio_figures("1 KiB hits", hits, UNWATCHED, 1 / COST_MAX, peer_word="unwatched"),
        Figure(
            f"{COST_VIEWERS} RTMP viewers: server CPU",
            "% of its core",
            {name: _share(results) for name, results in plays.items()},
        ),
        Figure(
            f"{COST_VIEWERS} RTMP viewers: CPU, ratio to unwatched",
            "",
            _cpu_ratio(plays),
            Target(COST_MAX),
        ),
    ]


@contextmanager
def _edges() -> Iterator[dict[str, Server | Failure]]:
    """The two edges by name, with the object and the title in their caches."""
    films = titles()
    with ExitStack() as stack:
        source = stack.enter_context(origin(films.folder))
        folder = stack.enter_context(scratch_folder())
        plain = stack.enter_context(streamedge(source.port, core=SERVER_CORE))
        log = 'log = {origin = "logs", prefix = "cdn/"}'
        watched = stack.enter_context(
            streamedge(
                source.port,
                core=SERVER_CORE,
                web=log,
                rtmp=log,
                tables=f'[origins.logs]\ntype = "directory"\npath = "{_logs(folder)}"\n',
            )
        )
        for server in (plain, watched):
            _request(server.http_port, OBJECT)
            play_whole(server.rtmp_port, APPLICATION, NAME)
        stack.enter_context(
            process(
                [sys.executable, "-m", "bench.operators", str(watched.admin_port)],
                log=folder / "watcher.log",
                ready=lambda: True,
                core=LOAD_CORE,
            )
        )
        yield {UNWATCHED: plain, STREAMEDGE: watched}


def _logs(folder: Path) -> Path:
    logs = folder / "logs"
    logs.mkdir()
    return logs


def _hits(server: Server, seconds: float) -> LoadResult:
    return wrk(WrkPlan(server.http_port, OBJECT, CONNECTIONS, seconds), server.pid)


def _plays(server: Server, seconds: float) -> LoadResult:
    result = watch_viewers(server, COST_VIEWERS, seconds)
    return LoadResult(result.viewers, result.seconds, result.server_cpu_s, result.load_cpu_s)


def _share(results: list[LoadResult] | Failure) -> float | str:
    if isinstance(results, Failure):
        return "failed"
    return 100 * median(one.server_cpu_s / one.seconds for one in results)


def _cpu_ratio(plays: dict[str, list[LoadResult] | Failure]) -> dict[str, float | str]:
    ours, theirs = plays[STREAMEDGE], plays[UNWATCHED]
    if isinstance(ours, Failure) or isinstance(theirs, Failure):
        return {}
    pairs = zip(ours, theirs, strict=True)
    return {STREAMEDGE: median(one.server_cpu_s / other.server_cpu_s for one, other in pairs)}


def _request(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _read_status(port: int) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    connection.request("GET", "/status/stream")
    response = connection.getresponse()
    while response.readline():
        pass


def _watch(port: int) -> None:
    threading.Thread(target=_read_status, args=(port,), daemon=True).start()
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    while True:
        connection.request("GET", VIEWERS)
        document = json.loads(connection.getresponse().read())
        time.sleep(document["next_look_s"])


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
