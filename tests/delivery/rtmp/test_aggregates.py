"""Which clients get aggregate messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.delivery.rtmp.aggregates import Aggregation, takes_aggregates
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.protocol.events import Connect

VECTORS = Path(__file__).parent / "protocol" / "vectors"
FFMPEG = "LNX 9,0,124,2"


@pytest.mark.parametrize(
    "flash_version",
    [FFMPEG, "LNX 10,0,32,18", "WIN 32,0,0,465", "MAC 11,1,102,62", "AND 11,1,111,73", "WIN 9,0"],
)
def test_players_get_aggregates(flash_version: str) -> None:
    assert takes_aggregates(Aggregation.AUTO, flash_version, has_object_encoding=False)
    assert not takes_aggregates(Aggregation.NEVER, flash_version, has_object_encoding=False)


@pytest.mark.parametrize(
    "flash_version", ["", "LNX.11,1,102,55", "FMLE/3.0 (compatible; Lavf60)", "LNX 9,0,124,2 x"]
)
def test_relays_and_unknown_clients_get_single_frames(flash_version: str) -> None:
    assert not takes_aggregates(Aggregation.AUTO, flash_version, has_object_encoding=False)


def test_object_encoding_tells_mediamtx_from_ffmpeg() -> None:
    assert not takes_aggregates(Aggregation.AUTO, FFMPEG, has_object_encoding=True)
    # Adobe's players send it as well, under names of their own.
    assert takes_aggregates(Aggregation.AUTO, "WIN 32,0,0,465", has_object_encoding=True)


@pytest.mark.parametrize(
    ("vector", "takes"),
    [
        ("ffmpeg_play", True),
        ("ffmpeg_play_enhanced", True),
        ("rtmpdump_play_signed", True),
    ],
)
def test_recorded_client_takes_aggregates(vector: str, takes: bool) -> None:
    engine = ServerConnection(random=bytes(1528), message_limit_bytes=1 << 20, streams_limit=4)
    received = engine.receive_data((VECTORS / f"{vector}.bin").read_bytes())
    (connect,) = (event for event in received if isinstance(event, Connect))
    has_object_encoding = "objectEncoding" in connect.object
    assert (
        takes_aggregates(
            Aggregation.AUTO, connect.flash_version, has_object_encoding=has_object_encoding
        )
        is takes
    )
