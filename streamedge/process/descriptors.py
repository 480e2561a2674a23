"""How a worker's descriptors are shared between viewers, cache files and everything else.

The config asks for connections and open cache files; RLIMIT_NOFILE says how many descriptors there
are. Where they do not suffice, cache files and what else a request needs get a share that viewers
cannot take: better a viewer who is refused than thousands who are connected and get nothing.

The kernel gives the lowest free number to a new descriptor, so a connection whose number is ``n``
shows that all numbers below are taken: to compare it with ``connections_end`` needs no count.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from streamedge.config.schema.config import Config, RemoteOriginConfig

CONNECTION_DESCRIPTORS = 2  # the transport's, and the sender's duplicate of it
EXTENT_DESCRIPTORS = 2  # the file, and what its mapping keeps
MANY = 1 << 30  # where the system sets no limit
OTHERS = 64  # databases, wake-ups, threads, files of origins and of bodies


@dataclass(frozen=True, slots=True)
class DescriptorBudget:
    """``connections_end``: connections with a descriptor from this number on are refused.

    ``wanted`` is what the config could take; ``limit`` is what there is.
    """

    limit: int
    wanted: int
    open_extents: int
    connections_end: int
    connections: int

    @property
    def is_short(self) -> bool:
        """Whether the config asks for more than there is."""
        return self.wanted > self.limit


def descriptor_limit() -> int:
    """How many descriptors this process may have."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MANY if soft == resource.RLIM_INFINITY else soft


def open_descriptors() -> int:
    """How many this process has open now. Raises OSError."""
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
    wanted = inherited + OTHERS + origins + files + CONNECTION_DESCRIPTORS * connections
    if wanted <= limit:
        return DescriptorBudget(limit, wanted, limits.open_extents, limit, connections)
    files = min(files, max(limit // 16, min(128, limit // 4)))
    others = min(OTHERS + origins, limit // 8)
    # Some viewers are served however little there is.
    end = max(limit - files - others, min(limit, inherited + limit // 8))
    room = max(1, (end - inherited) // CONNECTION_DESCRIPTORS)
    return DescriptorBudget(
        limit, wanted, max(1, files // EXTENT_DESCRIPTORS), end, min(connections, room)
    )
