"""RTMP from a warm cache: the CPU time of a gigabyte, and the number of viewers of one worker.

``rtmp_viewers`` runs the viewers, ``media_clock`` decides which are late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from statistics import median

from bench.loads.discarding import DiscardingResult
from bench.loads.load import run_program
from bench.loads.rtmp_client import BUFFER_MS, play_whole
from bench.loads.viewers_plan import ViewersPlan
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure, Target, ratio
from bench.rtmp import rtmpe_viewers, rtmpt_viewers
from bench.rtmp.rtmp_viewers import Plan, Result, watch
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import origin
from bench.servers.peers import APPLICATION, RTMP, nginx_rtmp
from bench.servers.sendfile_floor import FLOOR, sendfile_floor
from bench.servers.server import (
    LOOPBACK,
    Failure,
    Server,
    Start,
    Value,
    free_port,
    measure_each,
    pick,
)
from bench.servers.titles import MOOV_FIRST, Titles, titles

NAME = f"mp4:{MOOV_FIRST}"
RAMP_PER_S = 500.0
SETTLE_S = 4.0
"""After the last viewer's start; then its buffer is full and the load is steady."""
MARGIN_S = 60
"""A viewer starts at least this long plus the run before the title's end."""
COST_VIEWERS = 200
STARTS = 5
START_LIMIT_S = 30.0
START_MORE_MAX_S = 0.3
KIB = 1024
PLAIN = "StreamEdge, plain RTMP"


def cost(options: Options) -> list[Figure]:
    """CPU-seconds of the server per GB that 200 viewers receive in real time."""
    starts = _starts() | {
        FLOOR: lambda: sendfile_floor(titles().moov_first, core=SERVER_CORE),
    }
    results = measure_each(
        starts, lambda server: watch_viewers(server, COST_VIEWERS, options.seconds)
    )
    per_gb = pick(results, lambda result: result.server_cpu_s / (result.bytes / 1e9))
    return [
        Figure("server CPU per GB delivered", "s", per_gb),
        Figure("ratio to nginx-rtmp", "", ratio(per_gb, RTMP), Target(0.15)),
        Figure("ratio to the kernel's floor", "", ratio(per_gb, FLOOR), Target(1.3)),
        Figure(
            "delivered", "MB/s", pick(results, lambda result: result.bytes / result.seconds / 1e6)
        ),
        Figure("late viewers", "", pick(results, _late)),
    ]


def encrypted_cost(options: Options) -> list[Figure]:
    """CPU-seconds of the server per GB over RTMPE, beside plain RTMP."""
    films = titles()
    results: dict[str, DiscardingResult | Failure] = {}
    for name, is_encrypted in ((PLAIN, False), (STREAMEDGE, True)):
        results |= measure_each(
            {name: lambda: _warm_edge(films, "rtmpe = true")},
            partial(_watch_encrypted, is_encrypted=is_encrypted, seconds=options.seconds),
        )
    per_gb = pick(results, lambda result: result.server_cpu_s / (result.bytes / 1e9))
    return [
        Figure("server CPU per GB delivered", "s", per_gb),
        Figure("ratio to plain RTMP", "", ratio(per_gb, PLAIN)),
        Figure(
            "delivered", "MB/s", pick(results, lambda result: result.bytes / result.seconds / 1e6)
        ),
        Figure("lost viewers", "", pick(results, lambda result: result.broken), Target(0)),
    ]


def tunnel_cost(options: Options) -> list[Figure]:
    """CPU-seconds of the server per GB over RTMPT, beside plain RTMP."""
    films, port = titles(), free_port()
    listen = f'mixed = ["{LOOPBACK}:{port}"]'
    watch_plain = partial(_watch_encrypted, is_encrypted=False, seconds=options.seconds)
    plain = measure_each({PLAIN: lambda: _warm_edge(films, listen)}, watch_plain)
    tunnels = measure_each(
        {STREAMEDGE: lambda: _warm_edge(films, listen)},
        lambda server: _watch_tunnels(server, port, options.seconds),
    )
    starts: dict[str, float | Failure] = {}
    for name, url in (
        (PLAIN, f"rtmp://{LOOPBACK}:{port}"),
        (STREAMEDGE, f"rtmpt://{LOOPBACK}:{port}"),
    ):
        starts |= measure_each(
            {name: lambda: _warm_edge(films, listen)}, partial(_first_frame_s, url=url)
        )
    both: dict[str, DiscardingResult | Failure] = {**plain, **tunnels}
    per_gb = pick(both, lambda result: result.server_cpu_s / (result.bytes / 1e9))
    return [
        Figure("server CPU per GB delivered", "s", per_gb),
        Figure("ratio to plain RTMP", "", ratio(per_gb, PLAIN), Target(1.5)),
        Figure("delivered", "MB/s", pick(both, lambda result: result.bytes / result.seconds / 1e6)),
        Figure(
            "requests of a viewer",
            "/s",
            pick(tunnels, lambda result: result.requests / result.seconds / COST_VIEWERS),
            Target(3.0),
        ),
        Figure("lost viewers", "", pick(both, lambda result: result.broken), Target(0)),
        Figure("FFmpeg's first frame", "s", pick(starts, float)),
        Figure(
            "FFmpeg's first frame, later than over plain RTMP",
            "s",
            _later(pick(starts, float)),
            Target(START_MORE_MAX_S),
        ),
    ]


def _first_frame_s(server: Server, url: str) -> float:
    """Seconds until FFmpeg has decoded a frame; the median of some runs."""
    probe = ["-analyzeduration", "100000", "-probesize", "100000"]
    stream = f"{url}/{APPLICATION}/{NAME}"
    command = ["ffmpeg", "-v", "error", *probe, "-i", stream, "-frames:v", "1", "-f", "null", "-"]
    runs = [
        run_program(command, server_pid=server.pid, limit_s=START_LIMIT_S) for _ in range(STARTS)
    ]
    return median(run.seconds for run in runs)


def _later(starts: Mapping[str, Value]) -> dict[str, Value]:
    ours, plain = starts.get(STREAMEDGE), starts.get(PLAIN)
    if not isinstance(ours, float) or not isinstance(plain, float):
        return {}
    return {STREAMEDGE: ours - plain}


def _watch_tunnels(server: Server, port: int, seconds: float) -> DiscardingResult:
    return rtmpt_viewers.watch(_plan(server, port, seconds))


def _watch_encrypted(server: Server, *, is_encrypted: bool, seconds: float) -> DiscardingResult:
    plan = _plan(server, server.rtmp_port, seconds)
    return rtmpe_viewers.watch(rtmpe_viewers.Plan(**asdict(plan), is_encrypted=is_encrypted))


def _plan(server: Server, port: int, seconds: float) -> ViewersPlan:
    return ViewersPlan(
        port=port,
        application=APPLICATION,
        name=NAME,
        viewers=COST_VIEWERS,
        settle_s=SETTLE_S,
        seconds=seconds,
        latest_start_ms=int((titles().duration_s - SETTLE_S - seconds - MARGIN_S) * 1000),
        buffer_ms=BUFFER_MS,
        server_pid=server.pid,
    )


def capacity(options: Options) -> list[Figure]:
    """Viewers that one worker serves in real time: none may be late."""
    counts = {STREAMEDGE: options.viewers, RTMP: options.peer_viewers}
    results = measure_each(
        _starts(), lambda server: watch_viewers(server, counts[server.name], options.seconds)
    )
    viewers = pick(results, lambda result: result.viewers)
    return [
        Figure("viewers", "", viewers),
        Figure("late or lost viewers", "", pick(results, _late), Target(0)),
        Figure(
            "worst lag (below 0: media in hand)",
            "s",
            pick(results, lambda result: result.worst_lag_s),
        ),
        Figure("median viewer's worst lag", "s", pick(results, lambda result: result.median_lag_s)),
        Figure(
            "delivered", "MB/s", pick(results, lambda result: result.bytes / result.seconds / 1e6)
        ),
        Figure("server CPU", "% of its core", pick(results, _share(lambda r: r.server_cpu_s))),
        Figure(
            "load generator CPU", "% of its core", pick(results, _share(lambda r: r.load_cpu_s))
        ),
        Figure("server memory per viewer (PSS)", "KiB", pick(results, _memory_kib), Target(40)),
    ]


def _starts() -> dict[str, Start]:
    films = titles()
    return {
        STREAMEDGE: lambda: _warm_edge(films),
        RTMP: lambda: nginx_rtmp(films.folder, core=SERVER_CORE),
    }


@contextmanager
def _warm_edge(films: Titles, listen: str = "") -> Iterator[Server]:
    """An edge that has sent the complete title once."""
    with (
        origin(films.folder) as source,
        streamedge(source.port, core=SERVER_CORE, listen=listen) as server,
    ):
        play_whole(server.rtmp_port, APPLICATION, NAME)
        yield server


def watch_viewers(server: Server, viewers: int, seconds: float) -> Result:
    run_s = viewers / RAMP_PER_S + SETTLE_S + seconds
    films = titles()
    return watch(
        Plan(
            port=server.rtmp_port,
            application=APPLICATION,
            name=NAME,
            viewers=viewers,
            ramp_per_s=RAMP_PER_S,
            settle_s=SETTLE_S,
            seconds=seconds,
            latest_start_ms=int((films.duration_s - run_s - MARGIN_S) * 1000),
            buffer_ms=BUFFER_MS,
            server_pid=server.pid,
        )
    )


def _late(result: Result) -> int:
    return result.late + result.broken


def _memory_kib(result: Result) -> float:
    return (result.loaded_pss_bytes - result.idle_pss_bytes) / result.viewers / KIB


def _share(seconds: Callable[[Result], float]) -> Callable[[Result], float]:
    return lambda result: 100 * seconds(result) / result.seconds
