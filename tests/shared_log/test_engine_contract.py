"""The contract of an engine, which every engine has to pass: ``shared_log/engine.py``."""

from __future__ import annotations

import asyncio

import pytest

from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.position import START, position_at
from streamedge.shared_log.engine import (
    Bounds,
    ConflictError,
    Engine,
    HistoryError,
    LineError,
    MemberDocument,
    Snapshot,
)
from tests.shared_log.conftest import Open

WAIT_S = 10.0


def entry_of(kind: EntryKind = EntryKind.INVALIDATION, number: int = 0) -> Entry:
    return Entry(new_entry_id(), kind, "fra-1", 1.5, "E1", {"items": [f"/ä/{number}"], "n": number})


async def head(engine: Engine) -> tuple[int, str]:
    """Position and id of the newest entry."""
    last = (await engine.bounds()).last
    (entry_id,) = await engine.entry_ids([last])
    assert entry_id is not None
    return last, entry_id


async def test_empty_log_has_no_positions_and_no_documents(opening: Open) -> None:
    engine = opening()
    assert await engine.bounds() == Bounds(START, START)
    assert await engine.snapshot() == Snapshot()
    assert await engine.read_after(START, "", count=10, wait_s=0) == []
    assert await engine.entry_ids([position_at(1, 0)]) == [None]
    await engine.close()


async def test_line_begins_at_its_first_position_once(engine: Engine, other: Engine) -> None:
    assert not await other.begin_line(1, entry_of(EntryKind.LINE), Snapshot())
    assert await other.bounds() == Bounds(position_at(1, 0), position_at(1, 0))
    assert await other.begin_line(3, entry_of(EntryKind.LINE), Snapshot())
    assert not await engine.begin_line(2, entry_of(EntryKind.LINE), Snapshot())
    assert (await engine.bounds()).last == position_at(3, 0)


async def test_concurrent_edges_begin_one_line(engine: Engine, other: Engine) -> None:
    line = entry_of(EntryKind.LINE)
    begun = await asyncio.gather(
        *(each.begin_line(2, line, Snapshot()) for each in (engine, other) for _ in range(4))
    )
    assert sorted(begun) == [False] * 7 + [True]


async def test_positions_have_no_gaps(engine: Engine, other: Engine) -> None:
    positions = await asyncio.gather(
        *(each.append(entry_of(), line=1) for each in (engine, other) for _ in range(20))
    )
    assert sorted(positions) == [position_at(1, number) for number in range(1, 41)]


async def test_append_to_an_empty_log_is_refused(opening: Open) -> None:
    engine = opening()
    with pytest.raises(LineError) as error:
        await engine.append(entry_of(), line=1)
    assert error.value.line == 0
    await engine.close()


async def test_append_to_another_line_is_refused(engine: Engine) -> None:
    await engine.begin_line(2, entry_of(EntryKind.LINE), Snapshot())
    for line in (1, 3):
        with pytest.raises(LineError) as error:
            await engine.append_many([entry_of()], line=line)
        assert error.value.line == 2
    assert (await engine.bounds()).last == position_at(2, 0)


async def test_known_entry_keeps_its_position(engine: Engine, other: Engine) -> None:
    first, second = entry_of(number=1), entry_of(number=2)
    position = await engine.append(first, line=1)
    assert await other.append(first, line=1) == position
    assert await other.append_many([first, second, first], line=1) == [
        position,
        position + 1,
        position,
    ]
    await engine.begin_line(2, entry_of(EntryKind.LINE), Snapshot())
    assert await engine.append(second, line=2) == position + 1
    assert (await engine.bounds()).last == position_at(2, 0)


async def test_entries_are_read_as_they_were_appended(engine: Engine, other: Engine) -> None:
    start = await head(engine)
    entries = [entry_of(number=number) for number in range(1200)]
    positions = await engine.append_many(entries, line=1)
    placed = []
    for count in (1, 700, 700):
        batch = await other.read_after(*start, count=count, wait_s=0)
        assert len(batch) <= count
        placed += batch
        start = (batch[-1].position, batch[-1].id)
    assert [(each.position, each.entry) for each in placed] == list(
        zip(positions, entries, strict=True)
    )
    assert [each.id for each in placed] == [entry.id for entry in entries]
    assert await other.read_after(*start, count=10, wait_s=0) == []


async def test_waiting_reader_gets_entries_one_by_one(engine: Engine, other: Engine) -> None:
    place = await head(engine)
    for number in range(50):
        reading = asyncio.create_task(other.read_after(*place, count=10, wait_s=WAIT_S))
        entry = entry_of(number=number)
        position = await engine.append(entry, line=1)
        (placed,) = await reading
        assert (placed.position, placed.id, placed.entry) == (position, entry.id, entry)
        place = (placed.position, placed.id)


async def test_slow_reader_misses_nothing(engine: Engine, other: Engine) -> None:
    place = await head(engine)
    assert await other.read_after(*place, count=10, wait_s=0) == []  # it receives pushes now
    entries = [entry_of(number=number) for number in range(500)]
    for entry in entries[:250]:
        await engine.append(entry, line=1)
    appending = asyncio.create_task(engine.append_many(entries[250:], line=1))
    ids: list[str] = []
    while len(ids) < len(entries):
        placed = await other.read_after(*place, count=7, wait_s=WAIT_S)
        ids += [each.id for each in placed]
        place = (placed[-1].position, placed[-1].id)
    await appending
    assert ids == [entry.id for entry in entries]


async def test_reader_goes_on_into_a_new_line(engine: Engine, other: Engine) -> None:
    place = await head(engine)
    line, entry = entry_of(EntryKind.LINE), entry_of()
    assert await other.read_after(*place, count=10, wait_s=0) == []
    await engine.begin_line(2, line, Snapshot())
    await engine.append(entry, line=2)
    ids: list[str] = []
    while len(ids) < 2:
        placed = await other.read_after(*place, count=10, wait_s=WAIT_S)
        ids += [each.id for each in placed]
        place = (placed[-1].position, placed[-1].id)
    assert ids == [line.id, entry.id]
    assert place[0] == position_at(2, 1)


async def test_large_entry_reaches_a_waiting_reader(engine: Engine, other: Engine) -> None:
    place = await head(engine)
    assert await other.read_after(*place, count=10, wait_s=0) == []
    large = Entry(new_entry_id(), EntryKind.RESOURCES, "fra-1", 1.0, "", {"rows": "x" * 2_000_000})
    small = entry_of()
    reading = asyncio.create_task(other.read_after(*place, count=1, wait_s=WAIT_S))
    await engine.append_many([large, small], line=1)
    (placed,) = await reading
    assert placed.entry == large
    (placed,) = await other.read_after(placed.position, placed.id, count=9, wait_s=WAIT_S)
    assert placed.entry == small


async def test_reader_with_an_entry_that_the_log_lacks_is_refused(engine: Engine) -> None:
    position = await engine.append(entry_of(), line=1)
    for place in [
        (position, new_entry_id()),  # another entry took the position
        (position + 1, new_entry_id()),  # the engine lost it
        (position_at(2, 0), new_entry_id()),
        (START, new_entry_id()),
    ]:
        with pytest.raises(HistoryError):
            await engine.read_after(*place, count=10, wait_s=0)


async def test_trimmed_reader_is_refused(engine: Engine, other: Engine) -> None:
    start = await head(engine)
    entries = [entry_of(number=number) for number in range(100)]
    positions = await engine.append_many(entries, line=1)
    await engine.trim(positions[60], keep=10)
    assert (await engine.bounds()).first == positions[60]
    await engine.trim(positions[99], keep=30)
    assert await engine.bounds() == Bounds(positions[70], positions[99])
    assert await engine.entry_ids([positions[69], positions[70]]) == [None, entries[70].id]
    for place in (start, (START, ""), (positions[68], entries[68].id)):
        with pytest.raises(HistoryError):
            await other.read_after(*place, count=10, wait_s=0)
    # The reader that has all that was removed goes on.
    placed = await other.read_after(positions[69], entries[69].id, count=100, wait_s=0)
    assert [each.id for each in placed] == [entry.id for entry in entries[70:]]


async def test_documents_change_with_their_entry(engine: Engine, other: Engine) -> None:
    change = entry_of(EntryKind.RESOURCES)
    position = await engine.append(
        change,
        line=1,
        documents={"distribution/E1": '{"a":"ä"}', "key/K1": "{}"},
        expected_resources_position=START,
    )
    assert await other.snapshot() == Snapshot(
        position, change.id, position, {"distribution/E1": '{"a":"ä"}', "key/K1": "{}"}, {}
    )
    invalidation = entry_of()
    await engine.append(invalidation, line=1)
    removal = entry_of(EntryKind.RESOURCES)
    await engine.append(
        removal, line=1, documents={"key/K1": None}, expected_resources_position=position
    )
    assert await other.snapshot() == Snapshot(
        position + 2, removal.id, position + 2, {"distribution/E1": '{"a":"ä"}'}, {}
    )


async def test_one_of_two_concurrent_changes_of_resources_wins(
    engine: Engine, other: Engine
) -> None:
    changes = [entry_of(EntryKind.RESOURCES, number) for number in range(2)]
    results = await asyncio.gather(
        *(
            each.append(
                change, line=1, documents={"a/b": change.id}, expected_resources_position=START
            )
            for each, change in zip((engine, other), changes, strict=True)
        ),
        return_exceptions=True,
    )
    conflicts = [isinstance(result, ConflictError) for result in results]
    assert sorted(conflicts) == [False, True]
    winner = changes[conflicts.index(False)]
    snapshot = await engine.snapshot()
    assert snapshot.resources == {"a/b": winner.id}
    # The winner's repeated append is no conflict with itself.
    assert snapshot.resources_position == await engine.append(
        winner, line=1, documents={"a/b": winner.id}, expected_resources_position=START
    )


async def test_member_keeps_the_position_of_its_first_entry(engine: Engine) -> None:
    first, second = entry_of(EntryKind.MEMBER), entry_of(EntryKind.MEMBER)
    order = await engine.append(first, line=1, documents={"fra-1": '{"weight": 1}'})
    await engine.append(second, line=1, documents={"fra-1": '{"weight": 2}'})
    snapshot = await engine.snapshot()
    assert snapshot.members == {"fra-1": MemberDocument(order, '{"weight": 2}')}
    assert snapshot.resources_position == START


async def test_new_line_restores_the_documents_of_an_emptied_engine(opening: Open) -> None:
    engine = opening()
    snapshot = Snapshot(
        position_at(1, 9),
        new_entry_id(),
        position_at(1, 7),
        {"distribution/E1": "{}"},
        {"fra-1": MemberDocument(position_at(1, 2), '{"name": "fra-1"}')},
    )
    line = entry_of(EntryKind.LINE)
    assert await engine.begin_line(2, line, snapshot)
    assert await engine.snapshot() == Snapshot(
        position_at(2, 0),
        line.id,
        snapshot.resources_position,
        snapshot.resources,
        snapshot.members,
    )
    # Documents that are there stay.
    assert await engine.begin_line(
        3, entry_of(EntryKind.LINE), Snapshot(resources={"distribution/E2": "{}"})
    )
    assert (await engine.snapshot()).resources == {"distribution/E1": "{}"}
    await engine.close()
