"""Views of a fleet that a test decides: members, state and positions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamedge.control.announced_head import AnnouncedHead
from streamedge.fleet.members import Member
from streamedge.fleet.states import EdgeState

NEWEST = 1 << 62
"""A local position: nothing is newer."""


@dataclass
class StaticView:
    """A ``PeerView`` for one process. Its local log is never behind the shared one."""

    name: str
    members: Mapping[str, Member]
    previous_members: Mapping[str, Member] = field(default_factory=dict)
    state: EdgeState = EdgeState.UP
    applied: int = 0
    has_unplaced_rows: bool = False

    def refresh(self) -> None:
        """Nothing changes."""

    def apply_by(self, apply: Callable[[], object]) -> None:
        """Nothing changes."""

    def catch_up(self) -> None:
        """Nothing changes."""

    async def has_applied(self, position: int, within_s: float) -> bool:
        return self.applied >= position

    def local_position(self, position: int) -> int:
        return NEWEST

    def shared_position(self, local_position: int) -> int:
        return self.applied


class FileView:
    """A ``PeerView`` for an edge: a file that the test may rewrite while the edge runs.

    It is read again for each value. Beside it is the edge's folder, with the head of its local log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head = AnnouncedHead(path.with_suffix("") / "cache")

    def _read(self) -> dict[str, Any]:
        view: dict[str, Any] = json.loads(self._path.read_text())
        return view

    @property
    def name(self) -> str:
        return str(self._read()["name"])

    @property
    def members(self) -> dict[str, Member]:
        return members(self._read()["members"])

    @property
    def previous_members(self) -> dict[str, Member]:
        return members(self._read().get("previous", []))

    @property
    def state(self) -> EdgeState:
        return EdgeState(self._read().get("state", "up"))

    @property
    def applied(self) -> int:
        return int(self._read().get("applied", 0))

    @property
    def has_unplaced_rows(self) -> bool:
        return bool(self._read().get("unplaced", False))

    def refresh(self) -> None:
        """Each value is read when it is used."""

    def apply_by(self, apply: Callable[[], object]) -> None:
        """Each value is read when it is used."""

    def catch_up(self) -> None:
        """Each value is read when it is used."""

    async def has_applied(self, position: int, within_s: float) -> bool:
        return self.applied >= position

    def local_position(self, position: int) -> int:
        return self._head.position

    def shared_position(self, local_position: int) -> int:
        return self.applied


def members(peers: list[list[str]]) -> dict[str, Member]:
    """Members by name, from names and peer addresses."""
    return {name: Member(name, peer_address=address) for name, address in peers}


PRELUDE = """
import sys
sys.path.insert(0, {root!r})
import streamedge.process.worker_peers as worker_peers
from tests.support.fleet.static_view import FileView
from pathlib import Path
worker_peers.peer_view = lambda *_: FileView(Path({path!r}))
"""
