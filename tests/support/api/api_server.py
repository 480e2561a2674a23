"""CloudFront's API with handlers of a test, served on loopback, and clients of it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import uvicorn
from botocore.config import Config
from starlette.applications import Starlette

from streamedge.api.app import BODY_TIMEOUT_S, ApiSettings, api_routes
from streamedge.api.protocol.service import Handlers
from streamedge.ops.log import Log
from streamedge.ops.log_output import LogTarget
from tests.support.patience import PATIENCE_S

KEYS = {"AKIAEDGE": "its/secret+of=characters", "AKIAOTHER": "another"}
BODY_MAX_BYTES = 1 << 20
_NO_RETRIES = Config(retries={"total_max_attempts": 1})


class WaitableLog(Log):
    """A log that a test can wait for."""

    def __init__(self, target: str, process: str) -> None:
        super().__init__(LogTarget(target).open(), process)
        self.has_event = threading.Event()

    def event(self, event: str, **fields: Any) -> None:
        super().event(event, **fields)
        self.has_event.set()


@dataclass
class ApiServer:
    """A running API: its port, its keys and its log."""

    port: int
    keys: dict[str, str]
    log: WaitableLog
    log_path: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """The lines that were logged up to now."""
        self.log.flush()
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    @contextlib.contextmanager
    def client(self, key_id: str = "AKIAEDGE", secret: str = KEYS["AKIAEDGE"]) -> Iterator[Any]:
        """An unmodified boto3 client without retries."""
        client = boto3.client(
            "cloudfront",
            endpoint_url=self.address,
            region_name="eu-central-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=_NO_RETRIES,
        )
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def run_api(
    folder: Path, handlers: Handlers, body_timeout_s: float = BODY_TIMEOUT_S
) -> Iterator[ApiServer]:
    """The API with these handlers, until the block ends."""
    log_path = folder / "api.log"
    log, keys = WaitableLog(str(log_path), "api"), dict(KEYS)
    settings = ApiSettings(keys, BODY_MAX_BYTES)
    routes = api_routes(lambda: handlers, lambda: settings, log, body_timeout_s)
    app = Starlette(routes=routes)
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # New connections wait in the listener's queue until uvicorn accepts them.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield ApiServer(listener.getsockname()[1], keys, log, log_path)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            log.flush()
            log.close()
    assert not thread.is_alive()
