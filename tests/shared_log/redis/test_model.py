"""The driver of Redis beside a model: readers get the model's entries, whatever edges do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.position import START, line_of, position_at
from streamedge.shared_log.engine import Bounds, Engine, HistoryError, LineError, Snapshot
from streamedge.shared_log.opening import open_engine
from tests.support.engine.redis_server import RedisServer

READERS = 2
WRITERS = 2
_prefixes = (f"model-{number}" for number in itertools.count())

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, WRITERS - 1), st.integers(1, 12)),
        st.tuples(st.just("append again"), st.integers(0, WRITERS - 1), st.integers(0, 30)),
        st.tuples(st.just("read"), st.integers(0, READERS - 1), st.integers(1, 8)),
        st.tuples(st.just("begin line"), st.integers(0, WRITERS - 1), st.integers(0, 2)),
        st.tuples(st.just("trim"), st.integers(0, WRITERS - 1), st.integers(1, 10)),
        st.tuples(st.just("forget scripts"), st.just(0), st.just(0)),
        st.tuples(st.just("empty"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@dataclass
class Model:
    """The log as a list, and what each reader read last."""

    log: list[tuple[int, str, str]] = field(default_factory=list)  # position, id, id before
    history: set[tuple[int, str, str]] = field(default_factory=set)  # what was ever in it
    ever: list[Entry] = field(default_factory=list)
    places: list[tuple[int, str]] = field(default_factory=lambda: [(START, "")] * READERS)

    @property
    def line(self) -> int:
        return line_of(self.log[-1][0]) if self.log else 0

    def position_of(self, entry_id: str) -> int | None:
        return next((each[0] for each in self.log if each[1] == entry_id), None)

    def add(self, position: int, entry: Entry) -> None:
        self.log.append((position, entry.id, self.log[-1][1] if self.log else ""))
        self.history.add(self.log[-1])
        self.ever.append(entry)

    def rest(self, place: tuple[int, str]) -> list[str] | None:
        """The ids behind a place; None if the log does not go on from there."""
        rest = [each for each in self.log if each[0] > place[0]]
        here = [each[1] for each in self.log if each[0] == place[0]]
        if here:
            goes_on = here == [place[1]]
        elif rest:
            goes_on = rest[0][2] == place[1]
        else:
            goes_on = place == (START, "")
        return [each[1] for each in rest] if goes_on else None


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # each example has keys of its own
@given(steps=STEPS)
def test_readers_get_what_the_model_has(
    steps: Sequence[tuple[str, int, int]], redis_server: RedisServer
) -> None:
    asyncio.run(follow_model(steps, redis_server))


async def follow_model(steps: Sequence[tuple[str, int, int]], server: RedisServer) -> None:
    prefix = next(_prefixes)
    engines = [open_engine(server.url, prefix) for _ in range(WRITERS + READERS)]
    model = Model()
    try:
        for step in steps:
            await take_step(step, engines, model, server)
            bounds = await engines[0].bounds()
            ends = [each[0] for each in model.log]
            assert bounds == (Bounds(ends[0], ends[-1]) if ends else Bounds(START, START))
    finally:
        for engine in engines:
            await engine.close()


async def take_step(
    step: tuple[str, int, int], engines: list[Engine], model: Model, server: RedisServer
) -> None:
    action, index, number = step
    match action:
        case "append":
            await append(engines[index], model, [entry_of() for _ in range(number)])
        case "append again" if model.ever:
            await append(engines[index], model, [model.ever[number % len(model.ever)], entry_of()])
        case "begin line":
            line, entry = model.line + number, entry_of(EntryKind.LINE)
            begun = await engines[index].begin_line(line, entry, Snapshot())
            assert begun == (number > 0)
            if begun:
                model.add(position_at(line, 0), entry)
        case "trim" if model.log:
            await engines[index].trim(model.log[-1][0], keep=number)
            model.log = model.log[-number:]
        case "forget scripts":
            server.call("SCRIPT", "FLUSH")
        case "empty":
            server.call("FLUSHALL")
            model.log = []
        case "read":
            await read(engines[WRITERS + index], model, index, number)


async def append(engine: Engine, model: Model, entries: list[Entry]) -> None:
    if model.line == 0:
        with pytest.raises(LineError):
            await engine.append_many(entries, line=1)
        return
    positions = await engine.append_many(entries, line=model.line)
    for entry, position in zip(entries, positions, strict=True):
        expected = model.position_of(entry.id)
        if expected is None:
            expected = model.log[-1][0] + 1
            model.add(expected, entry)
        assert position == expected


async def read(engine: Engine, model: Model, index: int, count: int) -> None:
    """Reads on from the reader's place. Pushed entries may be read although the log has lost them
    since; then the next read says so."""
    place = model.places[index]
    expected = model.rest(place)
    try:
        placed = await engine.read_after(*place, count=count, wait_s=0)
    except HistoryError:
        assert expected is None
        # The edge begins again where the log begins.
        model.places[index] = model.log[0][:2] if model.log else (START, "")
        return
    assert len(placed) <= count
    assert placed or expected == []
    for each in placed:
        assert (each.position, each.id, place[1]) in model.history
        place = model.places[index] = (each.position, each.id)


def entry_of(kind: EntryKind = EntryKind.INVALIDATION) -> Entry:
    return Entry(new_entry_id(), kind, "fra-1", 1.5)
