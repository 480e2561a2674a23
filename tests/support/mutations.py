"""Changes of bytes for tests of parsers: small ones, at any place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st


class Mutation(NamedTuple):
    """Replaces up to ``removed`` bytes at a place, which is a share of the bytes, by others."""

    place: float
    removed: int
    inserted: bytes


def mutations(pieces: Sequence[bytes]) -> st.SearchStrategy[Mutation]:
    """Mutations that insert one of ``pieces``, or a few other bytes."""
    return st.builds(
        Mutation,
        st.floats(0, 1),
        st.sampled_from([0, 0, 1, 2, 40]),
        st.sampled_from(pieces) | st.binary(max_size=4),
    )


def mutated(data: bytes, changes: Sequence[Mutation]) -> bytes:
    for place, removed, inserted in changes:
        at = int(place * len(data))
        data = data[:at] + inserted + data[at + removed :]
    return data
