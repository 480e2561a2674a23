"""Whether the edge serves: the data of ``/healthz``."""

from __future__ import annotations

from dataclasses import dataclass

from streamedge.coordination.heartbeats import LATE_S, Heartbeats
from streamedge.coordination.shared_state import WorkerStatus


@dataclass(frozen=True, slots=True)
class Health:
    """``is_ready``: every worker has all its listeners open and a running event loop.

    ``workers`` is the number of these workers. ``problems`` are sentences. A problem of the cache
    folder does not make the edge unready, because it serves without a cache.
    """

    is_ready: bool
    workers: int
    problems: list[str]


def check_health(worker_status: WorkerStatus, heartbeats: Heartbeats) -> Health:
    """The state of the workers now."""
    not_serving, problems = 0, []
    for worker in worker_status.workers:
        name, silent_s = heartbeats.names[worker], heartbeats.silent_s(worker)
        if not worker_status.is_up(worker):
            problems.append(f"{name} is not up")
            not_serving += 1
        elif silent_s > LATE_S:
            problems.append(f"{name} has not run its event loop for {silent_s:.0f} s")
            not_serving += 1
        if heartbeats.lacks_folder(worker):
            problems.append(f"{name} cannot use the cache folder: the log says why")
    return Health(not_serving == 0, len(worker_status.workers) - not_serving, problems)
