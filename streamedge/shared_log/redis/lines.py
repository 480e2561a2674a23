"""The lines that scripts return and send: entries and presences. Pure.

What else may write to the engine is unknown, so every function raises ValueError for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from streamedge.fleet.entries import PlacedEntry, decode_entry
from streamedge.fleet.members import Presence, decode_presence
from streamedge.fleet.position import parse_position
from streamedge.shared_log.engine import EngineError


class EntryLine(NamedTuple):
    """An entry: where it is, its id, the id of the entry before it, and its JSON; None if it was
    too long to be pushed."""

    position: int
    id: str
    after: str
    text: bytes | None

    def placed(self) -> PlacedEntry:
        """As readers get it. Raises ValueError without its JSON."""
        if self.text is None:
            raise ValueError("the entry was announced without its content")
        return PlacedEntry(self.position, self.id, decode_entry(self.text))


class PresenceLine(NamedTuple):
    """A report; ``lease_ms`` is 0 for an edge that has stopped. ``presence`` is None if another
    version of the program wrote it, which cannot be read here."""

    complete_ms: int
    name: str
    lease_ms: int
    presence: Presence | None


def parse_entry_line(line: bytes) -> EntryLine:
    """Parses what format_entry and add in common.lua write."""
    position, entry_id, after, *text = line.split(b" ", 3)
    return EntryLine(
        parse_position(position.decode()),
        entry_id.decode(),
        after.decode(),
        text[0] if text else None,
    )


def parse_presence_line(line: bytes) -> PresenceLine:
    """Parses what report.lua and withdraw.lua send."""
    complete_ms, name, lease_ms, text = line.split(b" ", 3)
    return PresenceLine(int(complete_ms), name.decode(), int(lease_ms), decode_presence(text))


def name_in_presence_line(line: bytes) -> bytes:
    """The edge of such a line, without the rest of it; of something else, anything."""
    return line.partition(b" ")[2].partition(b" ")[0]


def parse_presences(reply: bytes) -> tuple[int, str, list[tuple[int, Presence]]]:
    """What report.lua and presences.lua return: milliseconds until presences are complete; the
    name of the data set; each presence with the milliseconds that are left of its lease.

    A presence that cannot be read is missing, so they are not complete while it lasts.
    """
    first, *lines = reply.split(b"\n")
    first, _, data_set = first.partition(b" ")
    complete_ms = int(first)
    lasting = []
    for line in lines:
        left_ms, _, text = line.partition(b" ")
        presence = decode_presence(text)
        if presence is not None:
            lasting.append((int(left_ms), presence))
        elif line:
            complete_ms = max(complete_ms, int(left_ms))
    return complete_ms, data_set.decode(), lasting


@contextmanager
def parsing() -> Iterator[None]:
    """A ValueError in the block is an EngineError."""
    try:
        yield
    except ValueError as error:
        raise EngineError(
            "the engine holds data of something else under the keys of the shared log; set another"
            " fleet.prefix"
        ) from error
