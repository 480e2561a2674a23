"""Passes bytes between a viewer and an origin that have switched protocols (RFC 9110 §7.8).

Used for WebSocket. Each direction has its own back-pressure, until either side closes. The bytes
are not interpreted.
"""

from __future__ import annotations

import asyncio

from streamedge.delivery.http.connection.response_sender import ResponseSender
from streamedge.delivery.http.handler import Upgraded
from streamedge.origin import Duplex


async def tunnel(sender: ResponseSender, upgraded: Upgraded) -> None:
    """Passes bytes both ways; returns when one side has ended."""
    early, origin = upgraded.response.upgrade()
    viewer = sender.open_tunnel(upgraded.fields)
    up = asyncio.create_task(_to_origin(viewer, origin), name="tunnel up")
    down = asyncio.create_task(_to_viewer(viewer, origin, early), name="tunnel down")
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        origin.close()
        viewer.close()


async def _to_origin(viewer: Duplex, origin: Duplex) -> None:
    while data := await viewer.read():
        await origin.write(data)


async def _to_viewer(viewer: Duplex, origin: Duplex, early: bytes) -> None:
    data = early or await origin.read()
    while data:
        await viewer.write(data)
        data = await origin.read()
