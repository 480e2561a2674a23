"""Connections that the server resets while they are being made."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import threading
from contextlib import suppress

import uvloop

from streamedge.origin.http_client.pool import NoConnectionError, Pool
from streamedge.origin.http_client.request import Endpoint

ATTEMPTS = 300


def reset_all(listener: socket.socket) -> None:
    """Resets each connection as soon as it is accepted, until the listener is closed."""
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()


def test_descriptor_of_another_file_is_never_closed() -> None:
    """A worker's event loop has closed the socket of a failed handshake already."""

    async def connect(port: int) -> list[int]:
        pool = Pool(4, ssl.create_default_context)
        opened = []
        loop = asyncio.get_running_loop()
        for _ in range(ATTEMPTS):
            with suppress(NoConnectionError):
                await pool.lease(Endpoint(True, "127.0.0.1", port), loop.time() + 5)
            opened.append(os.open(os.devnull, os.O_RDONLY))
        pool.close()
        return opened

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=reset_all, args=(listener,), daemon=True)
        thread.start()
        opened = uvloop.run(connect(listener.getsockname()[1]))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(set(opened)) == ATTEMPTS  # a number that was closed would be given out again
    for descriptor in opened:
        os.close(descriptor)
