"""File descriptors are shared between connections, cache files and other files."""

from __future__ import annotations

import os

from hypothesis import example, given
from hypothesis import strategies as st

from streamedge.config.schema.config import Config
from streamedge.process.descriptors import (
    CONNECTION_DESCRIPTORS,
    EXTENT_DESCRIPTORS,
    OTHER_DESCRIPTORS,
    descriptor_limit,
    open_descriptors,
    share_descriptors,
)


def config(http: int, rtmp: int, extents: int) -> Config:
    limits = {"http_connections": http, "rtmp_connections": rtmp, "open_extents": extents}
    return Config.model_validate({"limits": limits})


COUNTS = st.integers(1, 1_000_000)


@given(COUNTS, COUNTS, st.integers(64, 1 << 20), st.integers(256, 1 << 21), st.integers(20, 100))
@example(10_000, 10_000, 2048, 256, 45)
@example(10_000, 10_000, 2048, 1024, 45)
@example(10_000, 10_000, 2048, 20_000, 60)
def test_shares_fit_into_the_limit(
    http: int, rtmp: int, extents: int, limit: int, inherited: int
) -> None:
    budget = share_descriptors(config(http, rtmp, extents), limit, inherited)
    assert 1 <= budget.open_extents <= extents
    assert budget.connections >= 1
    files = EXTENT_DESCRIPTORS * budget.open_extents
    if budget.is_short:
        assert inherited < budget.connections_end < limit
        assert budget.connections_end + files <= limit
        # Something is left for databases, threads, origins and bodies.
        assert limit - budget.connections_end - files >= min(OTHER_DESCRIPTORS, limit // 8)
        assert inherited + CONNECTION_DESCRIPTORS * budget.connections <= budget.connections_end + 1
    else:
        assert budget.open_extents == extents
        assert budget.connections == http + rtmp
        assert inherited + files + CONNECTION_DESCRIPTORS * budget.connections <= limit


def test_20_000_descriptors_allow_18_500_connections() -> None:
    budget = share_descriptors(config(10_000, 10_000, 2048), 20_000, 60)
    assert budget.is_short
    assert budget.connections >= 18_500


def test_descriptors_of_this_process_are_counted() -> None:
    before = open_descriptors()
    reading, writing = os.pipe()
    assert open_descriptors() == before + 2
    os.close(reading)
    os.close(writing)
    assert descriptor_limit() > before
