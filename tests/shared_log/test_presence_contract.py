"""The contract of an engine for presences: ``shared_log/engine.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest
import redis

from streamedge.fleet.entries import Entry, EntryKind
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START
from streamedge.fleet.states import EdgeState
from streamedge.shared_log.engine import Engine, EngineError
from tests.shared_log.conftest import Open
from tests.support.engine.redis_server import RedisServer

WAIT_S = 10.0
LEASE_S = 30.0


@pytest.fixture
def opening(redis_opening: Open) -> Open:
    """Of the engines that keep presences; the one in memory does not."""
    return redis_opening


async def test_presences_of_all_edges_are_returned(engine: Engine, other: Engine) -> None:
    first, second = Presence("fra-1", EdgeState.UP, 7, 1, 1), Presence("ams-1", EdgeState.JOINING)
    assert (await engine.report(first, LEASE_S)).by_name == {"fra-1": first}
    assert (await other.report(second, LEASE_S)).by_name == {"fra-1": first, "ams-1": second}
    assert (await engine.presence_after(0)).by_name == {"fra-1": first, "ams-1": second}
    await engine.withdraw("fra-1")
    assert (await other.presence_after(0)).by_name == {"ams-1": second}


async def test_report_and_withdrawal_wake_other_edges(engine: Engine, other: Engine) -> None:
    assert (await other.presence_after(0)).by_name == {}
    for beat in range(20):
        waiting = asyncio.create_task(other.presence_after(WAIT_S))
        presence = Presence("fra-1", EdgeState.UP, beat, 0, beat)
        await engine.report(presence, LEASE_S)
        assert (await waiting).by_name == {"fra-1": presence}
    waiting = asyncio.create_task(other.presence_after(WAIT_S))
    await engine.withdraw("fra-1")
    assert (await waiting).by_name == {}


async def test_report_between_two_calls_is_not_missed(engine: Engine, other: Engine) -> None:
    await other.presence_after(0)
    presence = Presence("fra-1", EdgeState.UP, 3)
    await engine.report(presence, LEASE_S)
    assert (await other.presence_after(WAIT_S)).by_name == {"fra-1": presence}


async def test_presence_ends_with_its_lease(engine: Engine, other: Engine) -> None:
    await engine.report(Presence("fra-1", EdgeState.UP), 0.05)
    while (await other.presence_after(0.02)).by_name:
        pass
    lasting = Presence("ams-1", EdgeState.UP)
    assert (await engine.report(lasting, LEASE_S)).by_name == {"ams-1": lasting}


async def test_presence_lasts_for_its_lease_though_the_engine_drops_it(
    engine: Engine, other: Engine, redis_server: RedisServer
) -> None:
    """As an engine does whose clock jumps forward, and one that was emptied."""
    await other.presence_after(0)
    lasting, own = Presence("fra-1", EdgeState.UP, 3), Presence("ams-1", EdgeState.UP, 9)
    await engine.report(lasting, LEASE_S)
    assert (await other.presence_after(WAIT_S)).by_name == {"fra-1": lasting}
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.delete("{contract}:edge:fra-1") == 1
        assert (await engine.report(own, LEASE_S)).by_name == {"ams-1": own}  # has never watched
        assert (await other.report(own, LEASE_S)).by_name == {"fra-1": lasting, "ams-1": own}
        client.client_kill_filter(_type="pubsub")  # it reads all presences again
    assert await _until_connected(other) == {"fra-1": lasting, "ams-1": own}
    await engine.withdraw("fra-1")
    while "fra-1" in (await other.presence_after(WAIT_S)).by_name:
        pass
    assert (await other.report(own, LEASE_S)).by_name == {"ams-1": own}


async def _until_connected(engine: Engine) -> Mapping[str, Presence]:
    """The presences, once the engine has ended the connection and it was opened again."""
    while True:
        try:
            await engine.presence_after(WAIT_S)
        except EngineError:
            return (await engine.presence_after(WAIT_S)).by_name


async def test_presences_are_complete_after_a_lease(engine: Engine, other: Engine) -> None:
    assert not (await other.presence_after(0)).complete
    presence = Presence("fra-1", EdgeState.UP)
    assert not (await engine.report(presence, 0.2)).complete
    while not (await engine.report(presence, 0.2)).complete:
        await other.presence_after(0.05)
    while not (await other.presence_after(0.05)).complete:
        await engine.report(presence, 0.2)


async def test_presence_of_an_edge_with_another_history_counts_for_nothing(
    engine: Engine,
) -> None:
    entry = Entry("a" * 32, EntryKind.INVALIDATION, "fra-1", 1.0)
    position = await engine.append(entry, line=1)
    presence = Presence("fra-1", EdgeState.UP, position)
    lost = replace(presence, position=START)

    async def report(applied: int, entry_id: str) -> Presence:
        presences = await engine.report(presence, LEASE_S, applied=applied, entry_id=entry_id)
        return presences.by_name["fra-1"]

    assert await report(position, entry.id) == presence
    assert await report(position, "b" * 32) == lost
    assert await report(position + 1, "b" * 32) == lost
    assert await report(START, "") == presence


async def test_data_set_has_another_name_after_the_engine_was_emptied(
    engine: Engine, redis_server: RedisServer
) -> None:
    presence = Presence("fra-1", EdgeState.UP)
    first = (await engine.report(presence, LEASE_S)).data_set
    assert first
    assert (await engine.report(presence, LEASE_S)).data_set == first
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    await asyncio.sleep(0.002)  # names have milliseconds
    assert (await engine.report(presence, LEASE_S)).data_set not in {"", first}


async def test_running_engine_has_no_problems(engine: Engine) -> None:
    assert await engine.problems() == []
