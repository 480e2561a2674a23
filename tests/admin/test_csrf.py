"""What a web page in an operator's browser may have of the admin address, and what it may not."""

from __future__ import annotations

import json

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.process.control import create_admin_app
from tests.support.asgi_call import call
from tests.support.shared_memory import make_shared


async def ask(
    method: str, path: str, *fields: tuple[str, str], admin_host: str = "127.0.0.1"
) -> tuple[int, str | None]:
    """Status and reason of the answer to a call of ``/reload`` or CloudFront's API."""

    async def done(_request: Request) -> Response:
        return JSONResponse({})

    routes = [
        Route("/reload", done, methods=["GET", "POST"]),
        Route("/2020-05-31/{rest:path}", done, methods=["GET", "POST"]),
    ]
    app = create_admin_app("fra-1", make_shared(0), None, routes, admin_host)
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
async def test_a_page_of_another_site_changes_nothing(field: tuple[str, str], status: int) -> None:
    said, reason = await ask("POST", "/reload", ("Host", "127.0.0.1:9090"), field)
    assert said == status
    assert (reason is not None) == (status == 403)
    assert (await ask("GET", "/reload", field))[0] == 200


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
async def test_a_name_that_was_rebound_reads_nothing(host: str, status: int, method: str) -> None:
    said, reason = await ask(method, "/reload", ("Host", host), admin_host="edge.ops.example")
    assert said == status
    assert (reason is not None) == (status == 421)


async def test_of_two_hosts_both_count() -> None:
    hosts = (("Host", "localhost"), ("Host", "attacker.example"))
    assert (await ask("GET", "/reload", *hosts))[0] == 421


async def test_what_is_signed_needs_no_such_care() -> None:
    fields = (("Host", "cloudfront.example"), ("Origin", "https://console.example"))
    assert await ask("POST", "/2020-05-31/distribution", *fields) == (200, None)
    assert (await ask("POST", "/2020-05-31", *fields))[0] == 421
