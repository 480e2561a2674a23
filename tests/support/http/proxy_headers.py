"""Writes PROXY headers, and runs a proxy that sends one ahead of the data that it relays.

It follows https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt and shares no code with the
parser.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

V2_SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
_PROXY, _TCP4, _TCP6 = 0x21, 0x11, 0x21
_PORT = 443


def proxy_v1(address: str, port: int) -> bytes:
    """A header of version 1; source and destination have the same address."""
    family = "TCP4" if ip_address(address).version == 4 else "TCP6"
    return f"PROXY {family} {address} {address} {port} {_PORT}\r\n".encode()


def proxy_v2(address: str, port: int, *, behind: bytes = b"") -> bytes:
    """The same in version 2; ``behind`` are TLVs after the addresses."""
    packed = ip_address(address).packed
    family = _TCP4 if len(packed) == 4 else _TCP6
    block = packed * 2 + struct.pack("!HH", port, _PORT) + behind
    return V2_SIGNATURE + struct.pack("!BBH", _PROXY, family, len(block)) + block


@asynccontextmanager
async def relay(port: int, header: bytes) -> AsyncIterator[int]:
    """Runs a proxy to ``port`` that sends ``header`` first; yields the proxy's port."""
    relaying: set[asyncio.Task[None]] = set()
    ends: list[asyncio.StreamWriter] = []

    async def accept(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relaying.add(task)
        far, to_far = await asyncio.open_connection("127.0.0.1", port)
        ends.extend((to_near, to_far))
        to_far.write(header)
        await asyncio.gather(_copy(near, to_far), _copy(far, to_near))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for end in ends:
            end.transport.abort()
        await asyncio.gather(*relaying)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies bytes until one end closes, then closes the other."""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()
