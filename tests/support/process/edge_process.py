"""A real edge for journeys: ``streamedge serve`` as a process, on free ports.

The edge is ready when /healthz answers 200. SIGTERM to its pid stops it; SIGKILL to its process
group follows if that takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamedge.cli.admin_client import Admin
from streamedge.cli.admin_options import pinned_certificate
from streamedge.config.load import load
from tests.support.certificate_authority import Pair
from tests.support.patience import PATIENCE_S
from tests.support.process.ports import free_ports

STOP_TIMEOUT_S = 45.0
PAUSE_S = 0.02  # between polls of another process


@dataclass(slots=True)
class EdgeProcess:
    """A running edge. ``folder`` holds its config, cache and log.

    ``workers``: the number of workers in its config. ``https_port``: 0 without a certificate.
    """

    folder: Path
    http_port: int
    rtmp_port: int
    admin_port: int
    process: subprocess.Popen[bytes] = field(repr=False)
    workers: int = 1
    https_port: int = 0
    host: str = "127.0.0.1"
    other_admin: Admin | None = None
    """How to call the admin address, if not over plain HTTP on 127.0.0.1."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def http(self, path: str) -> str:
        """URL of an object over HTTP."""
        return f"http://{self.host}:{self.http_port}/{path.lstrip('/')}"

    def rtmp(self, stream: str, application: str = "cfx/st") -> str:
        """URL of a stream over RTMP."""
        return f"rtmp://{self.host}:{self.rtmp_port}/{application}/{stream}"

    def admin(self, path: str) -> bytes:
        """Body of a GET on the admin address. Raises OSError, also on an error status."""
        if self.other_admin is not None:
            return _get(self.other_admin, path)
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            body: bytes = response.read()
            return body

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's values, of all labels or of those that contain ``label``."""
        lines = self.admin("/metrics").decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{name}{{", f"{name} ")) and label in line
        )

    def await_metric(
        self, name: str, is_reached: Callable[[float], bool], label: str = ""
    ) -> float:
        """As ``metric``, once the value is reached: processes publish theirs once a second."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_reached(value := self.metric(name, label)):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{name} is {value}")
            pause()
        return value

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log lines so far, of one event or of all."""
        # The last line may be incomplete.
        text = (self.folder / "edge.log").read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    def await_log(
        self, event: str, count: int = 1, timeout_s: float = PATIENCE_S
    ) -> list[dict[str, Any]]:
        """The lines of an event once there are ``count``. The log is flushed every 100 ms."""
        deadline_s = time.monotonic() + timeout_s
        while len(lines := self.log(event)) < count:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(lines)} of {count} lines {event!r}")
            pause()
        return lines

    def worker_pids(self, timeout_s: float = PATIENCE_S) -> list[int]:
        """The pids of all workers, by number, from each worker's newest ``worker_up`` line.

        Waits until the log has such a line of every worker: /healthz may answer 200 before the
        lines are flushed.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            pids = {line["process"]: line["pid"] for line in self.log("worker_up")}
            if len(pids) >= self.workers:
                return [pids[name] for name in sorted(pids)]
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the log has the workers {sorted(pids)}, not {self.workers}")
            pause()

    def await_new_workers(self, before: Sequence[int]) -> list[int]:
        """As ``worker_pids``, once none of them is one of ``before``.

        A worker serves, and an upgrade ends, up to 100 ms before the line of the worker is written.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while set(pids := self.worker_pids()) & set(before):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the log has the workers {pids}, and before {before}")
            pause()
        return pids

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait(PATIENCE_S)


def pause() -> None:
    """Sleeps for a moment; only for loops that poll another process."""
    time.sleep(PAUSE_S)  # a process polled from outside has no event to wait for


@contextlib.contextmanager
def run_edge(
    folder: Path,
    origins: str,
    *,
    workers: int = 1,
    edge: str = "",
    listen: str = "",
    limits: str = "",
    distributions: str | None = None,
    ports: Sequence[int] = (),
    prelude: str = "",
    certificate: Pair | None = None,
    host: str = "127.0.0.1",
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    admin: str = "",
    admin_listen: str = "127.0.0.1",
) -> Iterator[EdgeProcess]:
    """Runs an edge with a config in TOML.

    ``origins`` must declare ``[origins.main]``. By default it is served as web distribution EWEB
    and rtmp distribution ESTREAM (applications cfx/st and vod); ``distributions`` replaces these.
    ``edge``, ``listen`` and ``limits`` are lines for those tables. ``ports`` are for HTTP, RTMP and
    HTTPS; free ones by default. ``host``: what viewers connect to. ``certificate``: it also listens
    for HTTPS. ``prelude`` is Python that every process of the edge runs first, to force a fault.
    ``environment``: further variables. ``before``: a program with arguments that runs the command.
    ``admin`` are lines for [admin]; ``admin_listen`` is the admin address's host, or unix:PATH.
    """
    admin_port, *free = free_ports(4)
    http_port, rtmp_port, https_port = [*ports, *free[len(ports) :]]
    if certificate is None:
        https_port = 0
    else:
        listen += f'\nhttps = ["{host}:{https_port}"]'
        origins += (
            f'\n[[certificates]]\ncertificate = "{certificate.certificate}"\n'
            f'key = "{certificate.key}"\n'
        )
    declared = distributions or (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
        'application = ["cfx/st", "vod"]\n'
    )
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.toml"
    config.write_text(
        f'[edge]\ncache = "cache"\nlog = "edge.log"\nworkers = {workers}\n{edge}\n'
        f'[listen]\nhttp = ["{host}:{http_port}"]\nrtmp = ["{host}:{rtmp_port}"]\n'
        f'admin = "{_admin_place(admin_listen, admin_port)}"\n{listen}\n'
        f"[admin]\n{admin}\n[limits]\n{limits}\n{origins}\n{declared}"
    )
    command = [sys.executable, "-m", "streamedge", "serve", "--config", str(config)]
    if prelude:
        run = f"import sys\n{prelude}\nsys.argv[:1] = ['streamedge']\n"
        run += "from streamedge.cli.main import main\nmain()\n"
        command[1:3] = ["-c", run]
    with open(folder / "stderr", "ab") as stderr:
        process = subprocess.Popen(
            [*before, *command],
            stderr=stderr,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    running = EdgeProcess(
        folder, http_port, rtmp_port, admin_port, process, workers, https_port, host
    )
    if admin or admin_listen != "127.0.0.1":
        loaded = load(config)
        running.other_admin = Admin(loaded.listen.admin, pinned_certificate(loaded))
    try:
        _await_health(running)
        yield running
    finally:
        running.stop()


def _admin_place(host: str, port: int) -> str:
    return host if host.startswith("unix:") else f"{host}:{port}"


def _get(admin: Admin, path: str) -> bytes:
    connection = admin.connect()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"GET {path}: {response.status}: {body[:200]!r}")
    return body


def _await_health(running: EdgeProcess) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            running.admin("/healthz")
        except (OSError, urllib.error.URLError):
            stderr = (running.folder / "stderr").read_text()
            if running.process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the edge did not start: {stderr}") from None
            pause()
        else:
            return
