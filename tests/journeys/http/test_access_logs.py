"""Journeys: the access log of a web distribution arrives in its folder or bucket."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from streamedge.logs.cloudfront import decode
from tests.support.access_logs import await_lines, folder_files, texts
from tests.support.http.http_viewer import Response, open_viewer
from tests.support.process.edge_process import EdgeProcess, run_edge

OBJECT = b"x" * 1024


def origins_toml(folder: Path) -> str:
    """A folder with /a.bin, and a folder for logs."""
    media, logs = folder / "media", folder / "logs"
    for each in (media, logs):
        each.mkdir(parents=True)
    (media / "a.bin").write_bytes(OBJECT)
    return (
        f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
        f'[origins.logs]\ntype = "directory"\npath = "{logs}"\n'
    )


def web_toml(log: str) -> str:
    return (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        f'aliases = ["cdn.example.com"]\nlog = {{ origin = "logs", {log} }}\n'
    )


async def get_several(edge: EdgeProcess, paths: list[str], **fields: str) -> list[Response]:
    async with open_viewer(edge.http_port) as viewer:
        return [await viewer.get(path, host="cdn.example.com", **fields) for path in paths]


def test_every_response_has_one_line_with_its_id_and_its_bytes(tmp_path: Path) -> None:
    began_s = int(time.time())
    with run_edge(
        tmp_path / "edge",
        origins_toml(tmp_path),
        workers=2,
        distributions=web_toml('prefix = "cdn", interval = "1s"'),
    ) as edge:
        paths = ["/a.bin", "/a.bin", "/a.bin?x=1", "/none"]
        responses = asyncio.run(get_several(edge, paths, user_agent="a b", referer="http://r/"))
        responses += asyncio.run(get_several(edge, ["/a.bin"], range="bytes=10-19"))
        lines = await_lines(lambda: texts(folder_files(tmp_path / "logs")), len(responses))
        sent_bytes = edge.await_metric("streamedge_sent_bytes_total", bool, "http")
        assert edge.metric("streamedge_responses_total") == len(lines)
    by_id = {record.request_id: record for record in map(decode, lines)}
    assert len(by_id) == len(responses)
    records = [by_id[response.fields["x-amz-cf-id"]] for response in responses]
    assert sum(record.sent_bytes for record in records) == sent_bytes
    assert [record.status for record in records] == [200, 200, 200, 404, 206]
    assert [record.result for record in records] == ["Miss", "Hit", "Hit", "Error", "Hit"]
    assert [record.query for record in records] == [None, None, "x=1", None, None]
    first, last = records[0], records[-1]
    assert first.domain == first.host == "cdn.example.com"
    assert (first.address, first.method, first.stem) == ("127.0.0.1", "GET", "/a.bin")
    assert (first.agent, first.referer, first.cookie) == ("a b", "http://r/", None)
    assert (first.protocol, first.tls_protocol) == ("http", None)
    assert first.http_version == "HTTP/1.1"
    assert began_s <= first.ended_s <= time.time()
    assert (last.content_length, last.range_start, last.range_end) == (10, 10, 19)
    assert all(name.startswith("cdn/EWEB.") for name in folder_files(tmp_path / "logs"))
