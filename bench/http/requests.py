"""Kinds of requests, and the measurement of StreamEdge beside nginx with each kind.

Before each round, a probe sends the request once from cold and once more, and compares status,
fields and length with what the kind says: both servers do the same work.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.loads.load import LoadResult
from bench.loads.request_load import RequestPlan, request
from bench.loads.wrk import WrkPlan, wrk
from bench.machine import cpu_s
from bench.options import Options
from bench.report import Figure
from bench.rounds import ratio_figures, rounds_of
from bench.servers.peers import SITE
from bench.servers.server import BenchError, Server
from bench.servers.site import Site, probe, site

CONNECTIONS = 16
ROUNDS = 3
ROUNDS_MAX = 5
ROUNDS_PER_MEASUREMENT = 20
"""A round takes this part of the length of a timed measurement."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Kind:
    """A request, the response that it must get, and how it is repeated.

    ``target``: the minimum of both ratios to nginx. ``etag_field``, ``date_field``: the field that
    sends the object's ETag or Last-Modified. ``expected_fields``: names in lower case.
    ``own_keys``: every request is for another object. ``reconnects``: each over a new connection.
    """

    label: str
    path: str
    target: float
    method: str = "GET"
    fields: Mapping[str, str] = field(default_factory=dict)
    etag_field: str = ""
    date_field: str = ""
    status: int = 200
    body_bytes: int = -1
    expected_fields: Mapping[str, str] = field(default_factory=dict)
    own_keys: bool = False
    secure: bool = False
    reconnects: bool = False


def compare(kinds: Sequence[Kind], options: Options) -> list[Figure]:
    """Rates and CPU time per request of each kind, and their ratios to nginx's."""
    figures = []
    with site() as here:
        for kind in kinds:

            def measure(server: Server, kind: Kind = kind) -> LoadResult:
                return load(kind, server, here, options.seconds / ROUNDS_PER_MEASUREMENT)

            results = rounds_of(here.servers, measure, rounds=ROUNDS, rounds_max=ROUNDS_MAX)
            figures += ratio_figures(kind.label, results, SITE, kind.target)
    return figures


def load(kind: Kind, server: Server, here: Site, seconds: float) -> LoadResult:
    """One round. The origin's CPU time counts as that of the load, whose core it shares."""
    if kind.own_keys:
        kind = replace(kind, path=f"{kind.path}{next(_numbers)}")
    fields = checked_fields(kind, server)
    origin_s = cpu_s(here.origin.pid)
    port = server.https_port if kind.secure else server.http_port
    if kind.method == "HEAD" or (kind.secure and kind.reconnects):
        trusted = str(here.trusted) if kind.reconnects else ""
        plan = RequestPlan(
            port=port,
            method=kind.method,
            path=kind.path,
            status=kind.status,
            response_bytes=max(0, kind.body_bytes),
            connections=CONNECTIONS,
            seconds=seconds,
            server_pid=server.pid,
            trusted=trusted,
        )
        result = request(plan)
    else:
        if kind.reconnects:
            fields = {**fields, "Connection": "close"}
        result = wrk(
            WrkPlan(
                port=port,
                path=kind.path,
                connections=CONNECTIONS,
                seconds=seconds,
                fields=fields,
                secure=kind.secure,
                own_keys=kind.own_keys,
                expects_errors=kind.status >= 400,
            ),
            server.pid,
        )
    return replace(result, load_cpu_s=result.load_cpu_s + cpu_s(here.origin.pid) - origin_s)


def checked_fields(kind: Kind, server: Server) -> dict[str, str]:
    """The fields to send, validators included. Raises BenchError for an unexpected response."""
    first = probe(server, "GET", kind.path, {}, secure=kind.secure)
    fields = dict(kind.fields)
    for name, validator in ((kind.etag_field, "etag"), (kind.date_field, "last-modified")):
        if name:
            if validator not in first.fields:
                raise BenchError(f"{kind.path} has no {validator}")
            fields[name] = first.fields[validator]
    # The second one is from the cache.
    for _ in range(2):
        response = probe(server, kind.method, kind.path, fields, secure=kind.secure)
    if response.status != kind.status:
        raise BenchError(f"{kind.method} {kind.path}: status {response.status}, not {kind.status}")
    if kind.body_bytes not in (-1, response.body_bytes):
        raise BenchError(f"{kind.path}: {response.body_bytes} bytes, not {kind.body_bytes}")
    for name, value in kind.expected_fields.items():
        if not response.fields.get(name, "").startswith(value):
            raise BenchError(f"{kind.path}: {name} is {response.fields.get(name)!r}, not {value!r}")
    return fields
