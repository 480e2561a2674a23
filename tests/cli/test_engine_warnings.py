"""``streamedge check`` warns of settings of the engine that lose data; they are no mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from streamedge.cli.main import app
from tests.support.engine.redis_server import RedisServer, run_redis

CONFIG = """
[edge]
name = "fra-1"
[fleet]
engine = "{engine}"
[origins.main]
type = "directory"
path = "media"
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
"""


def check(folder: Path, engine: str) -> Result:
    (folder / "media").mkdir(exist_ok=True)
    config = folder / "config.toml"
    config.write_text(CONFIG.format(engine=engine))
    result = CliRunner().invoke(app, ["check", "--config", str(config)])
    assert result.exit_code == 0, result.output
    return result


def warnings(result: Result) -> list[str]:
    """The warnings, without the ends of their lines."""
    text = " ".join(result.stdout.split())
    return [f"Warning: {one}" for one in text.split("Warning: ")[1:]]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("maxmemory-policy", "allkeys-lru", "set maxmemory-policy noeviction"),
        ("appendonly", "no", "set appendonly yes"),
        ("appendfsync", "no", "set appendfsync everysec"),
    ],
)
def test_setting_that_loses_data_is_a_warning(
    tmp_path: Path, redis_server: RedisServer, setting: str, value: str, expected: str
) -> None:
    assert warnings(check(tmp_path, redis_server.url)) == []
    redis_server.call("CONFIG", "SET", setting, value)
    [warning] = warnings(check(tmp_path, redis_server.url))
    assert expected in warning


def test_replica_that_nothing_waits_for_is_a_warning(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with run_redis(tmp_path / "replica") as replica:
        replica.follow(redis_server)
        [warning] = warnings(check(tmp_path, redis_server.url))
        assert "min-replicas-to-write" in warning


def test_engine_that_does_not_answer_is_a_warning(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.kill()
    [warning] = warnings(check(tmp_path, redis_server.url))
    assert f"127.0.0.1:{redis_server.port}" in warning
    redis_server.start()
