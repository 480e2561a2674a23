"""Whether the shared log still has the history that an edge has applied, and what to do if not.

Pure. An engine may lose its newest entries (a failover to a replica that was behind) or all of them
(it was emptied), and it trims its oldest ones. The edge compares the id of the entry that it has
applied last with the id that the log has at that position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from streamedge.fleet.entries import EntryKind
from streamedge.fleet.position import START, line_of, position_at, sequence_of

REPUBLISHED_S = 3600.0
"""Lost entries that were applied longer ago count as applied by all edges."""


class History(Enum):
    """How the shared log relates to the history that an edge has applied."""

    CONTINUES = "continues"  # the log goes on after the edge's last entry
    LOST = "lost"  # the log no longer has that entry, or another one in its place
    TRIMMED = "trimmed"  # the log begins after that entry


class AppliedEntry(NamedTuple):
    """An entry that this edge has applied, ``applied_s`` by its own clock."""

    id: str
    kind: str
    applied_s: float


def compare_history(
    position: int, line: int, id_here: str, id_there: str | None, first: int, last: int
) -> History:
    """Compares an edge's last entry with the log.

    ``position`` and ``id_here``: of the edge's last entry, START and "" if the log has none of its
    entries. ``line``: the line that then comes next. ``id_there``: the id in the log at that
    position. ``first`` and ``last``: the ends of the log. At START the caller still has to read
    whether the log's first entry has none before it.
    """
    if last == START:
        return History.LOST
    if position == START:
        return History.CONTINUES if first == position_at(line, 0) else History.TRIMMED
    if id_there is not None and id_there == id_here:
        return History.CONTINUES
    # A log that begins with a line was emptied before: rarely, it was trimmed up to just there.
    is_emptied = line_of(first) > line_of(position) and sequence_of(first) == 0
    is_before = id_there is None and position < first
    return History.TRIMMED if is_before and not is_emptied else History.LOST


def is_next(position: int, following: int) -> bool:
    """Whether no entry is between two positions: numbers have no gaps, and a line begins at 0."""
    if line_of(position) == line_of(following):
        return sequence_of(following) == sequence_of(position) + 1
    return line_of(following) > line_of(position) and sequence_of(following) == 0


def are_consecutive(position: int, following: Iterable[int]) -> bool:
    """Whether no entry is missing between a position and those that follow."""
    for one in following:
        if not is_next(position, one):
            return False
        position = one
    return True


def newest_common(here: Sequence[tuple[int, str]], there: Sequence[str | None]) -> int | None:
    """The index of the newest entry up to which all are in the log, too; None without one.

    ``here``: positions and ids of this edge, the newest first; ``there``: the ids in the log at
    these positions. That the newest one is there is not enough: the log may have lost it with those
    before it, and have it again at the same number behind others.
    """
    common: int | None = None
    for index in reversed(range(len(here))):
        if there[index] != here[index][1]:
            break
        common = index
    return common


def to_republish(lost: Iterable[AppliedEntry], now_s: float) -> list[str]:
    """The ids of lost entries that are published again.

    Changes of resources always are: the newest documents are theirs, however old. The entry that
    began a line never is.
    """
    return [
        entry.id
        for entry in lost
        if entry.kind == EntryKind.RESOURCES
        or (entry.kind != EntryKind.LINE and now_s - entry.applied_s <= REPUBLISHED_S)
    ]
