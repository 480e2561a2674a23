from __future__ import annotations

import dataclasses

import pytest

from bench.http import http_requests, https_requests
from bench.http.requests import Kind, checked_fields
from bench.servers.server import BenchError, Failure
from bench.servers.site import site

KINDS = [
    *http_requests.MISSES,
    *http_requests.CONNECTIONS,
    *http_requests.CONDITIONS,
    *http_requests.RANGES,
    *http_requests.RESPONSES,
    *http_requests.DYNAMIC,
    *https_requests.KINDS,
]


def test_both_servers_give_the_expected_response_of_every_kind() -> None:
    with site() as here:
        assert len(here.servers) == 2
        for server in here.servers.values():
            assert not isinstance(server, Failure), server
            for kind in KINDS:
                fields = checked_fields(kind, server)
                validators = {kind.etag_field, kind.date_field} - {""}
                assert validators <= set(fields), kind.label
            hit = Kind("hit", "/page.html", 1.0)
            for other in ({"status": 404}, {"body_bytes": 9}, {"expected_fields": {"age": "x"}}):
                with pytest.raises(BenchError):
                    checked_fields(dataclasses.replace(hit, **other), server)
