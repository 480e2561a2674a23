"""What holds for fleets under every fault: see ``tests.support.fleet.simulation.fleet``.

- After the faults all edges have applied the same entries at the same positions, each once, and
  every acknowledged invalidation; they have the same resources, and no acknowledged change is lost.
- No edge serves what an invalidation covers once it was Completed, edges that are cut off, stopped
  or restarted included.
- No edges wait for each other, and requests between them go to lower ranks only.
- Clocks that are a minute wrong and drift by 1 % change none of this.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from tests.support.fleet.simulation.edge import Timing
from tests.support.fleet.simulation.fleet import (
    CUT,
    FAIL_OVER,
    REPLACE,
    STOP,
    TRIM,
    WEIGH,
    Fault,
    Plan,
    run_plan,
    simulated,
)
from tests.support.fleet.simulation.plans import plans

# Thousands of transactions: on a disk each would wait for it.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def violations(plan: Plan) -> list[str]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        return run_plan(plan, Path(folder))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(plans())
def test_fleet_keeps_its_promises_under_every_fault(plan: Plan) -> None:
    assert violations(plan) == []


def test_edge_behind_a_trimmed_log_publishes_again_what_the_log_may_have_lost() -> None:
    """The log loses an entry of one edge, and is trimmed before that edge notices the loss."""
    faults = (
        Fault(FAIL_OVER, 3.0135),
        Fault(WEIGH, 4.9226, amount=5),
        Fault(FAIL_OVER, 8.3252),
        Fault(FAIL_OVER, 9.9904, amount=20),
        Fault(TRIM, 11.2564, amount=5),
        Fault(TRIM, 13.1825, amount=2),
        Fault(REPLACE, 14.3660, edge=3),
        Fault(REPLACE, 15.4759, edge=2),
    )
    timings = (
        Timing(4.0, skew_s=-60.0, thread_s=0.0005, worker_s=0.05),
        Timing(4.0, skew_s=60.0, rate=0.99, thread_s=0.0005),
        Timing(4.0, skew_s=60.0, thread_s=0.005, worker_s=0.05),
    )
    plan = Plan(timings, faults, duration_s=20.0, seed=29003, loss=0.1)
    assert violations(plan) == []


def test_fleet_without_faults_completes_and_serves(tmp_path: Path) -> None:
    """The model does what it says: without it the properties would hold for an empty fleet."""
    plan = Plan(tuple(Timing() for _edge in range(3)), seed=1)
    with simulated(plan, tmp_path) as fleet:
        assert fleet.run() == []
    assert len(fleet.invalidations) > 10
    assert all(one.completed_s is not None for one in fleet.invalidations[:-2])
    assert fleet.answers > 300
    assert fleet.tier.counts["hits"] > fleet.tier.counts["from_origin"] > 0
    assert fleet.tier.counts["from_peers"] > 0
    assert sum(len(etags) for etags in fleet.changes.values()) > 3


def test_same_plan_gives_the_same_run(tmp_path: Path) -> None:
    faults = (Fault(CUT, 5.0, 12.0, 1), Fault(FAIL_OVER, 10.0, amount=5), Fault(STOP, 15.0, 5.0))
    plan = Plan(tuple(Timing(lease_s=4.0) for _edge in range(3)), faults, seed=2)
    runs = []
    for number in range(2):
        with simulated(plan, tmp_path / str(number)) as fleet:
            assert fleet.run() == []
        completed = [one.completed_s for one in fleet.invalidations]
        runs.append((fleet.env.now, fleet.answers, completed))
    assert runs[0] == runs[1]
