"""Journeys: the multipart upload of a killed edge is aborted at the bucket."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.http.http_viewer import open_viewer, request
from tests.support.origins.s3_server import S3Server
from tests.support.patience import polls
from tests.support.process.edge_process import EdgeProcess, run_edge

BUCKET = "abandoned"
MIB = 1 << 20
POLL_S = 0.005
CONFIG = """
[origins.main]
type = "s3"
bucket = "{bucket}"
endpoint = "{s3.endpoint}"
access_key_id = "{s3.access_key_id}"
secret_access_key = "{s3.secret_access_key}"
"""
DISTRIBUTION = """
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
methods = ["GET", "HEAD", "PUT", "DELETE"]
write = "{write}"
"""


def uploads(s3: S3Server) -> int:
    return len(s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))


def until(condition: Callable[[], bool], subject: str) -> None:
    """Waits until ``condition`` holds because of other processes."""
    for _round in polls():
        if condition():
            return
        time.sleep(POLL_S)
    raise TimeoutError(subject)


def has_records(edge: EdgeProcess) -> bool:
    """Whether the edge has recorded a running upload."""
    folder = edge.cache / "writes" / "uploads"
    return folder.exists() and any(not one.name.startswith(".") for one in folder.iterdir())


@pytest.mark.parametrize("write", ["through", "back"])
async def test_upload_of_a_killed_worker_is_aborted_by_its_successor(
    tmp_path: Path, s3: S3Server, write: str
) -> None:
    if not any(one["Name"] == BUCKET for one in s3.client.list_buckets()["Buckets"]):
        s3.create_bucket(BUCKET)
    body = os.urandom(MIB) * 100
    config = CONFIG.format(bucket=BUCKET, s3=s3)
    with run_edge(
        tmp_path, config, workers=2, distributions=DISTRIBUTION.format(write=write)
    ) as edge:
        async with open_viewer(edge.http_port) as viewer:
            head = request("/film", "PUT", content_length=str(len(body)))
            sent = body if write == "back" else body[: 20 * MIB]
            await viewer.send(head + sent)
            until(lambda: has_records(edge), "no upload was begun")
            for pid in edge.worker_pids():
                os.kill(pid, signal.SIGKILL)
        if write == "back":
            edge.await_log("write_replicated")
            assert s3.client.get_object(Bucket=BUCKET, Key="film")["Body"].read() == body
        until(lambda: uploads(s3) == 0, "the upload was left")
