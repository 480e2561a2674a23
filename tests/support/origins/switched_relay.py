"""A TCP relay in front of a server, which can be away: then its port refuses connections."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class SwitchedRelay:
    """Relays 127.0.0.1:``port`` to the server of ``url`` while it is open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = parts.hostname or "127.0.0.1", parts.port or 80
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Accepts connections, always at the same port."""
        self._listener = listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuses connections and cuts those that are open."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            pair = {client: server, server: client}
            with self._lock:
                self._sockets |= pair.keys()
            selector = selectors.DefaultSelector()
            for each in pair:
                selector.register(each, selectors.EVENT_READ)
            with contextlib.suppress(OSError), selector:
                while True:
                    for key, _events in selector.select():
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        data = source.recv(65536)
                        if not data:
                            return
                        pair[source].sendall(data)
            with self._lock:
                self._sockets -= pair.keys()


@contextlib.contextmanager
def run_relay(url: str) -> Iterator[SwitchedRelay]:
    """A relay to the server of ``url``."""
    relay = SwitchedRelay(url)
    try:
        yield relay
    finally:
        relay.cut()
