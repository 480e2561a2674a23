"""What the driver of Redis does when the server, the link to it, or its data fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, new_entry_id
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START, position_at
from streamedge.fleet.states import EdgeState
from streamedge.shared_log.engine import (
    Engine,
    EngineError,
    HistoryError,
    LineError,
    Snapshot,
)
from streamedge.shared_log.opening import open_engine
from streamedge.shared_log.redis import connections
from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.engine.tcp_proxy import TcpProxy, run_proxy
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import pause

WAIT_S = 10.0
LEASE_S = 30.0
PRESENCE = Presence("fra-1", EdgeState.UP)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[TcpProxy]:
    """A link to the server that can fail."""
    with run_proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def engine(proxy: TcpProxy, redis_server: RedisServer) -> AsyncIterator[Engine]:
    """An edge's connections over the link; line 1 has begun."""
    engine = open_engine(f"redis://127.0.0.1:{proxy.port}/0", "faults")
    await engine.begin_line(1, entry_of(EntryKind.LINE), Snapshot())
    yield engine
    await engine.close()


@pytest.fixture
async def direct(engine: Engine, redis_server: RedisServer) -> AsyncIterator[Engine]:
    """Another edge's connections to the same log, which do not use the link."""
    direct = open_engine(redis_server.url, "faults")
    yield direct
    await direct.close()


async def await_channels(server: RedisServer, count: int) -> None:
    """Waits until clients have subscribed to ``count`` channels, because readers wait there."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await asyncio.to_thread(server.call, "PUBSUB", "CHANNELS")) < count:
            await asyncio.to_thread(pause)


def entry_of(kind: EntryKind = EntryKind.INVALIDATION) -> Entry:
    return Entry(new_entry_id(), kind, "fra-1", 1.5, "E1", {"items": ["/a"]})


async def append(engine: Engine, entry: Entry, line: int = 1) -> int:
    """Appends an entry, again until the engine has it."""
    while True:
        try:
            return await engine.append(entry, line=line)
        except EngineError:
            await asyncio.sleep(0.01)


async def read_all(engine: Engine) -> list[PlacedEntry]:
    """The whole log, again from its beginning until it can be read."""
    while True:
        with suppress(EngineError):
            placed: list[PlacedEntry] = []
            place = (START, "")
            while batch := await engine.read_after(*place, count=50, wait_s=0):
                placed += batch
                place = (batch[-1].position, batch[-1].id)
            return placed
        await asyncio.sleep(0.01)


async def read_after(engine: Engine, place: tuple[int, str]) -> list[PlacedEntry]:
    """What follows the entry at a place, again until the engine answers."""
    while True:
        try:
            return await engine.read_after(*place, count=10, wait_s=0)
        except HistoryError:
            raise
        except EngineError:
            await asyncio.sleep(0.01)


async def be_complete(engine: Engine) -> None:
    """Reports until presences are complete."""
    lease_s = 0.01
    await engine.report(PRESENCE, lease_s)
    await asyncio.sleep(2 * lease_s)
    assert (await engine.report(PRESENCE, lease_s)).complete


async def newest(engine: Engine) -> tuple[int, str]:
    last = (await read_all(engine))[-1]
    return last.position, last.id


async def test_append_whose_answer_is_lost_is_not_repeated(
    engine: Engine, direct: Engine, proxy: TcpProxy
) -> None:
    first, second = entry_of(), entry_of()
    await engine.append(first, line=1)  # from now on the server has the script
    proxy.drop_answer(second.id.encode())
    with pytest.raises(EngineError):
        await engine.append(second, line=1)
    assert proxy.wait_for_drop(WAIT_S)
    assert [each.id for each in await read_all(direct)][1:] == [first.id, second.id]
    assert await engine.append(second, line=1) == position_at(1, 2)
    assert len(await read_all(direct)) == 3


async def test_forgotten_scripts_are_sent_again(engine: Engine, redis_server: RedisServer) -> None:
    redis_server.call("SCRIPT", "FLUSH")
    entry = entry_of()
    position = await engine.append(entry, line=1, documents={"a/b": "{}"})
    redis_server.call("SCRIPT", "FLUSH")
    placed = await engine.read_after(*(await read_all(engine))[0][:2], count=9, wait_s=0)
    assert placed == [PlacedEntry(position, entry.id, entry)]
    redis_server.call("SCRIPT", "FLUSH")
    assert (await engine.report(PRESENCE, LEASE_S)).by_name == {"fra-1": PRESENCE}
    redis_server.call("SCRIPT", "FLUSH")
    assert (await engine.presence_after(0)).by_name == {"fra-1": PRESENCE}
    redis_server.call("SCRIPT", "FLUSH")
    assert (await engine.snapshot()).resources == {"a/b": "{}"}


async def test_acknowledged_entries_survive_a_killed_server(
    engine: Engine, redis_server: RedisServer
) -> None:
    entries = [entry_of() for _ in range(30)]
    for number, entry in enumerate(entries):
        await append(engine, entry)
        if number % 10 == 5:
            redis_server.restart()
    assert [each.id for each in await read_all(engine)][1:] == [entry.id for entry in entries]


async def test_waiting_reader_learns_that_the_server_ended(
    engine: Engine, direct: Engine, redis_server: RedisServer
) -> None:
    place = await newest(engine)
    await engine.presence_after(0)  # the first call does not wait
    reading = asyncio.create_task(engine.read_after(*place, count=10, wait_s=WAIT_S))
    waiting = asyncio.create_task(engine.presence_after(WAIT_S))
    await await_channels(redis_server, 2)
    redis_server.restart()
    for task in (reading, waiting):
        with pytest.raises(EngineError):
            await task
    entry = entry_of()
    await append(direct, entry)
    (placed,) = await engine.read_after(*place, count=10, wait_s=WAIT_S)
    assert placed.entry == entry


async def test_emptied_engine_refuses_what_relies_on_its_history(
    engine: Engine, redis_server: RedisServer
) -> None:
    await engine.append(entry_of(), line=1)
    place = await newest(engine)
    await be_complete(engine)
    reading = asyncio.create_task(engine.read_after(*place, count=10, wait_s=WAIT_S))
    await await_channels(redis_server, 1)
    redis_server.call("FLUSHALL")
    with pytest.raises(HistoryError):
        await reading
    with pytest.raises(LineError) as error:
        await engine.append(entry_of(), line=1)
    assert error.value.line == 0
    assert not (await engine.presence_after(0)).complete
    assert not (await engine.report(PRESENCE, LEASE_S)).complete


async def test_presences_are_incomplete_after_a_restart(
    engine: Engine, redis_server: RedisServer
) -> None:
    await be_complete(engine)
    redis_server.restart()
    while True:
        with suppress(EngineError):
            assert not (await engine.presence_after(0)).complete
            break
    while True:
        with suppress(EngineError):
            assert not (await engine.report(PRESENCE, LEASE_S)).complete
            break


@pytest.fixture
def replica(tmp_path: Path, redis_server: RedisServer) -> Iterator[RedisServer]:
    with run_redis(tmp_path / "replica") as replica:
        replica.follow(redis_server)
        yield replica


async def test_failover_that_lost_entries_is_noticed(
    engine: Engine, proxy: TcpProxy, redis_server: RedisServer, replica: RedisServer
) -> None:
    """Even when other entries have taken the positions of the lost ones."""
    first = entry_of()
    await engine.append(first, line=1)
    replica.catch_up(redis_server)
    replica.promote()
    lost = [entry_of() for _ in range(3)]
    await engine.append_many(lost, line=1)
    place = await newest(engine)
    assert place == (position_at(1, 4), lost[-1].id)
    proxy.switch(replica.port)
    others = [entry_of() for _ in range(5)]
    for entry in others:
        await append(engine, entry)
    for _ in range(2):  # and it does not forget that it noticed
        with pytest.raises(HistoryError):
            await read_after(engine, place)
    assert (await engine.bounds()).last == position_at(1, 6)
    # The lost ones can be appended again, and have new positions.
    assert await append(engine, lost[0]) == position_at(1, 7)


async def test_old_primary_of_a_split_engine_takes_neither_entries_nor_reports(
    engine: Engine, redis_server: RedisServer, replica: RedisServer
) -> None:
    """With the settings that the documents ask for: so its edges are lost after their lease."""
    redis_server.require_replica(max_lag_s=5)
    replica.catch_up(redis_server)
    assert await engine.append(entry_of(), line=1) == position_at(1, 1)
    await engine.report(PRESENCE, LEASE_S)
    replica.catch_up(redis_server)
    replica.promote()  # and the old primary does not hear of it
    elsewhere = open_engine(replica.url, "faults")
    # No edge at the new primary is completed with those that it knows from the old one.
    assert not (await elsewhere.report(PRESENCE, LEASE_S)).complete
    assert await append(elsewhere, entry_of()) == position_at(1, 2)
    while True:  # until the old one has noticed that its replica has gone
        try:
            await engine.report(PRESENCE, LEASE_S)
        except EngineError:
            break
    for _attempt in range(2):
        with pytest.raises(EngineError, match="NOREPLICAS"):
            await engine.append(entry_of(), line=1)
        with pytest.raises(EngineError, match="NOREPLICAS"):
            await engine.report(PRESENCE, LEASE_S)
    assert (await engine.bounds()).last == position_at(1, 1)  # it still answers reads
    await elsewhere.close()


async def test_reader_notices_that_data_were_replaced_under_its_connection(
    engine: Engine, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A primary that becomes a replica of another server keeps its connections."""
    await engine.append(entry_of(), line=1)
    place = await newest(engine)
    with run_redis(tmp_path / "other") as other_server:
        other = open_engine(other_server.url, "faults")
        await other.begin_line(1, entry_of(EntryKind.LINE), Snapshot())
        await other.append(entry_of(), line=1)
        reading = asyncio.create_task(engine.read_after(*place, count=10, wait_s=WAIT_S))
        await await_channels(redis_server, 1)
        redis_server.follow(other_server)
        await other.append(entry_of(), line=1)
        with pytest.raises(HistoryError):
            await reading
        await other.close()


async def test_replica_serves_reads_and_refuses_appends(
    engine: Engine, redis_server: RedisServer, replica: RedisServer
) -> None:
    follower = open_engine(replica.url, "faults")
    place = await newest(follower)
    reading = asyncio.create_task(follower.read_after(*place, count=10, wait_s=WAIT_S))
    await await_channels(replica, 1)
    entry = entry_of()
    await engine.append(entry, line=1)
    assert [each.id for each in await reading] == [entry.id]
    with pytest.raises(EngineError, match="read only"):
        await follower.append(entry_of(), line=1)
    with pytest.raises(EngineError, match="read only"):
        await follower.report(PRESENCE, LEASE_S)
    await follower.close()


async def test_stopped_server_fails_calls_in_bounded_time(
    engine: Engine, direct: Engine, redis_server: RedisServer
) -> None:
    place = await newest(engine)
    await engine.presence_after(0)
    entry = entry_of()
    redis_server.pause()
    results = await asyncio.gather(
        engine.append(entry, line=1),
        engine.read_after(*place, count=10, wait_s=WAIT_S),
        engine.presence_after(WAIT_S),
        engine.report(PRESENCE, LEASE_S),
        return_exceptions=True,
    )
    redis_server.resume()
    assert [type(result) for result in results] == [EngineError] * 4
    assert await append(engine, entry) == position_at(1, 1)
    assert [each.id for each in await read_all(direct)][1:] == [entry.id]


async def test_cut_link_fails_calls_in_bounded_time(
    engine: Engine, direct: Engine, proxy: TcpProxy
) -> None:
    place = await newest(engine)
    await engine.presence_after(0)
    proxy.cut()
    entry = entry_of()
    results = await asyncio.gather(
        engine.append(entry, line=1),
        engine.read_after(*place, count=10, wait_s=WAIT_S),
        engine.presence_after(WAIT_S),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [EngineError] * 3
    with pytest.raises(EngineError):  # a new connection gets no answer, either
        await engine.bounds()
    await direct.append(entry_of(), line=1)
    proxy.restore()  # what the cut held back arrives after all
    await append(engine, entry)
    ids = [each.id for each in await read_all(engine)]
    assert len(ids) == len(set(ids)) == 3


@pytest.mark.parametrize("wait_s", [0.0, 0.01, WAIT_S])
async def test_distant_engine_is_used_as_a_near_one(
    engine: Engine, direct: Engine, proxy: TcpProxy, wait_s: float
) -> None:
    proxy.delay(0.040)
    place = await newest(engine)
    entries = [entry_of() for _ in range(40)]
    ids: list[str] = []
    appending = [asyncio.create_task(direct.append(entry, line=1)) for entry in entries]
    while len(ids) < len(entries):
        for placed in await engine.read_after(*place, count=10, wait_s=wait_s):
            ids.append(placed.id)
            place = (placed.position, placed.id)
    await asyncio.gather(*appending)
    assert await engine.read_after(*place, count=10, wait_s=wait_s / 100) == []
    assert sorted(ids) == sorted(entry.id for entry in entries)


async def test_cancelled_call_leaves_no_answer_to_another_one(
    engine: Engine, proxy: TcpProxy
) -> None:
    proxy.delay(0.02)
    for turn in range(1, 12):
        appending = asyncio.create_task(engine.append(entry_of(), line=1))
        await asyncio.sleep(0.005 * turn)
        appending.cancel()
        with suppress(asyncio.CancelledError):
            await appending
        assert (await engine.snapshot()).resources == {}
        assert (await engine.bounds()).first == position_at(1, 0)


async def test_cancelled_reader_misses_nothing(
    engine: Engine, direct: Engine, proxy: TcpProxy
) -> None:
    proxy.delay(0.005)
    place = await newest(engine)
    ids: list[str] = []
    entries = [entry_of() for _ in range(30)]
    for turn, entry in enumerate(entries):
        reading = asyncio.create_task(engine.read_after(*place, count=10, wait_s=WAIT_S))
        await direct.append(entry, line=1)
        await asyncio.sleep(0.001 * turn)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            for placed in await reading:
                ids.append(placed.id)
                place = (placed.position, placed.id)
    while len(ids) < len(entries):
        for placed in await engine.read_after(*place, count=10, wait_s=WAIT_S):
            ids.append(placed.id)
            place = (placed.position, placed.id)
    assert ids == [entry.id for entry in entries]


async def test_reader_that_dropped_pushed_entries_reads_them(
    engine: Engine, direct: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PUSHED_BYTES_MAX", 2_000)
    place = await newest(engine)
    ids: list[str] = []
    entries = [entry_of() for _ in range(200)]
    for first in range(0, len(entries), 50):
        await direct.append_many(entries[first : first + 50], line=1)
        while len(ids) < first + 40:
            for placed in await engine.read_after(*place, count=3, wait_s=WAIT_S):
                ids.append(placed.id)
                place = (placed.position, placed.id)
    while len(ids) < len(entries):
        for placed in await engine.read_after(*place, count=30, wait_s=WAIT_S):
            ids.append(placed.id)
            place = (placed.position, placed.id)
    assert ids == [entry.id for entry in entries]


async def test_reader_that_the_server_gave_up_reads_on(
    engine: Engine, direct: Engine, redis_server: RedisServer
) -> None:
    """A server closes connections of readers that do not take what it sends."""
    redis_server.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 4mb 2mb 1")
    place = await newest(engine)
    body = {"items": ["x" * 60_000]}
    entries = [
        Entry(new_entry_id(), EntryKind.INVALIDATION, "a", 1.0, "", body) for _ in range(400)
    ]
    await direct.append_many(entries, line=1)
    ids: list[str] = []
    while len(ids) < len(entries):
        for placed in await read_after(engine, place):
            ids.append(placed.id)
            place = (placed.position, placed.id)
    assert ids == [entry.id for entry in entries]


async def test_full_server_refuses_appends_and_serves_reads(
    engine: Engine, redis_server: RedisServer
) -> None:
    entry = entry_of()
    await engine.append(entry, line=1)
    place = (await read_all(engine))[0][:2]
    redis_server.call("CONFIG", "SET", "maxmemory", "1mb")
    for call in (engine.append(entry_of(), line=1), engine.report(PRESENCE, LEASE_S)):
        with pytest.raises(EngineError, match="maxmemory"):
            await call
    placed = await engine.read_after(*place, count=9, wait_s=0)
    assert [each.id for each in placed] == [entry.id]
    redis_server.call("CONFIG", "SET", "maxmemory", "0")
    assert await engine.append(entry_of(), line=1) == position_at(1, 2)


async def test_no_entry_is_lost_or_twice_while_connections_break_and_the_server_dies(
    engine: Engine, direct: Engine, proxy: TcpProxy, redis_server: RedisServer
) -> None:
    entries = [entry_of() for _ in range(300)]
    ended = asyncio.Event()
    ids: list[str] = []

    async def publish(edge: Engine, mine: list[Entry]) -> None:
        for entry in mine:
            await append(edge, entry)

    async def follow() -> None:
        position, entry_id = START, ""
        while len(ids) < len(entries) + 1:
            for placed in await read_after(engine, (position, entry_id)):
                assert placed.position == position_at(1, len(ids))
                ids.append(placed.id)
                position, entry_id = placed.position, placed.id

    async def disturb() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            if turn % 8 == 0:
                await asyncio.to_thread(redis_server.restart)
            else:
                await asyncio.to_thread(proxy.close_connections)
            await asyncio.sleep(0.02)

    disturbing = asyncio.create_task(disturb())
    following = asyncio.create_task(follow())
    await asyncio.gather(
        *(publish(engine, entries[n:150:10]) for n in range(10)), publish(direct, entries[150:])
    )
    ended.set()
    await disturbing
    await following
    assert sorted(ids[1:]) == sorted(entry.id for entry in entries)
    assert ids == [each.id for each in await read_all(direct)]
