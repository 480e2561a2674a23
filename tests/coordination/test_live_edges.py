"""The live edges in shared memory."""

from __future__ import annotations

import os

from streamedge.coordination.live_edges import SharedLiveEdges
from streamedge.fleet.nearest import LiveEdges, live_edges
from tests.support.fleet.places import EDGES


def test_edges_of_the_control_process_are_read_in_a_worker() -> None:
    shared = SharedLiveEdges()
    assert shared.read() == LiveEdges()
    published = live_edges(EDGES, ["tyo-1"])

    child = os.fork()
    if not child:
        shared.publish(published)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    assert shared.read() == published
    assert shared.read() is shared.read()
