"""Journeys: another server pulls a stream from the edge, as nginx-rtmp's ``pull`` does.

MediaMTX and SRS have no Debian package; their clients are played by our own client, with the
properties of their connect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av.error
import pytest

from streamedge.delivery.rtmp.protocol.amf_values import AmfValue
from streamedge.delivery.rtmp.protocol.chunks import MessageType
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.rtmp.nginx_relay import run_nginx_relay
from tests.support.rtmp.rtmp_client import HUGE_BUFFER_MS, open_raw_client, samples
from tests.support.rtmp.rtmp_media import expected, sample_file, tags_flv
from tests.support.rtmp.rtmp_players import expected_packets, flv_packets

DISTRIBUTIONS = (
    '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
    '[[distributions]]\nid = "EPLAIN"\ntype = "rtmp"\norigin = "main"\n'
    'application = ["plain"]\naggregate = "never"\n'
)
LARGE_S, LARGE_FRAME_BYTES = 8, 60_000
FLASH = "WIN 32,0,0,465"
MEDIAMTX: dict[str, AmfValue] = {"flashVer": "LNX 9,0,124,2", "objectEncoding": 0.0}
SRS: dict[str, AmfValue] = {"flashVer": "WIN 15,0,0,239", "objectEncoding": 0.0}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("relays")
    films = folder / "films"
    films.mkdir()
    (films / "film.mp4").write_bytes(sample_file("film.mp4"))
    (films / "large.flv").write_bytes(tags_flv(LARGE_S, frame_bytes=LARGE_FRAME_BYTES))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    limits = 'rtmp_ahead = "24h"'
    with run_edge(folder / "edge", origins, distributions=DISTRIBUTIONS, limits=limits) as running:
        yield running


def until(condition: Callable[[], bool], describe: Callable[[], str]) -> None:
    """Waits until a condition holds. Raises TimeoutError with the description."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(describe())
        pause()


def test_nginx_relays_every_frame(edge: EdgeProcess, tmp_path: Path) -> None:
    packets = expected_packets(expected("film.mp4"))
    counts = {kind: len(one) for kind, one in packets.items()}
    with run_nginx_relay(tmp_path / "nginx", edge.rtmp_port, "cfx/st", "mp4:film.mp4") as relay:

        def is_whole() -> bool:
            try:
                received = flv_packets(relay.recording)
            except (OSError, ValueError, av.error.FFmpegError):
                return False  # nginx is still writing it
            return {kind: len(one) for kind, one in received.items()} == counts

        until(is_whole, lambda: relay.errors[-2000:])
    assert flv_packets(relay.recording) == packets


def test_nginx_relays_more_bytes_a_second_than_one_of_its_messages_may_have(
    edge: EdgeProcess, tmp_path: Path
) -> None:
    """1.5 MB a second; the longest message that nginx-rtmp accepts by default is 1 MiB."""
    frames = LARGE_S * 25
    with run_nginx_relay(tmp_path / "nginx", edge.rtmp_port, "cfx/st", "large") as relay:
        total = frames * LARGE_FRAME_BYTES
        until(
            lambda: relay.recording.exists() and relay.recording.stat().st_size > total,
            lambda: relay.errors[-2000:],
        )
        assert "too big" not in relay.errors


@pytest.mark.parametrize(
    ("app", "properties", "has_aggregates"),
    [
        ("cfx/st", {"flashVer": FLASH}, True),
        ("cfx/st", SRS, True),
        ("cfx/st", MEDIAMTX, False),
        ("cfx/st", {}, False),
        ("plain", {"flashVer": FLASH}, False),
    ],
    ids=["flash", "srs", "mediamtx", "unnamed", "never"],
)
async def test_clients_get_aggregates_or_single_frames(
    edge: EdgeProcess, app: str, properties: dict[str, AmfValue], has_aggregates: bool
) -> None:
    async with open_raw_client(edge.rtmp_port) as client:
        await client.connect(app, **{"flashVer": "", **properties})
        await client.create_stream()
        client.buffer(HUGE_BUFFER_MS)
        client.play("mp4:film.mp4")
        received = await client.until_named("NetStream.Play.Stop")
    kinds = {message.type_id for message in received}
    assert (MessageType.AGGREGATE in kinds) is has_aggregates
    assert MessageType.VIDEO in kinds
    packets = expected_packets(expected("film.mp4"))
    assert len(samples(received)) == sum(len(one) for one in packets.values())
