"""The URL of an engine: where it listens, and how connections to it are made.

Passwords are in ``arguments`` only, which no message and no representation shows.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import Connection, SSLConnection

from streamedge.shared_log.engine import EngineError

CONNECT_TIMEOUT_S = 1.5
_CLASSES: dict[str, type[Connection]] = {"redis": Connection, "rediss": SSLConnection}
_DATABASE = re.compile(r"/?|/(\d{1,6})")
_RESP = 3  # replies and messages of channels on one connection
# The kernel closes a connection whose other end is gone without a word.
_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 1,
    socket.TCP_KEEPINTVL: 1,
    socket.TCP_KEEPCNT: 2,
    socket.TCP_USER_TIMEOUT: 1500,  # ms
}


@dataclass(frozen=True, slots=True)
class Address:
    """``place``: the address without user and password, for messages."""

    place: str
    connection_class: type[Connection]
    arguments: dict[str, Any] = field(repr=False)

    def connection(self) -> Connection:
        """A connection that is not open yet. It never tries anything twice."""
        return self.connection_class(
            **self.arguments,
            protocol=_RESP,
            retry=None,
            retry_on_error=[],
            # Calls have time limits of their own, which end them as a whole.
            socket_timeout=None,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_keepalive=True,
            socket_keepalive_options=_KEEPALIVE,
            driver_info=None,
        )


def parse_address(url: str, client_name: str) -> Address:
    """Parses redis://[USER:PASSWORD@]HOST[:PORT][/DB], or rediss:// for TLS.

    ``client_name``: what CLIENT LIST shows. Raises EngineError.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6379
    except ValueError:  # it may quote a part of the password
        host = None
    path = host and _DATABASE.fullmatch(parts.path)
    if not host or not path or parts.query or parts.fragment or parts.scheme not in _CLASSES:
        raise EngineError(
            'the URL of the engine is not valid; write redis://HOST:PORT/DB, and "/", "?", "#",'
            ' "@" and ":" of a password as %2F, %3F, %23, %40 and %3A'
        )
    database = int(path[1] or 0)
    arguments = {
        "host": host,
        "port": port,
        "db": database,
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "client_name": client_name,
    }
    place = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}/{database}"
    return Address(place, _CLASSES[parts.scheme], arguments)
