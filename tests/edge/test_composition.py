"""From a config to the things it names."""

from __future__ import annotations

from typing import Any

import pytest

from streamedge.config.schema import Config
from streamedge.delivery.distributions import OriginBinding
from streamedge.edge.composition import bind_origins
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin.directory import DirectoryOrigin
from streamedge.origin.http import HttpOrigin
from streamedge.origin.s3 import S3Origin

DIRECTORY = {"type": "directory", "path": "/media"}
HTTP = {"type": "http", "url": "https://media.example.org"}
S3 = {"type": "s3", "bucket": "videos", "access_key_id": "key", "secret_access_key": "secret"}


async def bind(**origins: dict[str, Any]) -> dict[str, OriginBinding]:
    config = Config.model_validate({"origins": origins})
    return bind_origins(config, open_log("stderr", "test"), Counts())


async def test_each_type_has_its_origin() -> None:
    bindings = await bind(a=DIRECTORY, b=HTTP, c=S3)
    kinds = {name: type(binding.origin) for name, binding in bindings.items()}
    assert kinds == {"a": DirectoryOrigin, "b": HttpOrigin, "c": S3Origin}
    assert [binding.name for binding in bindings.values()] == ["a", "b", "c"]
    for binding in bindings.values():
        await binding.origin.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DIRECTORY, {**DIRECTORY, "path": "/other"}),
        (DIRECTORY, {**DIRECTORY, "prefix": "films/"}),
        (HTTP, {**HTTP, "url": "http://media.example.org"}),
        (HTTP, {**HTTP, "prefix": "films/"}),
        (HTTP, {**HTTP, "host": "viewer"}),
        (HTTP, {**HTTP, "host": "www.example.org"}),
        (S3, {**S3, "bucket": "other"}),
        (S3, {**S3, "region": "eu-central-1"}),
        (S3, {**S3, "endpoint": "http://127.0.0.1:9000"}),
        (S3, {**S3, "prefix": "films/"}),
        (
            {**S3, "endpoint": "http://s3.test"},
            {**S3, "endpoint": "http://s3.test", "path_style": False},
        ),
        (DIRECTORY, HTTP),
    ],
)
async def test_origins_that_differ_share_nothing(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    bindings = await bind(one=one, other=other)
    assert bindings["one"].identity != bindings["other"].identity
    for binding in bindings.values():
        await binding.origin.close()


@pytest.mark.parametrize(
    ("origin", "change"),
    [
        (HTTP, {"connections": 4, "read_timeout": "1s"}),
        (S3, {"access_key_id": "new", "secret_access_key": "other"}),
        (S3, {"connect_timeout": "1s"}),
        (S3, {"path_style": True, "headers": {"X-Secret": "s"}}),
        (HTTP, {"headers": {"X-Secret": "s"}, "follow_redirects": 3, "verify": False}),
    ],
)
async def test_what_is_cached_is_found_again_after_a_change_of_name_key_or_limit(
    origin: dict[str, Any], change: dict[str, Any]
) -> None:
    bindings = await bind(before=origin, after={**origin, **change})
    assert bindings["before"].identity == bindings["after"].identity
    for binding in bindings.values():
        await binding.origin.close()


async def test_no_secret_is_part_of_an_identity() -> None:
    bindings = await bind(bucket=S3)
    assert "secret" not in bindings["bucket"].identity
    await bindings["bucket"].origin.close()
