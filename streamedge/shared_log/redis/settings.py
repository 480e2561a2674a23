"""Settings of a Redis or Valkey server that may lose entries, as sentences for operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamedge.shared_log.engine import EngineError
from streamedge.shared_log.redis.connections import Link

VERSION_MIN = (7, 0)
REPLICA_LAG_MAX_S = 5  # half of the default lease
_LOOKED_AT = ("save", "appendfsync", "min-replicas-to-write", "min-replicas-max-lag")


async def find_problems(link: Link) -> list[str]:
    """Looks at the server. Raises EngineError if it does not answer."""
    information = parse_information(await link.call("INFO"))
    try:
        settings = await _settings(link)
    except EngineError:
        if not link.is_open:
            raise
        settings = None
    return problems(information, settings)


def problems(information: Mapping[str, str], settings: Mapping[str, str] | None) -> list[str]:
    """What may lose entries. ``information``: the reply of INFO; ``settings``: of CONFIG GET, None
    if the server does not permit it."""
    sentences = []
    version = information.get("valkey_version") or information.get("redis_version", "0")
    if _numbers(version) < VERSION_MIN:
        sentences.append(f"the engine is version {version}; install Redis 7.0 or newer, or Valkey")
    if information.get("role") == "slave":
        sentences.append(
            "the engine is a replica, which takes no entries; put the primary's address into"
            " fleet.engine"
        )
    if information.get("cluster_enabled") == "1":
        sentences.append(
            "the engine is part of a cluster; requests are not redirected between its servers, so"
            " use a server without cluster mode"
        )
    policy = information.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        sentences.append(
            f"maxmemory-policy is {policy}, so a full engine removes the log without a word; set"
            " maxmemory-policy noeviction"
        )
    if information.get("aof_enabled") == "0":
        lost = "all entries" if settings and settings.get("save") == "" else "the newest entries"
        sentences.append(
            f"appendonly is no, so a restart of the engine loses {lost}; set appendonly yes"
        )
    if information.get("aof_last_write_status", "ok") != "ok":
        sentences.append(
            "the engine cannot write its append-only file; free space on its disk, and look at its"
            " log"
        )
    if settings is None:
        sentences.append(
            "the engine does not permit CONFIG GET, so appendfsync and min-replicas-to-write could"
            " not be looked at; make sure that they are everysec or always, and with replicas at"
            " least 1"
        )
        return sentences
    if settings.get("appendfsync") == "no" and information.get("aof_enabled") == "1":
        sentences.append(
            "appendfsync is no, so a power failure loses entries of the last half minute; set"
            " appendfsync everysec or always"
        )
    replicas = int(information.get("connected_slaves", "0"))
    if replicas and settings.get("min-replicas-to-write", "0") == "0":
        sentences.append(
            f"the engine has {replicas} {'replica' if replicas == 1 else 'replicas'}, but"
            " min-replicas-to-write is 0, so a primary that is cut off from them takes entries that"
            " a failover loses; set min-replicas-to-write 1"
        )
    elif replicas and int(settings.get("min-replicas-max-lag", "10")) > REPLICA_LAG_MAX_S:
        sentences.append(
            f"min-replicas-max-lag is {settings.get('min-replicas-max-lag', '10')} s, so a primary"
            " that is cut off from its replicas may take entries until edges at the new primary"
            f" no longer count; set min-replicas-max-lag {REPLICA_LAG_MAX_S}, and at most half of"
            " fleet.lease"
        )
    return sentences


def parse_information(reply: bytes) -> dict[str, str]:
    """The reply of INFO: a "name:value" on each line, and comments."""
    pairs = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon and not name.startswith("#")}


async def _settings(link: Link) -> dict[str, str]:
    reply: dict[Any, Any] = await link.call("CONFIG", "GET", *_LOOKED_AT)
    return {name.decode(): value.decode() for name, value in reply.items()}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
