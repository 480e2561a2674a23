"""HTTP servers at the addresses of edges, which answer the traffic check as the test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from streamedge.fleet.zone import TRAFFIC_CHECK_PATH
from tests.support.process.ports import free_ports


class TrafficChecks:
    """``statuses`` of the checks by address; an address without one is not listened on."""

    def __init__(self, addresses: Sequence[str]) -> None:
        (self.port,) = free_ports(1)
        self.statuses = dict.fromkeys(addresses, 200)
        self.hosts: set[str] = set()
        self._servers: dict[str, ThreadingHTTPServer] = {}
        for address in addresses:
            self.start(address)

    def start(self, address: str) -> None:
        """Listens on an address."""
        checks = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_check = self.path == TRAFFIC_CHECK_PATH
                checks.hosts.add(self.headers.get("host", ""))
                self.send_response(checks.statuses[address] if is_check else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        server = Server((address, self.port), Handler)
        self._servers[address] = server
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self, address: str) -> None:
        """Ends the server at an address: connections are refused."""
        server = self._servers.pop(address)
        server.shutdown()
        server.server_close()

    def close(self) -> None:
        for address in list(self._servers):
            self.stop(address)


@contextmanager
def run_traffic_checks(addresses: Sequence[str]) -> Iterator[TrafficChecks]:
    """The servers; all checks are 200 at first."""
    checks = TrafficChecks(addresses)
    try:
        yield checks
    finally:
        checks.close()
