"""RTMP from a cold cache: the first picture and a seek, with an origin at twice the bitrate.

It measures a file with the moov first and one with the moov last. nginx-rtmp fetches a remote file
completely before it plays, which would take five minutes here; it fails after WAIT_S.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.loads import rtmp_wire as wire
from bench.loads.rtmp_client import Viewer, playing, raise_if_refused
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE, streamedge
from bench.servers.origin import Origin, origin
from bench.servers.peers import APPLICATION, RTMP, nginx_rtmp
from bench.servers.server import LOOPBACK, BenchError, Server, Start, measure_each, pick
from bench.servers.titles import titles

FIRST_BYTE_S = 0.03
BYTES_PER_S = 1_000_000
WAIT_S = 15.0
SEEK_TO = 0.9
WATCH_BEFORE_SEEK_S = 1.0
STREAM_ID = 1


@dataclass(frozen=True, slots=True)
class _Measurement:
    """Seconds from the command, and the share of the object that the origin had sent by then."""

    first_frame_s: float
    first_frame_part: float
    notify_s: float
    seek_frame_s: float
    seek_part: float


def first_frames(options: Options) -> list[Figure]:
    """From connecting to the first coded picture, then from seek to its notice and picture."""
    films = titles()
    with origin(films.folder, first_byte_s=FIRST_BYTE_S, bytes_per_s=BYTES_PER_S) as source:
        return [
            *_figures(source, films.moov_first, "moov first", films.duration_s),
            *_figures(source, films.moov_last, "moov last", films.duration_s),
        ]


def _figures(source: Origin, path: Path, label: str, duration_s: int) -> list[Figure]:
    size_bytes = path.stat().st_size
    position_ms = int(duration_s * SEEK_TO * 1000)
    results = measure_each(
        _starts(source),
        lambda server: _play_and_seek(server, source, path.name, size_bytes, position_ms),
    )
    first_s = pick(results, lambda measurement: measurement.first_frame_s)
    first_part = pick(results, lambda measurement: 100 * measurement.first_frame_part)
    notify_s = pick(results, lambda measurement: measurement.notify_s)
    seek_s = pick(results, lambda measurement: measurement.seek_frame_s)
    seek_part = pick(results, lambda measurement: 100 * measurement.seek_part)
    return [
        Figure(f"{label}: first frame", "s", first_s, Target(1.5)),
        Figure(f"{label}: fetched by then", "% of the object", first_part, Target(3.0)),
        Figure(f"{label}: seek to 90 %, Seek.Notify", "s", notify_s, Target(1.0)),
        Figure(f"{label}: seek to 90 %, first frame", "s", seek_s, Target(1.5)),
        Figure(f"{label}: fetched from seek to frame", "% of the object", seek_part),
    ]


def _starts(source: Origin) -> dict[str, Start]:
    remote = f"http://{LOOPBACK}:{source.port}/cold"
    return {
        STREAMEDGE: lambda: streamedge(source.port, core=SERVER_CORE),
        RTMP: lambda: nginx_rtmp(remote, core=SERVER_CORE),
    }


def _play_and_seek(
    server: Server, source: Origin, name: str, size_bytes: int, position_ms: int
) -> _Measurement:
    source.reset()
    command_s = time.monotonic()
    with playing(server.rtmp_port, APPLICATION, f"mp4:cold/{name}", timeout_s=WAIT_S) as viewer:
        first_frame_s = _frame(viewer, command_s + WAIT_S) - command_s
        first_bytes = source.stats().body_bytes
        _watch(viewer, WATCH_BEFORE_SEEK_S)
        before_bytes = source.stats().body_bytes
        command_s = time.monotonic()
        viewer.send(wire.seek(STREAM_ID, position_ms))
        notify_s = _notify(viewer, command_s + WAIT_S) - command_s
        seek_frame_s = _frame(viewer, command_s + WAIT_S) - command_s
        seek_bytes = source.stats().body_bytes - before_bytes
    return _Measurement(
        first_frame_s, first_bytes / size_bytes, notify_s, seek_frame_s, seek_bytes / size_bytes
    )


def _frame(viewer: Viewer, until_s: float) -> float:
    """The time at which the next coded picture was complete."""
    with _explained(f"no frame in {WAIT_S:.0f} s"):
        for message in viewer.messages(until_s=until_s):
            raise_if_refused(message)
            if message.has_video_frame:
                return message.arrived_s
    raise AssertionError("messages never ends by itself")


def _notify(viewer: Viewer, until_s: float) -> float:
    """The time of Seek.Notify; media ahead of it is skipped, as players do."""
    with _explained(f"no Seek.Notify in {WAIT_S:.0f} s"):
        for message in viewer.messages(until_s=until_s):
            if message.status == "NetStream.Seek.Notify":
                return message.arrived_s
    raise AssertionError("messages never ends by itself")


def _watch(viewer: Viewer, seconds: float) -> None:
    """Reads messages for a while."""
    until_s = time.monotonic() + seconds
    for message in viewer.messages(until_s=until_s + WAIT_S):
        if message.arrived_s >= until_s:
            return


@contextmanager
def _explained(error_text: str) -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{error_text} ({error})") from error
