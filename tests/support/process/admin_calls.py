"""Calls to the admin address of a running edge, as an operator makes them."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause


def get_json(edge: EdgeProcess, path: str) -> dict[str, Any]:
    """The JSON of a GET."""
    document: dict[str, Any] = json.loads(edge.admin(path))
    return document


def call_json(edge: EdgeProcess, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """The status and JSON of a call without a body, also of an error."""
    request = urllib.request.Request(f"http://127.0.0.1:{edge.admin_port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.loads(exc.read())


def await_json(
    edge: EdgeProcess, path: str, is_reached: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """The first JSON of repeated GETs for which ``is_reached`` is true."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_reached(document := get_json(edge, path)):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{path} is {document}")
        pause()
    return document
