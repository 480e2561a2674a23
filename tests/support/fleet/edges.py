"""Several real edges on one real engine."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge

KEY_ID, SECRET = "AKIAFLEET", "secret/of+the/fleet"
API = f'[api]\nkeys = {{ "{KEY_ID}" = "{SECRET}" }}\n'


@contextlib.contextmanager
def run_fleet(
    folder: Path,
    engine_url: str,
    origins: str,
    names: str = "abc",
    *,
    fleet: str = "",
    edge: str = "",
    **options: Any,
) -> Iterator[list[EdgeProcess]]:
    """Runs an edge for each letter of ``names``; each has caught up with the log.

    ``origins`` as for ``run_edge``; ``fleet`` and ``edge`` are further lines of these tables.
    """
    toml = f'[fleet]\nengine = "{engine_url}"\n{fleet}\n{API}{origins}'
    with ExitStack() as stack:
        edges = [
            stack.enter_context(
                run_edge(folder / name, toml, edge=f'name = "{name}"\n{edge}', **options)
            )
            for name in names
        ]
        for running in edges:
            running.await_log("fleet_caught_up")
            await_up(running)
        yield edges


def await_up(edge: EdgeProcess) -> None:
    """Waits until an edge uses cached objects without validation."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not any(line["state"] == "up" and "position" in line for line in edge.log("edge_state")):
        assert time.monotonic() < deadline_s, edge.log("edge_state")
        pause()


def body(edge: EdgeProcess, path: str) -> bytes:
    """The body of an object at an edge."""
    with urllib.request.urlopen(edge.http(path), timeout=PATIENCE_S) as response:
        content: bytes = response.read()
        return content


def await_body(edge: EdgeProcess, path: str, expected: bytes) -> None:
    """Waits until an edge serves an object with this body."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (content := body(edge, path)) != expected:
        assert time.monotonic() < deadline_s, content
        pause()


def api_client(edge: EdgeProcess) -> Any:
    """A client of CloudFront's API of an edge, which makes one attempt."""
    return boto3.client(
        "cloudfront",
        endpoint_url=f"http://127.0.0.1:{edge.admin_port}",
        region_name="us-east-1",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        config=Config(retries={"total_max_attempts": 1}),
    )
