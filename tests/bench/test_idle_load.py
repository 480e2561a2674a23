from __future__ import annotations

import pytest

from bench.loads.idle_load import kernel_bytes
from bench.servers.server import BenchError

MEMINFO = "MemTotal:       25165824 kB\nSlab:             131072 kB\nSReclaimable:      65536 kB\n"
SOCKSTAT = "sockets: used 20312\nTCP: inuse 20 orphan 0 tw 12 alloc 20 mem 100\nUDP: inuse 1\n"


def test_kernel_memory_is_slab_and_socket_buffers() -> None:
    assert kernel_bytes(MEMINFO, SOCKSTAT) == 131072 * 1024 + 100 * 4096


def test_missing_kernel_figures_are_an_error() -> None:
    with pytest.raises(BenchError):
        kernel_bytes("", SOCKSTAT)
