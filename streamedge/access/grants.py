"""Results of an access decision: a grant for a time and for networks, or a refusal. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from math import inf
from typing import NamedTuple

from streamedge.access.policy import Network

IpAddress = IPv4Address | IPv6Address

EXPIRED = "expired"


class Denied(NamedTuple):
    """A refusal; ``reason`` is a few words for the log, never for the viewer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a signature allows: from ``from_s`` until before ``until_s``, seconds of the epoch.

    ``networks``: the allowed client networks; empty allows any. ``key_id`` is "" if no signature is
    required.
    """

    until_s: float
    from_s: float
    networks: tuple[Network, ...]
    key_id: str

    def holds(self, address: IpAddress, now_s: float) -> bool:
        """Whether it allows ``address`` at ``now_s``. Called for each hit."""
        return self.from_s <= now_s < self.until_s and (
            not self.networks or _is_within(address, self.networks)
        )

    def denial_reason(self, now_s: float) -> str:
        """The reason for the log, if ``holds`` is False."""
        if now_s >= self.until_s:
            return EXPIRED
        if now_s < self.from_s:
            return "not yet valid"
        return "address is not allowed"


OPEN = Grant(inf, 0, (), "")


def _is_within(address: IpAddress, networks: tuple[Network, ...]) -> bool:
    # A dual-stack socket gives an IPv4 viewer's address as an IPv4-mapped IPv6 address.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
