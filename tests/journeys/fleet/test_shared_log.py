"""Journeys: three edges on a real Redis share invalidations, resources and writes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.api.cloudfront_api import behavior, listing, rsa_pem, server, web
from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.fleet.edges import api_client, await_body, body, run_fleet
from tests.support.fleet.viewer import Answer, get
from tests.support.origins.counting_origin import counting_origin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause

FOLDER = '[origins.main]\ntype = "directory"\npath = "{}"\n'


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "a").write_bytes(b"old")
    return folder


@pytest.fixture
def edges(tmp_path: Path, redis_server: RedisServer, media: Path) -> Iterator[list[EdgeProcess]]:
    with run_fleet(tmp_path, redis_server.url, FOLDER.format(media)) as fleet:
        yield fleet


def invalidate(edge: EdgeProcess, *arguments: str) -> dict[str, Any]:
    """Runs ``streamedge invalidate``."""
    command = [sys.executable, "-m", "streamedge", "invalidate", *arguments, "--json"]
    config = str(edge.folder / "config.toml")
    result = subprocess.run(
        [*command, "--config", config],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def identity(reference: str, comment: str = "") -> dict[str, str]:
    return {"CallerReference": reference, "Comment": comment}


def create_identity(client: Any, reference: str) -> dict[str, Any]:
    response: dict[str, Any] = client.create_cloud_front_origin_access_identity(
        CloudFrontOriginAccessIdentityConfig=identity(reference)
    )
    return response


def test_invalidation_on_one_edge_is_in_effect_on_all(
    edges: list[EdgeProcess], media: Path
) -> None:
    assert [body(edge, "/a") for edge in edges] == [b"old"] * 3
    (media / "a").write_bytes(b"new content")
    invalidate(edges[0], "EWEB", "/a")
    assert body(edges[0], "/a") == b"new content"
    for edge in edges[1:]:
        await_body(edge, "/a", b"new content")


def test_engine_that_is_killed_loses_no_invalidation(
    edges: list[EdgeProcess], media: Path, redis_server: RedisServer
) -> None:
    assert [body(edge, "/a") for edge in edges] == [b"old"] * 3
    redis_server.kill()
    edges[0].await_log("fleet_engine_down")
    (media / "a").write_bytes(b"new content")
    invalidate(edges[0], "EWEB", "/a")
    assert body(edges[0], "/a") == b"new content"
    redis_server.start()
    for edge in edges[1:]:
        await_body(edge, "/a", b"new content")
    assert [edge.log("service_failed") for edge in edges] == [[], [], []]


def test_engine_that_is_emptied_begins_a_new_line(
    edges: list[EdgeProcess], media: Path, redis_server: RedisServer
) -> None:
    with closing(api_client(edges[0])) as client:
        created = create_identity(client, "one")
    redis_server.call("FLUSHALL")
    edges[1].await_log("fleet_history_lost")
    assert [body(edge, "/a") for edge in edges] == [b"old"] * 3
    (media / "a").write_bytes(b"new content")
    invalidate(edges[2], "EWEB", "/a")
    for edge in edges:
        await_body(edge, "/a", b"new content")
    assert sum(len(edge.log("fleet_line_began")) for edge in edges) == 1
    identifier = created["CloudFrontOriginAccessIdentity"]["Id"]
    for edge in edges:
        with closing(api_client(edge)) as client:
            response = client.get_cloud_front_origin_access_identity(Id=identifier)
            assert response["ETag"] == created["ETag"]


def test_resource_of_one_edge_reads_back_on_all(edges: list[EdgeProcess]) -> None:
    with closing(api_client(edges[0])) as client:
        created = create_identity(client, "one")
    identifier = created["CloudFrontOriginAccessIdentity"]["Id"]
    for edge in edges:
        edge.await_log("fleet_caught_up")
        with closing(api_client(edge)) as client:
            response = await_identity(client, identifier)
            assert response["ETag"] == created["ETag"]
            with pytest.raises(ClientError, match="OriginAccessIdentityAlreadyExists"):
                client.create_cloud_front_origin_access_identity(
                    CloudFrontOriginAccessIdentityConfig=identity("one", "another comment")
                )


def await_identity(client: Any, identifier: str) -> Any:
    """The identity, once the edge has it."""
    while True:
        try:
            return client.get_cloud_front_origin_access_identity(Id=identifier)
        except client.exceptions.NoSuchCloudFrontOriginAccessIdentity:
            pause()


SITE = "site.example.org"


def test_distribution_policies_and_keys_of_one_edge_serve_on_all(edges: list[EdgeProcess]) -> None:
    with (
        counting_origin({"free": 10, "private/film": 20}) as origin,
        closing(api_client(edges[0])) as client,
    ):
        port = int(origin.url.rpartition(":")[2])
        document = site_document(client, port)
        created = client.create_distribution(DistributionConfig=document)
        for edge in edges:
            await_site(edge)
            first = site_response(edge, "free?ignored=1")
            assert (first.status, first.fields["x-policy"]) == (200, "of the site")
            assert site_response(edge, "free?ignored=2").fields["x-cache"].startswith("Hit")
            assert site_response(edge, "private/film").status == 403
        disabled = document | {"Enabled": False}
        with closing(api_client(edges[1])) as other:
            other.update_distribution(
                Id=created["Distribution"]["Id"],
                IfMatch=created["ETag"],
                DistributionConfig=disabled,
            )
        for edge in edges:
            deadline_s = time.monotonic() + PATIENCE_S
            while site_response(edge, "free").status == 200:
                assert time.monotonic() < deadline_s
                pause()


def site_document(client: Any, port: int) -> dict[str, Any]:
    """A DistributionConfig whose policies and keys are resources of the API, too."""
    key = client.create_public_key(
        PublicKeyConfig={"CallerReference": "key", "Name": "key", "EncodedKey": rsa_pem()}
    )
    group = client.create_key_group(
        KeyGroupConfig={"Name": "viewers", "Items": [key["PublicKey"]["Id"]]}
    )
    cache = client.create_cache_policy(
        CachePolicyConfig={
            "Name": "one-entry-for-all-queries",
            "MinTTL": 60,
            "ParametersInCacheKeyAndForwardedToOrigin": {
                "EnableAcceptEncodingGzip": False,
                "HeadersConfig": {"HeaderBehavior": "none"},
                "CookiesConfig": {"CookieBehavior": "none"},
                "QueryStringsConfig": {"QueryStringBehavior": "none"},
            },
        }
    )
    response = client.create_response_headers_policy(
        ResponseHeadersPolicyConfig={
            "Name": "site",
            "CustomHeadersConfig": listing(
                {"Header": "X-Policy", "Value": "of the site", "Override": True}
            ),
        }
    )
    used: dict[str, Any] = {
        "CachePolicyId": cache["CachePolicy"]["Id"],
        "ResponseHeadersPolicyId": response["ResponseHeadersPolicy"]["Id"],
    }
    trusted = {"Enabled": True, **listing(group["KeyGroup"]["Id"])}
    return web(
        "site",
        Aliases=listing(SITE),
        Origins=listing(
            server(
                domain="localhost",
                custom={"HTTPPort": port, "OriginProtocolPolicy": "http-only"},
            )
        ),
        DefaultCacheBehavior=behavior("server", **used),
        CacheBehaviors=listing(
            behavior("server", PathPattern="private/*", TrustedKeyGroups=trusted, **used)
        ),
    )


def site_response(edge: EdgeProcess, path: str) -> Answer:
    """The response to a GET for the site."""
    return get(edge, path, {"host": SITE})


def await_site(edge: EdgeProcess) -> None:
    """Waits until an edge has the distribution."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (status := site_response(edge, "free").status) != 200:
        assert time.monotonic() < deadline_s, status
        pause()


def test_of_two_updates_at_once_on_two_edges_one_gets_412(edges: list[EdgeProcess]) -> None:
    clients = [api_client(edge) for edge in edges[:2]]
    created = create_identity(clients[0], "one")
    identifier, etag = created["CloudFrontOriginAccessIdentity"]["Id"], created["ETag"]
    for client in clients:
        await_identity(client, identifier)

    def update(number: int) -> str:
        try:
            response = clients[number].update_cloud_front_origin_access_identity(
                Id=identifier,
                IfMatch=etag,
                CloudFrontOriginAccessIdentityConfig=identity("one", f"by {number}"),
            )
        except ClientError as exc:
            return str(exc.response["Error"]["Code"])
        return str(response["ETag"])

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(update, range(2)))
    assert sorted(result == "PreconditionFailed" for result in results) == [False, True]
    (new_etag,) = [result for result in results if result != "PreconditionFailed"]
    for client in clients:
        assert await_identity(client, identifier)["ETag"] == new_etag
        client.close()


def test_change_while_the_engine_is_down_is_refused_and_changes_nothing(
    edges: list[EdgeProcess], redis_server: RedisServer
) -> None:
    redis_server.kill()
    edges[0].await_log("fleet_engine_down")
    with closing(api_client(edges[0])) as client:
        with pytest.raises(ClientError, match="engine of the fleet does not answer") as caught:
            create_identity(client, "one")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        response = client.list_cloud_front_origin_access_identities()
        assert response["CloudFrontOriginAccessIdentityList"]["Quantity"] == 0


@pytest.mark.parametrize("mode", ["through", "back"])
def test_write_through_one_edge_is_seen_on_all(
    tmp_path: Path, redis_server: RedisServer, media: Path, mode: str
) -> None:
    distribution = (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        f'methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]\nwrite = "{mode}"\n'
    )
    fleet = run_fleet(tmp_path, redis_server.url, FOLDER.format(media), distributions=distribution)
    with fleet as edges:
        assert [body(edge, "/a") for edge in edges] == [b"old"] * 3
        for edge in edges:
            content = f"written through {edge.folder.name}".encode()
            request = urllib.request.Request(edge.http("/a"), content, method="PUT")
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                assert response.status < 300
            assert body(edge, "/a") == content
            for other in edges:
                await_body(other, "/a", content)
