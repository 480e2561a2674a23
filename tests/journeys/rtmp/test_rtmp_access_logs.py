"""Journeys: the access log of an rtmp distribution has what players did."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aws_log_parser

from streamedge.logs.cloudfront_rtmp import FIELDS, HEAD, StreamRecord, decode
from tests.support.access_logs import await_lines, folder_files, read_with_node, texts
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import AGGREGATE, open_client
from tests.support.rtmp.rtmp_media import sample_file
from tests.support.rtmp.rtmp_players import ffmpeg, rtmpdump

PAGE = "https://www.example.com/player?a=1"
SWF = "https://www.example.com/player.swf"


async def watch(edge: EdgeProcess, folder: Path) -> None:
    """A client that plays, pauses, resumes and seeks; and two players."""
    async with open_client(
        edge.rtmp_port,
        buffer_ms=1000,
        tcUrl=f"rtmp://127.0.0.1:{edge.rtmp_port}/cfx/st?key=a b",
        pageUrl=PAGE,
        swfUrl=SWF,
        flashVer="LNX 10,0,32,18",
    ) as client:
        client.play("mp4:dir/film?p=2&Signature=abc")
        await client.until(lambda message: message.type_id == AGGREGATE)
        client.pause(True, 500)
        await client.until_named("NetStream.Pause.Notify")
        client.pause(False, 500)
        await client.until_named("NetStream.Unpause.Notify")
        client.seek(12_000)
        await client.until_named("NetStream.Seek.Notify")
        client.play("film.flv")
        await client.until_named("NetStream.Play.Reset")
        await client.until_named("NetStream.Play.Start")
        client.play("none")
        await client.until_named("NetStream.Play.StreamNotFound")
    assert (await ffmpeg(edge.rtmp("mp4:dir/film.mp4"))).code == 0
    assert (await rtmpdump(edge.rtmp("mp4:dir/film.mp4"), folder / "b.flv")).code == 0


def test_players_leave_a_line_for_each_event(tmp_path: Path) -> None:
    films, logs = tmp_path / "films", tmp_path / "logs"
    (films / "dir").mkdir(parents=True)
    logs.mkdir()
    (films / "dir" / "film.mp4").write_bytes(sample_file("film.mp4"))
    (films / "film.flv").write_bytes(sample_file("film.flv"))
    origins = (
        f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
        f'[origins.logs]\ntype = "directory"\npath = "{logs}"\n'
    )
    distributions = (
        '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
        'log = { origin = "logs", prefix = "rtmp/", interval = "1s" }\n'
    )
    with run_edge(tmp_path / "edge", origins, distributions=distributions) as edge:
        asyncio.run(watch(edge, tmp_path))
        lines = await_lines(lambda: texts(folder_files(logs), HEAD), 9 + 2 * 4)
        disconnects = edge.await_log("rtmp_disconnect", 3)
    records = [decode(line) for line in lines]
    clients: dict[str, list[StreamRecord]] = {}
    for record in records:
        clients.setdefault(record.client_id, []).append(record)
    assert len(clients) == 3
    first, *players = sorted(clients.values(), key=len, reverse=True)
    assert [record.event for record in first] == [
        "connect",
        "play",
        "pause",
        "unpause",
        "seek",
        "stop",
        "play",
        "stop",
        "disconnect",
    ]
    connect, play, *_, last_stop, disconnect = first
    assert connect.stem == f"rtmp://127.0.0.1:{edge.rtmp_port}/cfx/st"
    assert (connect.query, connect.agent) == ("key=a b", "LNX 10,0,32,18")
    assert (connect.referrer, connect.page_url) == (SWF, PAGE)
    assert (connect.stream, connect.stream_id) == (None, None)
    assert (play.stream, play.extension) == ("dir/film", "mp4")
    assert (play.stream_query, play.stream_id) == ("p=2&Signature=***", 1)
    assert (last_stop.stream, last_stop.extension) == ("film", "flv")
    assert (last_stop.stream_query, last_stop.stream_id) == (None, 2)
    totals = [record.sent_bytes for record in first]
    assert totals == sorted(totals)
    assert disconnect.sent_bytes in {line["bytes"] for line in disconnects}
    for player in players:
        assert [record.event for record in player] == ["connect", "play", "stop", "disconnect"]
    log_type = aws_log_parser.LogType.CloudFrontRTMP
    parser = aws_log_parser.AwsLogParser(log_type=log_type, file_suffix=".gz")
    assert len(list(parser.read_files(logs))) == len(lines)
    entries = read_with_node(logs, "rtmp")
    assert [list(entry) for entry in entries] == [[*FIELDS]] * len(lines)
    (client_id,) = {record.client_id for record in first}
    events = [entry for entry in entries if entry["x-cf-client-id"] == client_id]
    assert [entry["x-event"] for entry in events] == [record.event for record in first]
    assert [int(entry["sc-bytes"]) for entry in events] == totals
    assert {entry["cs-uri-query"] for entry in events} == {"key=a b"}
    assert {entry["c-referrer"] for entry in events} == {SWF}
    assert {entry["x-page-url"] for entry in events} == {PAGE}
    assert {entry["c-user-agent"] for entry in events} == {"LNX 10,0,32,18"}
    names = [(entry["x-sname"], entry["x-file-ext"], entry["x-sid"]) for entry in events]
    assert names == [
        ("-", "-", "-"),
        *[("dir/film", "mp4", "1")] * 5,
        *[("film", "flv", "2")] * 2,
        ("-", "-", "-"),
    ]
    assert {entry["x-sname-query"] for entry in events[1:6]} == {"p=2&Signature=***"}
