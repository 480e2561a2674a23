"""Lines of scripts are parsed or refused, and data of something else are an EngineError."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.fleet.entries import Entry, EntryKind, encode_entry, new_entry_id
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START, format_position, position_at
from streamedge.fleet.states import EdgeState
from streamedge.shared_log.engine import EngineError, Snapshot
from streamedge.shared_log.opening import open_engine
from streamedge.shared_log.redis.lines import (
    EntryLine,
    name_in_presence_line,
    parse_entry_line,
    parse_presence_line,
    parse_presences,
)
from tests.support.engine.redis_server import RedisServer
from tests.support.patience import PATIENCE_S

PARSERS = [parse_entry_line, parse_presence_line, parse_presences]
POSITIONS = st.builds(position_at, st.integers(1, 4_000_000), st.integers(0, (1 << 40) - 1))


@given(st.binary())
@pytest.mark.parametrize("parse", PARSERS)
def test_any_bytes_are_a_line_or_a_value_error(parse: object, data: bytes) -> None:
    assert callable(parse)
    with suppress(ValueError):
        parse(data)


@given(st.binary())
def test_any_line_has_something_in_the_place_of_a_name(line: bytes) -> None:
    assert name_in_presence_line(line) in line


def test_name_in_the_line_of_a_presence_is_that_of_the_presence() -> None:
    line = b"0 fra-1 10000 " + Presence("fra-1", EdgeState.UP).encode().encode()
    assert name_in_presence_line(line) == b"fra-1" == parse_presence_line(line).name.encode()
    assert name_in_presence_line(b"0 fra-1 0 ") == b"fra-1"


@given(POSITIONS, st.text())
def test_line_of_an_entry_is_parsed(position: int, item: str) -> None:
    entry = Entry(new_entry_id(), EntryKind.INVALIDATION, "fra-1", 1.0, "", {"items": [item]})
    text = encode_entry(entry).encode()
    assert b"\n" not in text
    line = b" ".join([format_position(position).encode(), entry.id.encode(), b"", text])
    assert parse_entry_line(line) == EntryLine(position, entry.id, "", text)
    assert parse_entry_line(line).placed() == (position, entry.id, entry)


def test_entry_without_its_content_is_not_placed() -> None:
    line = parse_entry_line(b"3-7 b a")
    assert line == EntryLine(position_at(3, 7), "b", "a", None)
    with pytest.raises(ValueError, match="without its content"):
        line.placed()


@pytest.mark.parametrize(
    "command",
    [
        *(("SET", f"{{foreign}}:{key}", "text") for key in ("log", "ids", "resources", "members")),
        *(("SET", f"{{foreign}}:{key}", "text") for key in ("state", "edges")),
        ("HSET", "{foreign}:members", "fra-1", "text"),
        ("HSET", "{foreign}:members", "fra-1", "1-0"),
        ("HSET", "{foreign}:state", "resources", "text", "data_set", "x", "since_ms", "y"),
        ("XADD", "{foreign}:log", "1-99", "a", "b"),
        ("XADD", "{foreign}:log", "9999999999-99", "id", "b", "after", "c", "entry", "d"),
        ("LPUSH", "{foreign}:edge:ams-1", "text"),
        ("SET", "{foreign}:edge:ams-1", "text"),
        ("SADD", "{foreign}:edges", "a b\nc", "\udcff"),
        ("PUBLISH", "{foreign}:appended", "text"),
        ("PUBLISH", "{foreign}:appended", "1-2 b a {}"),
        ("PUBLISH", "{foreign}:presence", "text"),
        ("PUBLISH", "{foreign}:presence", "0 ams-1 1000 text"),
    ],
)
async def test_foreign_data_are_ignored_or_an_engine_error(
    command: tuple[str, ...], redis_server: RedisServer
) -> None:
    engine = open_engine(redis_server.url, "foreign")
    line = Entry(new_entry_id(), EntryKind.LINE, "fra-1", 1.0)
    await engine.begin_line(1, line, Snapshot())
    await engine.read_after(position_at(1, 0), line.id, count=1, wait_s=0)
    await engine.presence_after(0)
    redis_server.call("SADD", "{foreign}:edges", "ams-1")
    redis_server.call(*(each.encode(errors="surrogateescape") for each in command))
    entry = Entry(new_entry_id(), EntryKind.MEMBER, "fra-1", 1.0)
    for _ in range(2):
        for call in (
            engine.append(entry, line=1, documents={"fra-1": "{}"}),
            engine.append_many([Entry(new_entry_id(), EntryKind.RESOURCES, "", 1.0)], line=1),
            engine.read_after(position_at(1, 0), line.id, count=9, wait_s=0),
            engine.read_after(START, "", count=9, wait_s=0),
            engine.entry_ids([position_at(1, 99)]),
            engine.bounds(),
            engine.snapshot(),
            engine.begin_line(1, line, Snapshot(resources={"a/b": "{}"})),
            engine.report(Presence("fra-1", EdgeState.UP), 1.0),
            engine.presence_after(0),
            engine.withdraw("fra-1"),
            engine.trim(position_at(1, 50), keep=1),
            engine.problems(),
        ):
            with suppress(EngineError):
                async with asyncio.timeout(PATIENCE_S):
                    await call
    await engine.close()


async def test_presence_of_another_version_makes_presences_incomplete(
    redis_server: RedisServer,
) -> None:
    """It may be behind, and cannot be read."""
    engine = open_engine(redis_server.url, "foreign")
    presence = Presence("fra-1", EdgeState.UP)
    await engine.report(presence, 0.01)
    await asyncio.sleep(0.02)
    assert (await engine.report(presence, 0.01)).complete
    assert (await engine.presence_after(0)).complete
    redis_server.call("SADD", "{foreign}:edges", "ams-1")
    redis_server.call("SET", "{foreign}:edge:ams-1", '{"name":"ams-1","state":"new"}', "PX", 60_000)
    assert not (await engine.report(presence, 0.01)).complete
    redis_server.call("PUBLISH", "{foreign}:presence", '0 ams-1 60000 {"name":"ams-1"}')
    redis_server.call("PUBLISH", "{foreign}:presence", "0 par-1 0 ")
    async with asyncio.timeout(PATIENCE_S):
        while (await engine.presence_after(5.0)).complete:
            pass
    await engine.close()
