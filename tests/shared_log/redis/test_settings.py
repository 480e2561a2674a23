"""The settings of a server that may lose entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.shared_log.opening import open_engine
from streamedge.shared_log.redis.settings import parse_information, problems
from tests.support.engine.redis_server import RedisServer, run_redis

GOOD = {
    "redis_version": "7.0.15",
    "role": "master",
    "connected_slaves": "0",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
}
SETTINGS = {
    "save": "",
    "appendfsync": "everysec",
    "min-replicas-to-write": "0",
    "min-replicas-max-lag": "10",
}


@pytest.mark.parametrize(
    ("information", "settings", "expected"),
    [
        ({}, {}, []),
        ({"redis_version": "6.2.14"}, {}, ["install Redis 7.0"]),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, {}, []),
        ({"redis_version": "8.6.0"}, {}, []),
        ({"redis_version": "unstable"}, {}, ["install Redis 7.0"]),
        ({"role": "slave"}, {}, ["the primary's address"]),
        ({"cluster_enabled": "1"}, {}, ["without cluster mode"]),
        ({"maxmemory_policy": "allkeys-lru"}, {}, ["set maxmemory-policy noeviction"]),
        ({"aof_enabled": "0"}, {}, ["loses all entries; set appendonly yes"]),
        ({"aof_enabled": "0"}, {"save": "3600 1"}, ["the newest entries; set appendonly yes"]),
        ({"aof_last_write_status": "err"}, {}, ["free space on its disk"]),
        ({}, {"appendfsync": "always"}, []),
        ({}, {"appendfsync": "no"}, ["set appendfsync everysec"]),
        ({"connected_slaves": "1"}, {}, ["has 1 replica, but min-replicas-to-write is 0"]),
        ({"connected_slaves": "2"}, {}, ["has 2 replicas, but min-replicas-to-write is 0"]),
        (
            {"connected_slaves": "2"},
            {"min-replicas-to-write": "1"},
            ["set min-replicas-max-lag 5"],
        ),
        (
            {"connected_slaves": "2"},
            {"min-replicas-to-write": "1", "min-replicas-max-lag": "5"},
            [],
        ),
    ],
)
def test_setting_that_loses_entries_is_a_problem(
    information: dict[str, str], settings: dict[str, str], expected: list[str]
) -> None:
    sentences = problems(GOOD | information, SETTINGS | settings)
    assert len(sentences) == len(expected)
    for sentence, part in zip(sentences, expected, strict=True):
        assert part in sentence


def test_settings_that_may_not_be_read_are_a_problem() -> None:
    (sentence,) = problems(GOOD, None)
    assert "could not be looked at" in sentence


def test_information_is_parsed() -> None:
    assert parse_information(b"# Server\r\nredis_version:7.0\r\n\r\nexecutable:/a:b\r\n") == {
        "redis_version": "7.0",
        "executable": "/a:b",
    }


async def test_problems_of_a_running_server(redis_server: RedisServer, tmp_path: Path) -> None:
    engine = open_engine(redis_server.url, "settings")
    assert await engine.problems() == []
    redis_server.call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    redis_server.call("CONFIG", "SET", "appendfsync", "no")
    policy, fsync = await engine.problems()
    assert "volatile-lru" in policy
    assert "appendfsync is no" in fsync
    redis_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis_server.call("CONFIG", "SET", "appendonly", "no")
    (lost,) = await engine.problems()
    assert "appendonly is no" in lost
    redis_server.call("CONFIG", "SET", "appendonly", "yes")
    redis_server.call("CONFIG", "SET", "appendfsync", "always")
    with run_redis(tmp_path / "replica") as replica:
        replica.follow(redis_server)
        (replicas,) = await engine.problems()
        assert "min-replicas-to-write" in replicas
        follower = open_engine(replica.url, "settings")
        (role,) = await follower.problems()
        assert "is a replica" in role
        await follower.close()
    await engine.close()


async def test_server_may_forbid_config(redis_server: RedisServer) -> None:
    redis_server.call("ACL", "SETUSER", "default", "-config")
    engine = open_engine(redis_server.url, "settings")
    (sentence,) = await engine.problems()
    assert "does not permit CONFIG GET" in sentence
    await engine.close()
