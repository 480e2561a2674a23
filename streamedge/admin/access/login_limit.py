"""How often an address may try to log in. Pure.

An IPv6 client usually has all addresses of a /64 network, which therefore count as one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from ipaddress import IPv6Address, IPv6Network

from streamedge.access.client_address import parse_address

TRIES = 5
WITHIN_S = 60.0
ADDRESSES_MAX = 4096


class LoginLimit:
    """The failed tries of each address within WITHIN_S. ``now_s`` is monotonic."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tries)

    def wait_s(self, address: str, now_s: float) -> float:
        """Seconds until the address may try again; 0: now."""
        tries = self._tries.get(network_of(address))
        while tries and now_s - tries[0] >= WITHIN_S:
            tries.popleft()
        if not tries or len(tries) < TRIES:
            return 0.0
        return tries[0] + WITHIN_S - now_s

    def note(self, address: str, now_s: float) -> None:
        """Counts a try, before its password is checked. The oldest addresses are forgotten."""
        key = network_of(address)
        self._tries.setdefault(key, deque(maxlen=TRIES)).append(now_s)
        self._tries.move_to_end(key)
        if len(self._tries) > ADDRESSES_MAX:
            self._tries.popitem(last=False)

    def forgive(self, address: str) -> None:
        """Takes back the newest try: it had the right password."""
        key = network_of(address)
        tries = self._tries.get(key)
        if tries:
            tries.pop()
        if not tries:
            self._tries.pop(key, None)


def network_of(address: str) -> str:
    """The network whose tries count together: an IPv4 address, or a /64 of IPv6."""
    parsed = parse_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)
