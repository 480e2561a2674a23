"""The simulated network: delays between places, loss, cuts."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping

import simpy

from streamedge.fleet.nearest import Location, distance_km

ENGINE = "engine"
RTO_S = 0.2  # Linux's least time before the first retransmission (tcp_rto_min)
RETRANSMISSIONS_MAX = 6
FIBRE_KM_S = 200_000.0
DETOUR = 1.5
HOP_S = 0.0002

CITIES: Mapping[str, Location] = {
    "fra": (50.11, 8.68),
    "ams": (52.37, 4.90),
    "lon": (51.51, -0.13),
    "nyc": (40.71, -74.01),
    "sjc": (37.34, -121.89),
    "gru": (-23.55, -46.63),
    "jnb": (-26.20, 28.05),
    "bom": (19.08, 72.88),
    "sin": (1.35, 103.82),
    "nrt": (35.68, 139.69),
}


def city_delay_s(first: Location, second: Location) -> float:
    """One way, by fibre that is DETOUR times as long as the great circle."""
    return HOP_S + DETOUR * distance_km(first, second) / FIBRE_KM_S


class Network:
    """Delivers messages. ``delay_s``: one way between two names, without jitter.

    ``loss``: of each transmission; it comes again after RTO_S, twice as late each time. Messages
    of one connection stay in order; those of different ones overtake each other.
    """

    def __init__(
        self,
        env: simpy.Environment,
        chance: random.Random,
        delay_s: Callable[[str, str], float],
        *,
        loss: float = 0.0,
        jitter: float = 0.1,
    ) -> None:
        self.env = env
        self.loss = loss
        self._chance = chance
        self._delay_s = delay_s
        self._jitter = jitter
        self._cut: dict[frozenset[str], int] = {}
        self._arrivals: dict[Hashable, float] = {}

    def cut(self, first: str, second: str) -> None:
        """Ends what two names hear from each other; counted."""
        pair = frozenset((first, second))
        self._cut[pair] = self._cut.get(pair, 0) + 1

    def mend(self, first: str, second: str) -> None:
        pair = frozenset((first, second))
        self._cut[pair] = max(0, self._cut.get(pair, 0) - 1)

    def reaches(self, first: str, second: str) -> bool:
        return not self._cut.get(frozenset((first, second)))

    def send(
        self, sender: str, receiver: str, deliver: Callable[[], None], connection: Hashable = None
    ) -> None:
        """Calls ``deliver`` when a message arrives; never if the two are cut off by then."""
        if not self.reaches(sender, receiver):
            return
        seconds = self._delay_s(sender, receiver) * (
            1 + self._jitter * self._chance.expovariate(1.0)
        )
        rto_s = RTO_S
        for _again in range(RETRANSMISSIONS_MAX):
            if not self.loss or self._chance.random() >= self.loss:
                break
            seconds += rto_s
            rto_s *= 2
        at_s = self.env.now + seconds
        if connection is not None:
            at_s = max(at_s, self._arrivals.get(connection, 0.0))
            self._arrivals[connection] = at_s

        def arrive(_event: simpy.Event) -> None:
            if self.reaches(sender, receiver):
                deliver()

        self.env.timeout(at_s - self.env.now).callbacks.append(arrive)
