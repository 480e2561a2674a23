"""Journeys: writes that wait on one edge of a fleet are read on all; real edges, Redis and bucket.

The bucket is behind a proxy. While it refuses connections, writes wait.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.engine.redis_server import RedisServer
from tests.support.engine.tcp_proxy import TcpProxy, run_proxy
from tests.support.fleet.tier_edges import TierEdges, tier_edges
from tests.support.origins.s3_server import S3Server
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause

NAMES = ("fra-1", "ams-1", "lon-1")  # the first is the tier
ORIGIN = """type = "s3"
bucket = "{bucket}"
endpoint = "http://127.0.0.1:{port}"
region = "{s3.region}"
access_key_id = "{s3.access_key_id}"
secret_access_key = "{s3.secret_access_key}"
connect_timeout = "1s"
read_timeout = "1s\""""
DISTRIBUTIONS = """
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
write = "back"
[[distributions]]
id = "ETHROUGH"
type = "web"
origin = "main"
aliases = ["through.test"]
methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
"""


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes


def call(
    edge: EdgeProcess, method: str, name: str, body: bytes | None = None, **fields: str
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", edge.http_port, timeout=PATIENCE_S)
    try:
        sent = {field.replace("_", "-"): value for field, value in fields.items()}
        connection.request(method, f"/{name}", body, sent)
        response = connection.getresponse()
        received = {field.lower(): value for field, value in response.getheaders()}
        return Answer(response.status, received, response.read())
    finally:
        connection.close()


@dataclass
class Site:
    fleet: TierEdges
    bucket: str
    proxy: TcpProxy
    s3: S3Server

    def edge(self, name: str) -> EdgeProcess:
        return self.fleet.edges[name]

    def refuse(self) -> None:
        """The bucket is down: no byte of a request can arrive later."""
        self.proxy.switch(1)  # where no server listens

    def accept(self) -> None:
        """The bucket is up again."""
        self.proxy.switch(urlsplit(self.s3.endpoint).port or 0)

    def put(self, name: str, body: bytes) -> None:
        """Puts an object into the bucket itself."""
        self.s3.put(self.bucket, name, body)

    def stored(self, name: str) -> bytes | None:
        """What the bucket has."""
        try:
            body: bytes = self.s3.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        except self.s3.client.exceptions.NoSuchKey:
            return None
        return body


def until(condition: Callable[[], bool], state: Callable[[], Any] = lambda: None) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, state()
        pause()


@pytest.fixture
def site(tmp_path: Path, redis_server: RedisServer, s3: S3Server) -> Iterator[Site]:
    bucket = f"pending-{time.time_ns()}"
    s3.create_bucket(bucket)
    with ExitStack() as stack:
        proxy = stack.enter_context(run_proxy(urlsplit(s3.endpoint).port or 0))
        fleet = stack.enter_context(
            tier_edges(
                tmp_path / "edges",
                "",
                names=NAMES,
                parents=1,
                engine=redis_server.url,
                distributions=DISTRIBUTIONS,
                origin_lines=ORIGIN.format(bucket=bucket, port=proxy.port, s3=s3),
            )
        )
        yield Site(fleet, bucket, proxy, s3)


def test_write_that_waits_on_one_edge_is_read_on_all(site: Site) -> None:
    site.put("film", b"old")
    assert [call(site.edge(name), "GET", "film").body for name in NAMES] == [b"old"] * 3
    site.refuse()
    written = call(site.edge("lon-1"), "PUT", "film", b"newer", content_type="text/plain")
    assert written.status == 200
    for name in NAMES:
        answer = call(site.edge(name), "GET", "film")
        assert (answer.status, answer.body) == (200, b"newer"), name
        assert answer.fields["content-type"] == "text/plain"
        assert answer.fields["etag"] == written.fields["etag"]
        part = call(site.edge(name), "GET", "film", range="bytes=1-2")
        assert (part.status, part.body) == (206, b"ew")
        head = call(site.edge(name), "HEAD", "film")
        assert head.fields["content-length"] == "5"
        same = call(site.edge(name), "GET", "film", if_none_match=written.fields["etag"])
        assert same.status == 304
    assert site.stored("film") == b"old"
    site.accept()
    until(lambda: site.stored("film") == b"newer")
    for name in NAMES:
        assert call(site.edge(name), "GET", "film").body == b"newer"
        assert site.edge(name).log("service_failed") == []


def test_delete_that_waits_on_one_edge_is_404_on_all(site: Site) -> None:
    site.put("film", b"old")
    assert [call(site.edge(name), "GET", "film").body for name in NAMES] == [b"old"] * 3
    site.refuse()
    assert call(site.edge("ams-1"), "DELETE", "film").status == 204
    assert [call(site.edge(name), "GET", "film").status for name in NAMES] == [404] * 3
    site.accept()
    until(lambda: site.stored("film") is None)
    assert [call(site.edge(name), "GET", "film").status for name in NAMES] == [404] * 3


def test_last_of_two_writes_on_two_edges_is_read_and_reaches_the_origin(site: Site) -> None:
    site.refuse()
    assert call(site.edge("ams-1"), "PUT", "film", b"first").status == 200
    assert call(site.edge("lon-1"), "PUT", "film", b"second").status == 200
    assert call(site.edge("ams-1"), "PUT", "other", b"one").status == 200
    assert call(site.edge("lon-1"), "PUT", "other", b"two").status == 200
    assert call(site.edge("ams-1"), "PUT", "other", b"three").status == 200
    for name in NAMES:
        assert call(site.edge(name), "GET", "film").body == b"second", name
        assert call(site.edge(name), "GET", "other").body == b"three", name
    site.accept()
    until(lambda: site.stored("film") == b"second")
    until(lambda: site.stored("other") == b"three")
    for name in NAMES:
        assert call(site.edge(name), "GET", "film").body == b"second", name
        assert call(site.edge(name), "GET", "other").body == b"three", name
    until(lambda: sorted(site_writes(site)) == ["film"] * 2 + ["other"] * 3)
    assert (site.stored("film"), site.stored("other")) == (b"second", b"three")


def site_writes(site: Site) -> list[str]:
    """The objects of all writes that were sent."""
    return [
        str(line["object"]) for name in NAMES for line in site.edge(name).log("write_replicated")
    ]


def test_killed_holder_costs_the_newer_bytes_until_it_is_back(site: Site) -> None:
    site.put("film", b"old")
    site.put("other", b"old")
    assert [call(site.edge(name), "GET", "film").body for name in NAMES] == [b"old"] * 3
    site.refuse()
    assert call(site.edge("lon-1"), "PUT", "film", b"newer").status == 200
    assert call(site.edge("lon-1"), "PUT", "other", b"newer").status == 200
    assert call(site.edge("ams-1"), "GET", "film").body == b"newer"
    site.fleet.kill("lon-1")
    config = str(site.edge("ams-1").folder / "config.toml")
    command = [sys.executable, "-m", "streamedge", "fleet", "remove", "lon-1", "--config", config]

    def has_refused() -> bool:
        removal = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert removal.returncode != 0
        return "--force" in removal.stderr

    until(has_refused)  # once its lease is over
    site.accept()
    assert call(site.edge("ams-1"), "GET", "film").body == b"newer"  # its own copy
    outdated = call(site.edge("ams-1"), "GET", "other")
    assert (outdated.status, outdated.body) == (200, b"old")
    site.edge("ams-1").await_log("pending_write_not_read")
    assert outdated.fields["cache-control"] == "no-cache"
    site.fleet.start("lon-1")
    until(lambda: site.stored("other") == b"newer")
    for name in NAMES:
        until(lambda name=name: call(site.edge(name), "GET", "other").body == b"newer")  # type: ignore[misc]


def test_write_through_one_edge_is_read_on_all_at_once(site: Site) -> None:
    """Also through the tier: its owner must not give what it has cached."""
    for number, name in enumerate(NAMES * 3):
        for other in NAMES:
            call(site.edge(other), "GET", "film", host="through.test")
        body = f"version {number}".encode()
        answer = call(site.edge(name), "PUT", "film", body, host="through.test")
        assert answer.status == 200
        bodies = [call(site.edge(one), "GET", "film", host="through.test").body for one in NAMES]
        assert bodies == [body] * 3
    assert call(site.edge("lon-1"), "DELETE", "film", host="through.test").status == 204
    statuses = [call(site.edge(one), "GET", "film", host="through.test").status for one in NAMES]
    assert statuses == [404] * 3
