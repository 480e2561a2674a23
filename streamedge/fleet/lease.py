"""How an edge decides on its own state: by its reports, its lease and the head of the log. Pure.

Times are of the edge's own monotonic clock. The rule that all of this serves: once an invalidation
is Completed, no edge uses what it covers. An edge that completes one waits for every edge whose
presence lasts and is not JOINING. So an edge may use cached objects without validation
(``Standing.hears_until_s``) only while

- it knows that others wait for it: a report in another state than JOINING has succeeded, and the
  lease counts from before that report was sent, with a margin; and
- it has applied the log up to a head that was read after such a report: entries that come behind
  that head wait for it; and
- the engine had lost nothing for a lease when that head was read, which a later report shows
  (``Presences.complete``). An engine that has failed over may lack completed entries. The edges
  that have applied them publish them again as soon as they notice, within a lease.

    report sent ─▸ report succeeded ─▸ head read ─▸ complete report ─▸ head applied by all workers
    └──────────────── lease, less the margin ────────────────────────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from streamedge.fleet.states import EdgeState, StateEvent, state_after

REPORTS_PER_LEASE = 4
WORKERS_LATE_S = 0.25
"""Within it a worker notices that the lease is over."""
CLOCK_DRIFT = 0.02
"""Of a lease: how much the clocks of edge and engine may drift apart."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of this edge, as it knows it.

    ``counted_until_s``: others wait for this edge at least until then. ``head``: the head of the
    log as it was read first after others began to wait; -1 before. ``is_whole``: the log had lost
    no entries by then, or has them again. ``is_current``: all workers have applied the log up to
    there.
    """

    state: EdgeState = EdgeState.JOINING
    counted_until_s: float = -inf
    head: int = -1
    is_whole: bool = False
    is_current: bool = False

    @property
    def hears_until_s(self) -> float:
        """Until when cached objects may be used without validation; -inf: they may not."""
        return self.counted_until_s if self.is_current else -inf


def continued(until_s: float) -> Standing:
    """The standing of a process that continues an edge that is UP, until its lease ends.

    The process before it has read a head within this lease, and all workers have applied it.
    """
    return Standing(EdgeState.UP, until_s, head=0, is_whole=True, is_current=True)


def usable_lease_s(lease_s: float) -> float:
    """The part of a lease that an edge counts on."""
    return lease_s * (1 - CLOCK_DRIFT) - WORKERS_LATE_S


def state_to_report(standing: Standing, *, is_near_head: bool) -> EdgeState:
    """The state for the next report.

    A joining edge that is near the head reports UP, so that others wait for it, before it counts
    itself as UP; from then on it reports UP again, so that they do not stop to wait.
    """
    is_counted = standing.counted_until_s != -inf
    if standing.state is EdgeState.JOINING and (is_near_head or is_counted):
        return EdgeState.UP
    return standing.state


def after_report(
    standing: Standing,
    reported: EdgeState,
    sent_s: float,
    now_s: float,
    lease_s: float,
    *,
    is_complete: bool,
) -> Standing:
    """After a report in the state ``reported``, sent at ``sent_s``, has succeeded.

    ``is_complete``: as the answer says, see ``Presences``.
    """
    until_s = sent_s + usable_lease_s(lease_s)
    if reported is EdgeState.JOINING:
        return replace(standing, counted_until_s=-inf, head=-1, is_whole=False, is_current=False)
    standing = at(standing, now_s)  # the lease may have ended while the report was under way
    if not standing.is_current:
        head = standing.head if is_complete else -1
        standing = replace(standing, head=head, is_whole=head >= 0)
    return at(replace(standing, counted_until_s=max(standing.counted_until_s, until_s)), now_s)


def after_head(standing: Standing, head: int, now_s: float) -> Standing:
    """After the position of the newest entry was read, behind the newest successful report."""
    standing = at(standing, now_s)
    if now_s >= standing.counted_until_s or standing.head >= 0:
        return standing
    return replace(standing, head=head)


def after_applying(standing: Standing, position: int, now_s: float) -> Standing:
    """After all workers have applied the log up to ``position``, of the history as it is now."""
    standing = at(standing, now_s)
    if standing.is_current or not standing.is_whole or position < standing.head:
        return standing
    state = state_after(standing.state, StateEvent.CAUGHT_UP)
    return replace(standing, state=state, is_current=True)


def at(standing: Standing, now_s: float) -> Standing:
    """At a later time: the lease may be over."""
    if now_s < standing.counted_until_s:
        return standing
    state = standing.state
    if standing.is_current:
        state = state_after(state, StateEvent.LEASE_OVER)
    return Standing(state)


def directed(standing: Standing, *, drains: bool) -> Standing:
    """After an operator or SIGTERM begins or ends a drain."""
    is_draining = standing.state is EdgeState.DRAINING
    if drains == is_draining:
        return standing
    event = StateEvent.DRAIN if drains else StateEvent.UNDRAIN
    state = state_after(standing.state, event)
    if standing.is_current:
        state = state_after(state, StateEvent.CAUGHT_UP)
    return replace(standing, state=state)
