"""The live edges of the fleet, and which of them each viewer uses: in memory that workers share.

The control process writes the edges whenever presences change; workers read them. Each worker
writes which edge it has chosen for a viewer, so that all workers send a viewer to the same one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from streamedge.fleet.nearest import LiveEdges, decode_live_edges
from streamedge.ops.shared_buffer import SharedBuffer
from streamedge.ops.shared_words import SharedWords

ASSIGNMENTS = 65_536  # the viewers that are remembered; 512 KiB
ASSIGNMENT_S = 600.0

_UNIT_S = 10.0
_TIME_BITS, _MEMBER_BITS = 16, 24


class SharedLiveEdges:
    """Created before the processes are forked, in a fleet of more than one edge."""

    def __init__(self, descriptors: Sequence[int] = ()) -> None:
        """``descriptors``: of the memory of processes that run already (``process.handover``)."""
        self._buffer = (
            SharedBuffer.adopt(descriptors[:-1])
            if descriptors
            else SharedBuffer("streamedge-live-edges")
        )
        self._version = 0
        self._edges = LiveEdges()
        self.assignments = Assignments(SharedWords.adopt(descriptors[-1]) if descriptors else None)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those of the memory."""
        return (*self._buffer.descriptors, self.assignments.descriptor)

    def publish(self, edges: LiveEdges) -> None:
        """Replaces the edges that all workers see. Raises OSError."""
        self._buffer.write(edges.encode())

    def read(self) -> LiveEdges:
        """The edges that were published last; decoded again only if they have changed."""
        version = self._buffer.version
        if version != self._version:
            self._edges = decode_live_edges(self._buffer.read())
            self._version = version
        return self._edges


class Assignments:
    """Which edge each viewer was sent to last, for ``ASSIGNMENT_S`` after its last request.

    One word for each slot: a digest of the viewer, a digest of the edge, and the time. A later
    viewer with the same slot replaces an earlier one.
    """

    def __init__(self, shared: SharedWords | None = None) -> None:
        self._shared = shared or SharedWords("streamedge-assignments", ASSIGNMENTS)
        self._words = self._shared.words

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory."""
        return self._shared.descriptor

    def get(self, viewer: str, names: list[str], now_s: float) -> str | None:
        """The one of ``names`` that the viewer was sent to, if it is remembered."""
        slot, digest = _place(viewer)
        word = self._words[slot]
        if not word or word >> (_TIME_BITS + _MEMBER_BITS) != digest:
            return None
        age = (_now(now_s) - word) & ((1 << _TIME_BITS) - 1)
        if age * _UNIT_S > ASSIGNMENT_S:
            return None
        member = word >> _TIME_BITS & ((1 << _MEMBER_BITS) - 1)
        return next((name for name in names if _member(name) == member), None)

    def put(self, viewer: str, name: str, now_s: float) -> None:
        """Remembers that the viewer is sent to an edge now."""
        slot, digest = _place(viewer)
        self._words[slot] = (
            digest << (_TIME_BITS + _MEMBER_BITS) | _member(name) << _TIME_BITS | _now(now_s)
        )


def _place(viewer: str) -> tuple[int, int]:
    """The slot and the digest of a viewer; the digest is not 0."""
    text = viewer.encode()
    slot = zlib.crc32(text) % ASSIGNMENTS
    return slot, (zlib.adler32(text) & 0xFFFFFF) or 1


def _member(name: str) -> int:
    return zlib.crc32(name.encode()) & ((1 << _MEMBER_BITS) - 1)


def _now(now_s: float) -> int:
    return int(now_s / _UNIT_S) & ((1 << _TIME_BITS) - 1)
