"""Each mechanism is needed: without it, a simulated fleet violates a property.

Each case is a plan that violates nothing, and does once the mechanism is broken on purpose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from streamedge.fleet import lease
from streamedge.fleet.attendance import Attendance
from streamedge.fleet.history import History
from streamedge.shared_log import follower
from tests.fleet.simulation.test_properties import violations
from tests.support.fleet.memory_engine import MemoryEngine, MemoryServer
from tests.support.fleet.simulation.edge import Timing
from tests.support.fleet.simulation.fleet import (
    CRASH,
    CUT,
    FAIL_OVER,
    STOP,
    Fault,
    Plan,
)
from tests.support.fleet.simulation.tier import Mutations

Break = Callable[[pytest.MonkeyPatch], object]

LEASE_S = 4.0
FLEET = Plan(
    tuple(Timing(lease_s=LEASE_S) for _edge in range(3)), invalidate_s=0.3, view_s=0.05, seed=1
)
CUT_OFF = replace(FLEET, faults=tuple(Fault(CUT, at_s, 2 * LEASE_S, 1) for at_s in (6.0, 18.0)))
STOPPED = replace(FLEET, faults=tuple(Fault(STOP, at_s, 2 * LEASE_S, 1) for at_s in (6.0, 18.0)))
FAILED_OVER = replace(
    FLEET,
    delay_s=0.08,
    seed=4,
    faults=tuple(Fault(FAIL_OVER, at_s, amount=20) for at_s in (15.0, 20.0)),
)
SLOW = replace(FLEET, delay_s=0.08, loss=0.1)


def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge counts on its lease for longer than the others wait for it."""
    monkeypatch.setattr(lease, "usable_lease_s", lambda lease_s: 1.5 * lease_s)


def no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are compared, ids are not."""
    monkeypatch.setattr(follower, "compare_history", lambda *_values: History.CONTINUES)
    monkeypatch.setattr(
        MemoryEngine,
        "entries_after",
        lambda self, position, _id, count: [
            one for one in _read(self.server) if one.position > position
        ][:count],
    )


def _read(server: MemoryServer) -> list[Any]:
    from streamedge.fleet.entries import PlacedEntry, decode_entry

    return [
        PlacedEntry(one.position, one.id, decode_entry(one.text)) for one in server.contents.log
    ]


def no_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalidation is Completed once this edge has applied it."""
    monkeypatch.setattr(Attendance, "completed", lambda _self, own: own)


def no_expected_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of resources is appended whatever came before it."""
    append = MemoryEngine.append

    async def append_always(self: MemoryEngine, *values: Any, **options: Any) -> int:
        options["expected_resources_position"] = None
        return await append(self, *values, **options)

    monkeypatch.setattr(MemoryEngine, "append", append_always)


def no_known_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine appends an entry as often as it gets it."""
    source = inspect.getsource(MemoryEngine.append)
    assert "one.id == entry.id" in source
    append = MemoryEngine.append

    async def append_again(self: MemoryEngine, entry: Any, **options: Any) -> int:
        log = self.server.contents.log
        if any(one.id == entry.id for one in log):
            self.server.add(entry, log[-1].position + 1)
            return self.server.contents.log[-1].position
        return await append(self, entry, **options)

    monkeypatch.setattr(MemoryEngine, "append", append_again)


def nothing(_monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the plan is mutated."""


CASES: dict[str, tuple[Plan, Break, Mutations]] = {
    "lease margin": (CUT_OFF, no_margin, Mutations()),
    "clock at requests": (STOPPED, nothing, Mutations(ignores_clock=True)),
    "wait for others": (SLOW, no_wait_for_others, Mutations()),
    "ids of entries": (
        replace(FAILED_OVER, seed=12),
        no_comparison,
        Mutations(ignores_history=True),
    ),
    "need": (SLOW, nothing, Mutations(ignores_need=True)),
    "unplaced rows": (SLOW, nothing, Mutations(ignores_unplaced=True)),
    "order of changes": (
        replace(SLOW, change_s=0.1),
        no_expected_position,
        Mutations(),
    ),
    "entries once": (
        replace(SLOW, faults=(Fault(CRASH, 8.0, 1.0), Fault(CUT, 12.0, 2.0)), seed=9),
        no_known_ids,
        Mutations(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fleet_without_a_mechanism_violates_a_property(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, break_mechanism, mutations = CASES[name]
    assert violations(plan) == []
    break_mechanism(monkeypatch)
    assert violations(replace(plan, mutations=mutations)) != []
