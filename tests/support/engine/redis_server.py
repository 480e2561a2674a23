"""A real Redis server on a loopback port, with a folder of its own, that tests kill and restart.

with run_redis(folder) as server:
    engine = open_engine(server.url, "fleet")

The environment variable REDIS_SERVER names another program, such as valkey-server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.patience import PATIENCE_S
from tests.support.process.ports import free_ports

PROGRAM = os.environ.get("REDIS_SERVER", "redis-server")
POLL_S = 0.005
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """A server process. ``options`` are command line options behind the default ones."""

    def __init__(self, folder: Path, *options: str, scheme: str = "redis") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.options = options
        self.scheme = scheme
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts the process, and waits until it has loaded its data."""
        listen = ("--port", str(self.port)) if self.scheme == "redis" else ()
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(PROGRAM, "--bind", "127.0.0.1", *listen, "--dir", str(self.folder)),
                    *("--save", "", "--repl-diskless-sync-delay", "0", *DURABLE, *self.options),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline_s, (self.folder / "log").read_text()
            time.sleep(POLL_S)

    def kill(self) -> None:
        """Ends the process as a power failure would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stops the process (SIGSTOP); its connections stay open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def call(self, *command: str | int | bytes) -> Any:
        """Runs a command, as an operator would by redis-cli."""
        with self._client() as client:
            return client.execute_command(*command)

    def follow(self, primary: RedisServer) -> None:
        """Becomes a replica, and waits until it has all of the primary's data."""
        self.call("REPLICAOF", "127.0.0.1", primary.port)
        deadline_s = time.monotonic() + PATIENCE_S
        while self.call("INFO", "replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline_s
            time.sleep(POLL_S)
        self.catch_up(primary)

    def catch_up(self, primary: RedisServer) -> None:
        """Waits until this replica has all that the primary has now."""
        sent = primary.call("INFO", "replication")["master_repl_offset"]
        deadline_s = time.monotonic() + PATIENCE_S
        while self.call("INFO", "replication")["slave_repl_offset"] < sent:
            assert time.monotonic() < deadline_s
            time.sleep(POLL_S)

    def require_replica(self, max_lag_s: int) -> None:
        """Takes writes only with a replica that is not behind; waits until it sees one.

        A replica knows that it has all data before its primary does.
        """
        self.call(
            *("CONFIG", "SET", "min-replicas-to-write", "1", "min-replicas-max-lag", max_lag_s)
        )
        deadline_s = time.monotonic() + PATIENCE_S
        while self.call("INFO", "replication")["min_slaves_good_slaves"] < 1:
            assert time.monotonic() < deadline_s
            time.sleep(POLL_S)

    def promote(self) -> None:
        """Becomes a primary, with what it has."""
        self.call("REPLICAOF", "NO", "ONE")

    def stop(self) -> None:
        """Ends the process if it runs."""
        if self._process is not None:
            self.resume()
            self.kill()

    def _client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=PATIENCE_S)

    def _answers(self) -> bool:
        if self.scheme != "redis":
            return "Ready to accept connections" in (self.folder / "log").read_text()
        try:
            return bool(self.call("PING"))
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False


@contextmanager
def run_redis(folder: Path, *options: str, scheme: str = "redis") -> Iterator[RedisServer]:
    """A running server until the block ends."""
    server = RedisServer(folder, *options, scheme=scheme)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty server that keeps its data on disk."""
    with run_redis(tmp_path / "redis") as server:
        yield server
