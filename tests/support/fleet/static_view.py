"""A view of a fleet that the test decides: members, state and positions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamedge.fleet.members import Member
from streamedge.fleet.states import EdgeState

VIEW_VARIABLE = "STREAMEDGE_TEST_VIEW"


@dataclass
class StaticView:
    """A ``PeerView``. The local log has the positions of the shared one."""

    name: str
    members: Mapping[str, Member]
    previous_members: Mapping[str, Member] = field(default_factory=dict)
    state: EdgeState = EdgeState.UP
    applied: int = 0
    has_unplaced_rows: bool = False

    async def has_applied(self, position: int, within_s: float) -> bool:
        return self.applied >= position

    def local_position(self, position: int) -> int:
        return 1 << 62

    def shared_position(self, local_position: int) -> int:
        return self.applied


class FileView(StaticView):
    """A view in a file that the test rewrites while the edge runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__("", {})
        self._read()

    def _read(self) -> None:
        view = json.loads(self._path.read_text())
        self.name = view["name"]
        self.members = _members(view["members"])
        self.previous_members = _members(view.get("previous", []))
        self.state = EdgeState(view.get("state", "up"))
        self.applied = view.get("applied", 0)
        self.has_unplaced_rows = view.get("unplaced", False)

    async def has_applied(self, position: int, within_s: float) -> bool:
        self._read()
        return await super().has_applied(position, within_s)


def _members(peers: list[list[str]]) -> dict[str, Member]:
    return {name: Member(name, peer_address=address) for name, address in peers}


def view_from_environment() -> FileView:
    """The view in the file that the environment names."""
    return FileView(Path(os.environ[VIEW_VARIABLE]))


PRELUDE = """
import sys
sys.path.insert(0, {root!r})
import streamedge.process.worker_peers as worker_peers
from tests.support.fleet.static_view import FileView
from pathlib import Path
worker_peers.peer_view = lambda *_: FileView(Path({path!r}))
"""
