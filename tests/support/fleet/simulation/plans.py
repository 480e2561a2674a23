"""Random plans of simulated fleets, for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.fleet.simulation.edge import Timing
from tests.support.fleet.simulation.fleet import FAULTS, Fault, Plan

EDGES_MAX = 4
DURATION_S = 20.0
LEASES_S = (2.0, 4.0, 10.0)


def timings(lease_s: float) -> st.SearchStrategy[Timing]:
    """Clocks that are up to a minute wrong, and drift by up to 1 %."""
    return st.builds(
        Timing,
        lease_s=st.just(lease_s),
        skew_s=st.sampled_from((0.0, 60.0, -60.0)),
        rate=st.sampled_from((1.0, 1.01, 0.99)),
        thread_s=st.sampled_from((0.0005, 0.005)),
        worker_s=st.sampled_from((0.001, 0.05)),
    )


def faults(lease_s: float) -> st.SearchStrategy[Fault]:
    """One fault, shorter or longer than a lease."""
    return st.builds(
        Fault,
        kind=st.sampled_from(FAULTS),
        at_s=st.floats(0.0, DURATION_S),
        seconds=st.sampled_from((0.1, 1.0, 3.0, lease_s, 1.5 * lease_s)),
        edge=st.integers(0, EDGES_MAX - 1),
        amount=st.sampled_from((1, 2, 5, 20)),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A fleet of 2 to EDGES_MAX edges and what happens to it."""
    lease_s = draw(st.sampled_from(LEASES_S))
    return Plan(
        timings=tuple(draw(st.lists(timings(lease_s), min_size=2, max_size=EDGES_MAX))),
        faults=tuple(draw(st.lists(faults(lease_s), max_size=8))),
        duration_s=DURATION_S,
        seed=draw(st.integers(0, 1 << 16)),
        loss=draw(st.sampled_from((0.0, 0.01, 0.1))),
        delay_s=draw(st.sampled_from((0.0005, 0.01, 0.08))),
    )
