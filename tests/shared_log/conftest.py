"""An engine of each kind, and connections of two edges to its log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.shared_log.engine import Engine, Snapshot
from streamedge.shared_log.opening import open_engine
from tests.support.engine.redis_server import RedisServer
from tests.support.fleet.memory_engine import MemoryEngine, MemoryServer

Open = Callable[[], Engine]
"""Opens connections to one log, as the edges of a fleet do."""


@pytest.fixture
def redis_opening(redis_server: RedisServer) -> Open:
    return lambda: open_engine(redis_server.url, "contract")


@pytest.fixture
def memory_opening() -> Open:
    server = MemoryServer()
    return lambda: MemoryEngine(server)


@pytest.fixture(params=["redis_opening", "memory_opening"])
def opening(request: pytest.FixtureRequest) -> Open:
    """Of every kind of engine."""
    opened: Open = request.getfixturevalue(request.param)
    return opened


@pytest.fixture
async def engine(opening: Open) -> AsyncIterator[Engine]:
    """A connection of one edge; line 1 has begun."""
    engine = opening()
    line = Entry(new_entry_id(), EntryKind.LINE, "fra-1", 1.5)
    assert await engine.begin_line(1, line, Snapshot())
    yield engine
    await engine.close()


@pytest.fixture
async def other(opening: Open, engine: Engine) -> AsyncIterator[Engine]:
    """A connection of another edge to the same log."""
    other = opening()
    yield other
    await other.close()
