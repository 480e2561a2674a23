"""The status table of the workers, as every process sees it."""

from __future__ import annotations

import os

from streamedge.coordination.shared_state import WorkerStatus


def test_all_up_needs_every_worker() -> None:
    worker_status = WorkerStatus(2)
    assert (worker_status.workers_up, worker_status.all_up) == (0, False)
    worker_status.mark_up(1)
    worker_status.mark_up(1)
    assert (worker_status.workers_up, worker_status.all_up) == (1, False)
    worker_status.mark_up(0)
    assert (worker_status.workers_up, worker_status.all_up) == (2, True)
    worker_status.mark_down(0)
    assert (worker_status.workers_up, worker_status.all_up) == (1, False)


def test_edge_without_workers_has_all_up() -> None:
    assert WorkerStatus(0).all_up


def test_parent_sees_the_status_of_its_child() -> None:
    worker_status = WorkerStatus(1)
    child = os.fork()
    if child == 0:
        worker_status.mark_up(0)
        os._exit(0)
    os.waitpid(child, 0)
    assert worker_status.all_up


def test_position_is_applied_once_all_workers_that_are_up_have_noted_it() -> None:
    worker_status = WorkerStatus(3)
    assert worker_status.have_applied(7)
    worker_status.mark_up(0)
    worker_status.mark_up(1)
    worker_status.note_position(0, 7)
    assert not worker_status.have_applied(7)
    assert worker_status.have_applied(0)
    worker_status.note_position(1, 9)
    assert worker_status.have_applied(7)
    assert not worker_status.have_applied(8)
    worker_status.mark_down(0)
    assert worker_status.have_applied(8)
