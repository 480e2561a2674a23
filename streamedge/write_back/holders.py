"""Reads queued bodies from the edges that hold them, and the one that this edge holds for others.

The holder answers from its own queue alone, so no edge waits for another one's wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamedge.errors import OriginError
from streamedge.fleet.members import Role
from streamedge.fleet.pending import HeldWrite
from streamedge.keys import split_key
from streamedge.origin import (
    Fields,
    Origin,
    OriginHead,
    OriginRead,
    OriginRequest,
    OriginResponse,
    Version,
)
from streamedge.origin.objects import RequestedObject
from streamedge.origin.peer.client import PeerRefusal
from streamedge.origin.peer.protocol import (
    NOT_PENDING,
    AssetDescription,
    PeerHeader,
    PeerRequest,
    encode_request,
)
from streamedge.origin.peer.tier import Fleet
from streamedge.spans import Span
from streamedge.write_back.fleet_writes import HolderError, NotHeldError
from streamedge.write_back.queue import WriteQueue

_NO_RULES = (0.0, 0.0, 0.0, 0.0, False, ())
_READ_FIELDS = frozenset({"if-match", "if-unmodified-since", "range"})


class PeerHolders:
    """The holders of queued writes, over the connections of ``fleet``."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def read(self, write: HeldWrite, span: Span | None) -> OriginRead:
        """As ``Holders.read``."""
        label = f"edge {write.holder}"
        upstream = _HolderUpstream(self._fleet, write)
        held = RequestedObject(label, upstream, OriginRequest("GET", write.name))
        try:
            read = await held.read(write.name, span, if_match=_version(write))
        except OriginError as exc:
            raise HolderError(str(exc)) from exc
        if read is None:
            raise AssertionError("no version was excluded")
        return read

    async def holds(self, write: HeldWrite) -> bool:
        """Whether the holder still has a write. Raises HolderError if it does not answer."""
        request = OriginRequest("HEAD", write.name)
        try:
            (await _HolderUpstream(self._fleet, write).send(request)).close()
        except NotHeldError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _HolderUpstream:
    """An ``Upstream`` that gets one queued body."""

    fleet: Fleet
    write: HeldWrite

    async def send(self, request: OriginRequest) -> OriginResponse:
        """Raises HolderError."""
        fleet, write = self.fleet, self.write
        member = fleet.view.members.get(write.holder)
        if member is None or member.role is Role.REMOVED or not member.peer_address:
            raise HolderError("it is no member of the fleet that others can reach")
        if not fleet.clients.admits(member):
            raise HolderError("it is down")
        encoded = encode_request(_peer_request(write, request.method))
        if encoded is None:
            raise HolderError("the name of the object is too long")
        conditions: Fields = [one for one in request.fields if one[0].lower() in _READ_FIELDS]
        view = fleet.view
        outcome = await fleet.clients.send(
            member,
            request.method,
            PeerHeader(view.name, 0, view.applied, is_pending=True),
            encoded,
            conditions,
            view.local_position,
        )
        if isinstance(outcome, PeerRefusal):
            kind = NotHeldError if outcome.reason == NOT_PENDING else HolderError
            raise kind(outcome.reason)
        return outcome


class HeldObject:
    """One queued body of this edge, as an ``Origin``; the name is that of its file."""

    def __init__(self, bodies: Origin, token: str, version: Version) -> None:
        self._bodies = bodies
        self._token = token
        self._head = OriginHead(version, "application/octet-stream")

    async def head(self, _name: str) -> OriginHead:
        return self._head

    async def read(
        self,
        _name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """Reads the file; it has one version."""
        read = await self._bodies.read(self._token, span)
        return None if read is None else _HeldRead(self._head, read)

    async def close(self) -> None:
        """Does nothing: no file stays open between reads."""


class _HeldRead:
    def __init__(self, head: OriginHead, read: OriginRead) -> None:
        self.head = head
        self.span = read.span
        self.pieces = read.pieces
        self.close = read.close


class HeldHere:
    """The queued writes of this edge, for others."""

    def __init__(self, write_queue: WriteQueue, bodies: Origin) -> None:
        self._write_queue = write_queue
        self._bodies = bodies

    def find(self, key: str, version: Version) -> HeldObject | None:
        """The body of the newest queued write of an object, if it is this version. Raises
        WriteQueueError.
        """
        pending = self._write_queue.pending(key)
        if pending is None:
            return None
        here = Version(pending.etag, pending.size_bytes, int(pending.queued_s))
        if here != version:
            return None
        token = "" if pending.path is None else pending.path.name
        return HeldObject(self._bodies, token, here)


def _version(write: HeldWrite) -> Version:
    return Version(write.etag, write.size_bytes, int(write.queued_s))


def _peer_request(write: HeldWrite, method: str) -> PeerRequest:
    identity = split_key(write.key)[0]
    asset = AssetDescription(identity, write.origin, write.key, write.name, _NO_RULES)
    return PeerRequest(asset, method, version=_version(write))
