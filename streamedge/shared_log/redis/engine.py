"""The engine in Redis 7 or Valkey: what each key holds, and what each call sends.

All keys have one hash tag, {PREFIX}, so that they are in one slot of a cluster:

    log         stream: id LINE-SEQUENCE; fields id, after (the id of the entry before), entry
    ids         hash: id of an entry -> its position; as long as the log
    resources   hash: KIND/ID -> JSON
    members     hash: name -> position of its first entry, a space, JSON
    state       hash: resources (position of the newest RESOURCES entry); data_set, since_ms,
                lease_ms (since when all reports went to this data set)
    edges       set: names of edges that may have a presence
    edge:NAME   string with a lease: the presence of an edge

The channels {PREFIX}:appended and {PREFIX}:presence carry what was written to all who read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from streamedge.fleet.entries import Entry, EntryKind, PlacedEntry, encode_entry
from streamedge.fleet.members import Presence
from streamedge.fleet.position import START, format_position, parse_position
from streamedge.shared_log.engine import (
    ENTRIES_KEPT,
    Bounds,
    ConflictError,
    LineError,
    MemberDocument,
    Presences,
    Snapshot,
)
from streamedge.shared_log.redis import scripts
from streamedge.shared_log.redis.address import parse_address
from streamedge.shared_log.redis.connections import Argument, Pool
from streamedge.shared_log.redis.lines import parse_presences, parsing
from streamedge.shared_log.redis.log_reader import LogReader
from streamedge.shared_log.redis.presence_table import PresenceTable
from streamedge.shared_log.redis.settings import find_problems

BATCH_ENTRIES_MAX = 500
BATCH_BYTES_MAX = 1 << 20
SNAPSHOT_TIMEOUT_S = 10.0
_POSITIONS_MAX = 1000  # in one call


class RedisEngine:
    """Implements ``shared_log.engine.Engine``."""

    def __init__(self, url: str, prefix: str, client_name: str) -> None:
        """Connects with the first call. Raises EngineError for an invalid URL."""
        address = parse_address(url, client_name)
        self.place = address.place
        """Where the engine listens, without user and password."""
        key = f"{{{prefix}}}"
        self._log, self._ids, self._state = f"{key}:log", f"{key}:ids", f"{key}:state"
        self._resources, self._members = f"{key}:resources", f"{key}:members"
        self._names, self._edge = f"{key}:edges", f"{key}:edge:"
        self._appended, self._presence = f"{key}:appended", f"{key}:presence"
        self._pool = Pool(address)
        self._reader = LogReader(address, self._log, self._appended)
        self._table = PresenceTable(
            address,
            state=self._state,
            names=self._names,
            key_prefix=self._edge,
            channel=self._presence,
        )

    async def append(
        self,
        entry: Entry,
        *,
        line: int,
        documents: Mapping[str, str | None] | None = None,
        expected_resources_position: int | None = None,
    ) -> int:
        expected = ""
        if expected_resources_position is not None:
            expected = format_position(expected_resources_position)
        kind = "members" if entry.kind is EntryKind.MEMBER else "resources"
        texts = {name: text or "" for name, text in (documents or {}).items()}
        (position,) = await self._append([entry], line, expected, kind, texts)
        return position

    async def append_many(self, entries: Sequence[Entry], *, line: int) -> list[int]:
        positions: list[int] = []
        for batch in _batches(entries):
            positions += await self._append(batch, line, "", "resources", {})
        return positions

    async def read_after(
        self, position: int, entry_id: str, *, count: int, wait_s: float
    ) -> list[PlacedEntry]:
        return await self._reader.read_after(position, entry_id, count, wait_s)

    async def entry_ids(self, positions: Sequence[int]) -> list[str | None]:
        ids: list[str | None] = []
        for first in range(0, len(positions), _POSITIONS_MAX):
            texts = [format_position(each) for each in positions[first : first + _POSITIONS_MAX]]
            reply: bytes = await self._pool.run(scripts.ENTRY_IDS, [self._log], *texts)
            with parsing():
                ids += [each.decode() or None for each in reply.split(b"\n")]
        return ids

    async def bounds(self) -> Bounds:
        reply: bytes = await self._pool.run(scripts.BOUNDS, [self._log])
        with parsing():
            first, last = reply.decode().split(" ")
            return Bounds(parse_position(first), parse_position(last))

    async def begin_line(self, line: int, entry: Entry, snapshot: Snapshot) -> bool:
        members = {
            name: f"{format_position(document.order)} {document.body}"
            for name, document in snapshot.members.items()
        }
        begun: int = await self._pool.run(
            scripts.BEGIN_LINE,
            self._document_keys(),
            self._appended,
            line,
            entry.id,
            encode_entry(entry),
            format_position(snapshot.resources_position),
            len(snapshot.resources),
            *_pairs(snapshot.resources),
            *_pairs(members),
        )
        return begun == 1

    async def snapshot(self) -> Snapshot:
        keys = [self._log, self._state, self._resources, self._members]
        reply: list[Any] = await self._pool.run(
            scripts.SNAPSHOT, keys, timeout_s=SNAPSHOT_TIMEOUT_S
        )
        position, entry_id, resources_position, resources, members = reply
        with parsing():
            return Snapshot(
                position=parse_position(position.decode()),
                entry_id=entry_id.decode(),
                resources_position=parse_position(resources_position.decode()),
                resources=_mapping(resources),
                members={name: _member(text) for name, text in _mapping(members).items()},
            )

    async def report(
        self, presence: Presence, lease_s: float, *, applied: int = START, entry_id: str = ""
    ) -> Presences:
        reply: bytes = await self._pool.run(
            scripts.REPORT,
            [self._state, self._names, self._edge + presence.name, self._log],
            self._presence,
            self._edge,
            presence.name,
            math.ceil(lease_s * 1000),
            presence.encode(),
            format_position(applied),
            entry_id,
            replace(presence, position=START).encode(),
        )
        with parsing():
            complete_ms, data_set, lasting = parse_presences(reply)
        by_name = self._table.beside({each.name: each for _, each in lasting})
        return Presences(by_name, complete_ms == 0, data_set)

    async def withdraw(self, name: str) -> None:
        keys = [self._state, self._names, self._edge + name]
        await self._pool.run(scripts.WITHDRAW, keys, self._presence, name)

    async def presence_after(self, wait_s: float) -> Presences:
        return await self._table.after(wait_s)

    async def trim(self, position: int, *, keep: int = ENTRIES_KEPT) -> None:
        keys, before = [self._log, self._ids], format_position(position)
        while await self._pool.run(scripts.TRIM, keys, before, keep):
            pass

    async def problems(self) -> list[str]:
        async with self._pool.link() as link:
            return await find_problems(link)

    async def close(self) -> None:
        await self._reader.close()
        await self._table.close()
        await self._pool.close()

    def _document_keys(self) -> list[str]:
        return [self._log, self._ids, self._state, self._resources, self._members]

    async def _append(
        self,
        entries: Sequence[Entry],
        line: int,
        expected: str,
        kind: str,
        documents: Mapping[str, str],
    ) -> list[int]:
        """Appends entries in one step: all or none."""
        arguments: list[Argument] = [self._appended, line, expected, kind, len(documents)]
        arguments += _pairs(documents)
        for entry in entries:
            arguments += (entry.id, entry.kind.value, encode_entry(entry))
        reply: list[Any] = await self._pool.run(scripts.APPEND, self._document_keys(), *arguments)
        match reply:
            case [b"line", number]:
                raise LineError(number)
            case [b"conflict", position]:
                raise ConflictError(f"the newest change of resources is at {position.decode()}")
        with parsing():
            return [parse_position(position.decode()) for position in reply[1:]]


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The entries in their order, in parts that one call may carry."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        length = len(encode_entry(entry))
        if batch and (len(batch) == BATCH_ENTRIES_MAX or size + length > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += length
    if batch:
        yield batch


def _pairs(texts: Mapping[str, str]) -> list[str]:
    return [each for pair in texts.items() for each in pair]


def _mapping(pairs: Any) -> dict[str, str]:
    """A hash in a script's reply: names and texts in turn."""
    texts = [each.decode() for each in pairs]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _member(text: str) -> MemberDocument:
    order, _, body = text.partition(" ")
    return MemberDocument(parse_position(order), body)
