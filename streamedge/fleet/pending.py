"""Queued writes of a fleet's edges: the bodies of PENDING entries, and the order of sending. Pure.

The edge that answered a write holds it until its origin has it; the other edges read the object
from that *holder*. If several edges hold writes of one object, the last one in the shared log is
the object's state. The writes are sent in the order of the shared log, too: one that is later waits
for the earlier ones. It does not wait for an edge that cannot be reached for long: then it
*overtakes* the earlier writes, which are never sent afterwards, because they would undo it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

Fields = tuple[tuple[str, str], ...]


class PendingState(StrEnum):
    """What a PENDING entry says about the write with its key and serial, or about the fleet."""

    QUEUED = "queued"  # its holder has it, the origin does not
    SENT = "sent"
    CONFLICT = "conflict"  # a dead letter: readers get the origin's object again
    FAILED = "failed"  # as CONFLICT
    SUPERSEDED = "superseded"  # not sent, because a later write overtook it
    OVERTAKES = "overtakes"  # earlier writes of the object are not sent any more
    REQUESTED = "requested"  # an edge has missed entries: holders publish their queued writes again


@dataclass(frozen=True, slots=True)
class HeldWrite:
    """A queued write as the shared log describes it.

    ``key``: the asset key of its object. ``serial``: its number in the holder's queue. ``since``:
    the position that orders it among the writes of the object. ``fields``: those that readers get.
    ``is_overtaken``: a later write was sent in its place; it is neither read nor sent.
    """

    key: str
    holder: str
    serial: int
    origin: str
    name: str
    is_delete: bool
    etag: str
    size_bytes: int
    queued_s: float
    fields: Fields
    since: int = 0
    is_overtaken: bool = False

    def body(self) -> dict[str, Any]:
        """The body of a QUEUED entry. ``since`` is left out where the entry's place decides."""
        body: dict[str, Any] = {
            "key": self.key,
            "state": PendingState.QUEUED.value,
            "serial": self.serial,
            "origin": self.origin,
            "name": self.name,
            "kind": "delete" if self.is_delete else "put",
            "etag": self.etag,
            "size_bytes": self.size_bytes,
            "queued_s": self.queued_s,
            "fields": [list(field) for field in self.fields],
        }
        return body | {"since": self.since} if self.since else body


def end_body(key: str, serial: int, state: PendingState) -> dict[str, Any]:
    """The body of an entry of another state: the write has ended, or overtakes."""
    return {"key": key, "serial": serial, "state": state.value}


def state_of(body: Mapping[str, Any]) -> PendingState | None:
    """The state in the body of a PENDING entry; None: unknown."""
    try:
        return PendingState(str(body.get("state")))
    except ValueError:
        return None


def held_write_of(body: Mapping[str, Any], holder: str, position: int) -> HeldWrite | None:
    """The write in the body of a QUEUED entry at a position; None if it is not one."""
    try:
        fields = tuple((str(name), str(value)) for name, value in body.get("fields", ()))
        write = HeldWrite(
            key=str(body["key"]),
            holder=holder,
            serial=int(body["serial"]),
            origin=str(body["origin"]),
            name=str(body["name"]),
            is_delete=body["kind"] == "delete",
            etag=str(body["etag"]),
            size_bytes=int(body["size_bytes"]),
            queued_s=float(body["queued_s"]),
            fields=fields,
            since=int(body.get("since", position)),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return write if write.key and write.size_bytes >= 0 else None


class Turn(Enum):
    """Whether a queued write may be sent to its origin now."""

    SEND = "send"
    WAIT = "wait"  # an earlier write of another edge goes first
    OVERTAKE = "overtake"  # the holders of all earlier writes cannot be reached
    SUPERSEDED = "superseded"  # never: a later write has overtaken it


def turn_of(
    serial: int,
    holder: str,
    writes: Sequence[HeldWrite],
    unreachable: Iterable[str],
    *,
    waits_for_place: bool,
) -> Turn:
    """The turn of a write in the queue of ``holder``.

    ``writes``: all writes of the object in the shared log. ``unreachable``: edges that have not
    answered for long. ``waits_for_place``: the engine answers, so the write gets a place soon.
    """
    own = next((write for write in writes if write.holder == holder), None)
    others = [write for write in writes if write.holder != holder and not write.is_overtaken]
    if own is None or own.serial < serial:
        return Turn.WAIT if waits_for_place or others else Turn.SEND
    if own.serial > serial:
        return Turn.SEND  # a later write of this edge follows, and has its place
    if own.is_overtaken:
        return Turn.SUPERSEDED
    earlier = {write.holder for write in others if write.since < own.since}
    if not earlier:
        return Turn.SEND
    return Turn.OVERTAKE if earlier <= set(unreachable) else Turn.WAIT
