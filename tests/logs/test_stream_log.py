"""The lines of RTMP clients: numbers of plays, and the end of those that a disconnect ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from streamedge.logs.cloudfront_rtmp import StreamRecord, decode
from streamedge.logs.spool import SpoolWriter
from streamedge.logs.spool_names import LogFormat, SpoolTarget
from streamedge.logs.stream_log import ConnectedClient, PlayedStream, StreamLog
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts

CLIENT = ConnectedClient("192.0.2.1", "rtmp://h/cfx/st?Signature=a&b=1", "", "http://p/", "LNX")
FILM = PlayedStream("dir/film", "", "mp4")
SONG = PlayedStream("song", "x=1", "mp3")
TARGET = SpoolTarget("ESTREAM", LogFormat.RTMP, 300.0)


async def test_plays_have_numbers_and_end_before_the_disconnect(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), "worker-0")
    spool = SpoolWriter(tmp_path, "worker-0", log, Counts())
    stream_log = StreamLog("fra-1", spool, {"ESTREAM": TARGET})
    assert stream_log.connected("OTHER", CLIENT, 0) is None
    client = stream_log.connected("ESTREAM", CLIENT, 10)
    assert client is not None
    client.add_play("stop", "a", FILM, 11)  # of a play that was refused
    client.add_play("play", "a", FILM, 12)
    client.add_play("end", "a", FILM, 13)  # not in CloudFront's log
    client.add_play("play", "b", SONG, 14)
    client.add_play("seek", "a", FILM, 15)
    client.add_play("stop", "a", FILM, 16)
    client.add_disconnect(17)
    client.add_play("stop", "b", SONG, 17)
    await spool.close()
    await asyncio.to_thread(log.close)
    (segment,) = tmp_path.glob("ESTREAM.*")
    records = [decode(line) for line in segment.read_text().splitlines()]

    def shown(record: StreamRecord) -> tuple[str, int, int | None, str | None]:
        return record.event, record.sent_bytes, record.stream_id, record.stream

    assert [shown(record) for record in records] == [
        ("connect", 10, None, None),
        ("play", 12, 1, "dir/film"),
        ("play", 14, 2, "song"),
        ("seek", 15, 1, "dir/film"),
        ("stop", 16, 1, "dir/film"),
        ("stop", 17, 2, "song"),
        ("disconnect", 17, None, None),
    ]
    assert {record.client_id for record in records} == {records[0].client_id}
    assert (records[0].stem, records[0].query) == ("rtmp://h/cfx/st", "Signature=***&b=1")
    assert (records[0].referrer, records[0].page_url) == (None, "http://p/")
    assert (records[2].stream_query, records[2].extension) == ("x=1", "mp3")
