"""How a worker's file descriptors are shared between connections, cache files and other files.

The config sets limits for connections and open cache files; RLIMIT_NOFILE limits descriptors. If
there are too few, cache files and the other files of a request get a reserved share: refusing some
viewers is better than serving none of those that are connected.

The kernel gives a new descriptor the lowest free number, so a connection with number ``n`` shows
that all lower numbers are in use. Comparing it with ``connections_end`` needs no counter.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from streamedge.config.schema.config import Config, RemoteOriginConfig

CONNECTION_DESCRIPTORS = 1
EXTENT_DESCRIPTORS = 2  # the file and its mapping
UNLIMITED = 1 << 30  # if the system sets no limit
OTHER_DESCRIPTORS = 64  # databases, wake-ups, threads, files of origins and of bodies


@dataclass(frozen=True, slots=True)
class DescriptorBudget:
    """``connections_end``: connections with a descriptor from this number on are refused.

    ``needed`` is the most that the config may use; ``limit`` is how many the process may have.
    """

    limit: int
    needed: int
    open_extents: int
    connections_end: int
    connections: int

    @property
    def is_short(self) -> bool:
        """Whether the config may use more descriptors than the process may have."""
        return self.needed > self.limit


def descriptor_limit() -> int:
    """The most descriptors that this process may have."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def open_descriptors() -> int:
    """The number of descriptors that are open in this process. Raises OSError."""
    return len(os.listdir("/proc/self/fd"))


def share_descriptors(config: Config, limit: int, inherited: int) -> DescriptorBudget:
    """The budget of a worker that may have ``limit`` descriptors and began with ``inherited``."""
    limits = config.limits
    origins = sum(
        origin.connections
        for origin in config.origins.values()
        if isinstance(origin, RemoteOriginConfig)
    )
    connections = limits.http_connections + limits.rtmp_connections
    files = EXTENT_DESCRIPTORS * limits.open_extents
    needed = inherited + OTHER_DESCRIPTORS + origins + files + CONNECTION_DESCRIPTORS * connections
    if needed <= limit:
        return DescriptorBudget(limit, needed, limits.open_extents, limit, connections)
    files = min(files, max(limit // 16, min(128, limit // 4)))
    others = min(OTHER_DESCRIPTORS + origins, limit // 8)
    # A few viewers are served even with very few descriptors.
    end = max(limit - files - others, min(limit, inherited + limit // 8))
    fitting = max(1, (end - inherited) // CONNECTION_DESCRIPTORS)
    return DescriptorBudget(
        limit, needed, max(1, files // EXTENT_DESCRIPTORS), end, min(connections, fitting)
    )
