"""The CSRF guard: which calls of web pages the admin address accepts."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.admin.access.same_origin import comes_from_own_page, is_own_host
from streamedge.admin.app import create_admin_app
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.process.shared_memory import make_shared


async def request(
    method: str, path: str, *fields: tuple[str, str], names: Collection[str] = ("localhost",)
) -> tuple[int, str | None]:
    """The status and the reason in the response to a call of ``/reload`` or CloudFront's API."""

    async def respond(_request: Request) -> Response:
        return JSONResponse({})

    routes = [
        Route("/reload", respond, methods=["GET", "POST"]),
        Route("/2020-05-31/{rest:path}", respond, methods=["GET", "POST"]),
    ]
    shared = make_shared(0)
    app = create_admin_app(
        "fra-1", shared, open_access(shared), None, routes, partial(is_own_host, names=names)
    )
    status, body = await call(app, method, path, fields=fields)
    return status, json.loads(body).get("error")


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (("Origin", "https://attacker.example"), 403),
        (("Origin", "null"), 403),
        (("Origin", ""), 403),
        (("Sec-Fetch-Site", "cross-site"), 403),
        (("Sec-Fetch-Site", "same-site"), 403),
        (("Sec-Fetch-Site", "same-origin"), 200),
        (("Sec-Fetch-Site", "none"), 200),
        (("User-Agent", "curl/8"), 200),
    ],
)
async def test_page_of_another_site_changes_nothing(field: tuple[str, str], status: int) -> None:
    actual, reason = await request("POST", "/reload", ("Host", "127.0.0.1:9090"), field)
    assert actual == status
    assert (reason is not None) == (status == 403)
    assert (await request("GET", "/reload", field))[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9090", 200),
        ("[::1]:9090", 200),
        ("192.0.2.7", 200),
        ("localhost:9090", 200),
        ("LOCALHOST", 200),
        ("edge.ops.example:9090", 200),
        ("attacker.example:9090", 421),
        ("127.0.0.1.attacker.example", 421),
        ("edge.ops.example.attacker.example", 421),
        ("", 421),
    ],
)
async def test_rebound_host_name_reads_nothing(host: str, status: int, method: str) -> None:
    actual, reason = await request(
        method, "/reload", ("Host", host), names=("localhost", "edge.ops.example")
    )
    assert actual == status
    assert (reason is not None) == (status == 421)


async def test_both_of_two_host_fields_are_checked() -> None:
    hosts = (("Host", "localhost"), ("Host", "attacker.example"))
    assert (await request("GET", "/reload", *hosts))[0] == 421


async def test_signed_api_calls_are_exempt() -> None:
    fields = (("Host", "cloudfront.example"), ("Origin", "https://console.example"))
    assert await request("POST", "/2020-05-31/distribution", *fields) == (200, None)
    assert (await request("POST", "/2020-05-31", *fields))[0] == 421


@pytest.mark.parametrize(
    ("sites", "origins", "expected"),
    [
        ([], [], True),
        ([], ["http://127.0.0.1:9090"], True),
        ([], ["http://127.0.0.1:9090", "http://127.0.0.1:9090"], True),
        ([], ["http://127.0.0.1:9090", "null"], False),
        ([], ["https://127.0.0.1:9090"], False),
        ([], ["http://127.0.0.1"], False),
        ([], ["null"], False),
        (["same-origin"], ["http://127.0.0.1:9090"], True),
        (["none"], ["null"], True),
        (["same-origin", "cross-site"], ["http://127.0.0.1:9090"], False),
        (["same-site"], ["http://127.0.0.1:9090"], False),
    ],
)
def test_origin_counts_where_the_browser_does_not_state_the_site(
    sites: list[str], origins: list[str], expected: bool
) -> None:
    assert comes_from_own_page(sites, origins, "http", ["127.0.0.1:9090"]) is expected


def test_origin_is_compared_with_one_host_only() -> None:
    hosts = ["127.0.0.1:9090", "127.0.0.1:9090"]
    assert not comes_from_own_page([], ["http://127.0.0.1:9090"], "http", hosts)
    assert not comes_from_own_page([], ["http://127.0.0.1:9090"], "http", [])
    assert comes_from_own_page([], ["https://edge.example"], "https", ["Edge.example"])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("edge.ops.example:9090", True),
        ("fra.cdn.example", True),
        ("a.fra.cdn.example", False),
        ("cdn.example", False),
        ("192.0.2.1:9090", True),
        ("attacker.example", False),
    ],
)
def test_names_of_the_certificate_are_names_of_the_edge(host: str, expected: bool) -> None:
    certificate = {"edge.ops.example", "*.cdn.example"}
    assert is_own_host(host, {"localhost"}, certificate) is expected
