"""A viewer's request to one edge of a fleet, on a connection of its own."""

from __future__ import annotations

import http.client
from contextlib import closing
from dataclasses import dataclass

from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes


def get(
    edge: EdgeProcess,
    path: str,
    fields: dict[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
    viewer: str = "127.0.0.1",
) -> Answer:
    """The response to a request from the address ``viewer``; its fields by lower-case name."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", edge.http_port, timeout=PATIENCE_S, source_address=(viewer, 0)
    )
    with closing(connection):
        connection.request(method, f"/{path}", body, fields or {})
        response = connection.getresponse()
        sent = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, sent, response.read())
