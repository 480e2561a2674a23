"""Which members of a tier own a part of an object: weighted rendezvous hashing. Pure.

Every member gets a score for each key; the member with the highest score owns the key, the next
one replaces it if it fails. A new member takes keys from others in proportion to its weight, and no
key moves between two old members (Thaler and Ravishankar 1998; weights by -ln(u)/weight).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from streamedge.fleet.members import Member, Role
from streamedge.keys import join_key, key_bytes

PREVIOUS_OWNERS_S = 3600.0
"""How long after a change of members or tiers new owners request from the previous ones."""

_BITS = 64


def owners(names: Iterable[str], members: Mapping[str, Member]) -> list[Member]:
    """The members of a tier that own objects: those that serve, and that other edges can reach.

    ``names``: the tier's edges.
    """
    tier = (members[name] for name in names if name in members)
    return [one for one in tier if one.role is Role.SERVING and one.peer_address]


def ranks(key: str, extent: int, members: Sequence[Member]) -> list[Member]:
    """The members in the order in which requests for an extent of an object go to them.

    The order depends on the set of members only, not on their sequence.
    """
    part = key_bytes(join_key(key, str(extent)))
    return sorted(members, key=lambda member: (_cost(part, member), member.name))


def rank_of(name: str, key: str, extent: int, members: Sequence[Member]) -> int | None:
    """The rank of one member, 0 for the owner; None if it is not among the members."""
    names = [member.name for member in ranks(key, extent, members)]
    return names.index(name) if name in names else None


def _cost(part: bytes, member: Member) -> float:
    digest = hashlib.blake2b(part, digest_size=_BITS // 8, key=_hash_key(member.name)).digest()
    # In (0, 1): neither end has a finite logarithm times a weight.
    fraction = (int.from_bytes(digest, "big") + 0.5) / (1 << _BITS)
    return -math.log(fraction) / member.weight


def _hash_key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=32).digest()
