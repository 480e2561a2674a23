"""Messages to the service manager: systemd's sd_notify(3), without a library.

A message is one datagram of ``NAME=value`` lines to the Unix socket in ``NOTIFY_SOCKET``. Without
that variable nothing is sent. A message that cannot be sent is dropped: the edge serves the same.

The service manager restarts the edge when no ``WATCHDOG=1`` comes for ``WATCHDOG_USEC``. The
supervisor sends it while the control process and at least one worker are alive; it replaces single
processes that hang by itself, sooner than any useful value of WatchdogSec=.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

STATUS_CHARACTERS_MAX = 200


class ServiceManager:
    """Sends messages to the service manager that started this process, if there is one.

    ``environment``: its variables, as ``os.environ``.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = socket_address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = watchdog_interval_s(environment, os.getpid())
        self._watchdog_due_s = 0.0
        self._status = ""

    @property
    def is_present(self) -> bool:
        """Whether a service manager wants messages."""
        return self._address is not None

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often ``keep_alive`` must be called; None without a watchdog."""
        return self._watchdog_s

    def ready(self, status: str) -> None:
        """The edge serves: at its start, and after a reload or an upgrade."""
        self._status = status[:STATUS_CHARACTERS_MAX]
        self._send("READY=1", f"STATUS={_line(self._status)}")

    def reloading(self, status: str) -> None:
        """The edge reads its config again, or is replaced by a new version; ``ready`` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._status = ""
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", f"STATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        """The edge ends."""
        self._send("STOPPING=1", f"STATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``; sent if it has changed."""
        status = status[:STATUS_CHARACTERS_MAX]
        if status != self._status:
            self._status = status
            self._send(f"STATUS={_line(status)}")

    def keep_alive(self, now_s: float) -> None:
        """Tells the watchdog that the edge is alive, not more often than it needs."""
        if self._watchdog_s is not None and now_s >= self._watchdog_due_s:
            self._watchdog_due_s = now_s + self._watchdog_s
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
                peer.setblocking(False)
                peer.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError:
            pass  # the manager is gone or busy; nothing depends on it


def socket_address(name: str) -> str | None:
    """The address that ``NOTIFY_SOCKET`` names: a path, or with "@" an abstract name."""
    if name.startswith("/"):
        return name
    if name.startswith("@") and len(name) > 1:
        return "\0" + name[1:]
    return None


def watchdog_interval_s(environment: Mapping[str, str], pid: int) -> float | None:
    """A quarter of ``WATCHDOG_USEC``, if the watchdog is for this process; else None.

    sd_watchdog_enabled(3) recommends half of it; a busy machine delays the supervisor.
    """
    for_pid, interval_us = environment.get("WATCHDOG_PID"), environment.get("WATCHDOG_USEC", "")
    if for_pid is not None and for_pid != str(pid):
        return None
    if not interval_us.isdecimal() or int(interval_us) == 0:
        return None
    return int(interval_us) / 1e6 / 4


def _line(text: str) -> str:
    """``text`` without line breaks, which would begin another variable."""
    return " ".join(text.split())
