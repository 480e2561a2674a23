"""Journeys: no line of an access log is lost or delivered twice, whatever is killed or away."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from streamedge.logs.cloudfront import decode
from tests.support.access_logs import await_lines, bucket_files, texts
from tests.support.http.http_viewer import open_viewer
from tests.support.origins.s3_server import S3Server
from tests.support.origins.switched_relay import run_relay
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge


def origins_toml(folder: Path, s3: S3Server, endpoint: str, bucket: str) -> str:
    """A folder with /a.bin, and a bucket for logs."""
    media = folder / "media"
    media.mkdir(parents=True, exist_ok=True)
    (media / "a.bin").write_bytes(b"x" * 1024)
    return (
        f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
        f'[origins.logs]\ntype = "s3"\nbucket = "{bucket}"\nregion = "{s3.region}"\n'
        f'endpoint = "{endpoint}"\naccess_key_id = "{s3.access_key_id}"\n'
        f'secret_access_key = "{s3.secret_access_key}"\n'
    )


def web_toml(interval: str) -> str:
    return (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        f'log = {{ origin = "logs", interval = "{interval}" }}\n'
    )


def get_many(edge: EdgeProcess, connections: int = 8, requests: int = 4) -> list[str]:
    """The request ids of responses over several connections, which several workers accept."""

    async def get_over_one() -> list[str]:
        async with open_viewer(edge.http_port) as viewer:
            return [
                (await viewer.get("/a.bin")).fields["x-amz-cf-id"] for _number in range(requests)
            ]

    async def get_all() -> list[list[str]]:
        return await asyncio.gather(*(get_over_one() for _number in range(connections)))

    return [request_id for ids in asyncio.run(get_all()) for request_id in ids]


def await_true(is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline_s
        pause()


def await_spooled(edge: EdgeProcess, ids: list[str]) -> None:
    """Returns when the lines of these requests are in the spool folder, in segments or batches."""

    def is_spooled() -> bool:
        spooled = b""
        for path in (edge.cache / "logs").glob("*/**/*"):
            try:
                spooled += path.read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                continue
        return all(request_id.encode() in spooled for request_id in ids)

    await_true(is_spooled)


def control_pid(edge: EdgeProcess) -> int:
    """The child of the supervisor that is no worker; it may be about to be started again."""
    workers = set(edge.worker_pids())
    pids: list[int] = []

    def is_running() -> bool:
        children = Path(f"/proc/{edge.pid}/task/{edge.pid}/children").read_text().split()
        pids[:] = [int(child) for child in children if int(child) not in workers]
        return len(pids) == 1

    await_true(is_running)
    return pids[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def delivered_ids(s3: S3Server, bucket: str) -> list[str]:
    return [decode(line).request_id for line in texts(bucket_files(s3, bucket))]


def await_each_once(s3: S3Server, bucket: str, ids: list[str]) -> None:
    """The bucket gets the line of each request, and none twice."""
    await_lines(lambda: sorted(set(ids) & set(delivered_ids(s3, bucket))), len(ids))
    assert Counter(delivered_ids(s3, bucket)) == Counter(ids)


def test_bucket_that_was_away_and_killed_processes_lose_and_double_no_line(
    tmp_path: Path, s3: S3Server
) -> None:
    bucket = "logs-away"
    s3.create_bucket(bucket)
    with run_relay(s3.endpoint) as relay:
        origins = origins_toml(tmp_path, s3, relay.url, bucket)
        with run_edge(tmp_path / "edge", origins, workers=2, distributions=web_toml("1s")) as edge:
            ids = get_many(edge)
            await_each_once(s3, bucket, ids)
            relay.cut()
            ids += (away := get_many(edge))
            edge.await_metric(
                "streamedge_access_log_files_total", lambda count: count > 0, "failed"
            )
            edge.await_metric("streamedge_access_log_spool_bytes", lambda count: count > 0)
            await_spooled(edge, away)
            edge.await_log("access_log_not_delivered")  # the killed process writes no more lines
            kill(control_pid(edge))
            edge.await_log("process_ended", 1)
            ids += (more := get_many(edge))
            await_spooled(edge, more)
            kill(edge.worker_pids()[0])
            edge.await_log("process_ended", 2)
            edge.await_log("worker_up", 3)
            ids += get_many(edge)
            relay.open()
            await_each_once(s3, bucket, ids)
            edge.await_metric("streamedge_access_log_spool_bytes", lambda count: count == 0)


def test_control_process_killed_during_deliveries_doubles_no_line(
    tmp_path: Path, s3: S3Server
) -> None:
    bucket = "logs-killed"
    s3.create_bucket(bucket)
    origins = origins_toml(tmp_path, s3, s3.endpoint, bucket)
    with run_edge(tmp_path / "edge", origins, workers=2, distributions=web_toml("1s")) as edge:
        ids: list[str] = []
        for kills in range(1, 6):
            ids += get_many(edge)
            before = edge.log("process_ended")
            await_true(lambda: any((edge.cache / "logs" / "batches").iterdir()))
            kill(control_pid(edge))
            edge.await_log("process_ended", len(before) + 1)
            assert kills == len(before) + 1
        await_each_once(s3, bucket, ids)


def test_edge_that_stops_delivers_its_lines(tmp_path: Path, s3: S3Server) -> None:
    bucket = "logs-stop"
    s3.create_bucket(bucket)
    origins = origins_toml(tmp_path, s3, s3.endpoint, bucket)
    with run_edge(tmp_path / "edge", origins, workers=2, distributions=web_toml("1h")) as edge:
        ids = get_many(edge)
        assert edge.stop() == 0
    assert Counter(delivered_ids(s3, bucket)) == Counter(ids)
    assert len(bucket_files(s3, bucket)) <= 2  # two where the hour has changed


def test_lines_that_could_not_be_delivered_at_the_stop_are_delivered_after_the_start(
    tmp_path: Path, s3: S3Server
) -> None:
    bucket = "logs-restart"
    s3.create_bucket(bucket)
    with run_relay(s3.endpoint) as relay:
        origins = origins_toml(tmp_path, s3, relay.url, bucket)
        distributions = web_toml("1h")
        with run_edge(tmp_path / "edge", origins, distributions=distributions) as edge:
            ids = get_many(edge)
            relay.cut()
            assert edge.stop() == 0
        assert delivered_ids(s3, bucket) == []
        relay.open()
        with run_edge(tmp_path / "edge", origins, distributions=distributions):
            await_each_once(s3, bucket, ids)


def test_killed_supervisor_loses_and_doubles_no_line(tmp_path: Path, s3: S3Server) -> None:
    bucket = "logs-supervisor"
    s3.create_bucket(bucket)
    with run_relay(s3.endpoint) as relay:
        origins = origins_toml(tmp_path, s3, relay.url, bucket)
        distributions = web_toml("1s")
        with run_edge(tmp_path / "edge", origins, workers=2, distributions=distributions) as edge:
            ids = get_many(edge)
            await_each_once(s3, bucket, ids)
            relay.cut()
            ids += (away := get_many(edge))
            await_spooled(edge, away)
            edge.process.kill()
            edge.process.wait(PATIENCE_S)
        relay.open()
        with run_edge(tmp_path / "edge", origins, workers=2, distributions=distributions) as edge:
            ids += get_many(edge)
            await_each_once(s3, bucket, ids)
