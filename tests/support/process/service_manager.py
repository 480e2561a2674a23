"""A service manager for tests: receives what the edge sends by sd_notify."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 60.0


class NotifySocket:
    """The socket that ``NOTIFY_SOCKET`` names. ``messages``: all so far, each as a dict."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(PATIENCE_S)

    def receive(self) -> dict[str, str]:
        """The next message. Raises TimeoutError."""
        lines = self._socket.recv(65536).decode().split("\n")
        message = {name: value for name, _, value in (line.partition("=") for line in lines)}
        self.messages.append(message)
        return message

    def receive_until(self, is_last: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The first message from now on that ``is_last`` accepts."""
        while not is_last(message := self.receive()):
            pass
        return message

    def await_variable(self, name: str) -> dict[str, str]:
        """The first message from now on that has a variable."""
        return self.receive_until(lambda message: name in message)

    def take_waiting(self) -> list[dict[str, str]]:
        """The messages that have come and were not received yet."""
        begin = len(self.messages)
        self._socket.setblocking(False)
        try:
            while True:
                self.receive()
        except BlockingIOError:
            return self.messages[begin:]
        finally:
            self._socket.settimeout(PATIENCE_S)

    def close(self) -> None:
        self._socket.close()
