"""Redirects that are followed, and that none leads to another server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginRequest
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.http_client.redirects import redirect_url
from streamedge.origin.http_client.request import split_url
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin, read_all

URL = "https://www.example.org:8443/base/a?q=1"
ELSEWHERE = [
    "http://www.example.org:8443/b",  # another scheme
    "https://www.example.org/b",  # another port
    "https://evil.example:8443/b",
    "//evil.example:8443/b",
    "https://www.example.org:8443@evil.example/b",
    "https://www.example.org:8443@evil.example:8443/b",
    "https://user@www.example.org:8443/b",
    "https://www.example.org:8443\\@evil.example/b",
    "https://www.example.org.evil.example:8443/b",
    "https://www.example.org.:8443/b",
    "https://[::1]:8443/b",
    "https://127.0.0.1:8443/b",
    "https://www.example.org:08443x/b",
    "https://www.example.org:99999/b",
    "ftp://www.example.org:8443/b",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://[",
    "",
    " ",
    "/b c",
    "/b\r\nHost: evil.example",
    "/\x00",
    "/é",
]


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b", "https://www.example.org:8443/b"),
        ("b?x=%2F#part", "https://www.example.org:8443/base/b?x=%2F#part"),
        ("../../../b", "https://www.example.org:8443/b"),
        ("?q=2", "https://www.example.org:8443/base/a?q=2"),
        ("//www.example.org:8443/b", "https://www.example.org:8443/b"),
        ("https://WWW.Example.org:8443/b", "https://WWW.Example.org:8443/b"),
        (" /b\t", "https://www.example.org:8443/b"),
        # Some parsers see a host here; this parser alone decides where the edge connects.
        ("///evil.example/b", "https://www.example.org:8443/evil.example/b"),
        ("\\\\evil.example\\b", "https://www.example.org:8443/base/\\\\evil.example\\b"),
    ],
)
def test_redirect_to_the_same_endpoint_is_followed(location: str, url: str) -> None:
    for status in (301, 302, 303, 307, 308):
        assert redirect_url(URL, status, [("LOCATION", location)]) == url


@pytest.mark.parametrize("location", ELSEWHERE)
def test_redirect_to_another_endpoint_is_not_followed(location: str) -> None:
    assert redirect_url(URL, 302, [("Location", location)]) is None


@pytest.mark.parametrize("status", [200, 201, 300, 304, 305, 306, 404])
def test_other_statuses_are_not_redirects(status: int) -> None:
    assert redirect_url(URL, status, [("Location", "/b")]) is None


def test_response_with_no_or_two_locations_is_not_followed() -> None:
    assert redirect_url(URL, 302, []) is None
    assert redirect_url(URL, 302, [("Location", "/b"), ("location", "/c")]) is None


@given(st.text() | st.text(alphabet="htps:/\\@.[]#?%0evil", max_size=30))
def test_location_cannot_change_the_endpoint(location: str) -> None:
    target = redirect_url(URL, 302, [("Location", location)])
    assert target is None or split_url(target)[0] == split_url(URL)[0]


# --- followed ---------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as server:
        server.put("film.mp4", b"film")
        yield server


def to(location: str, status: int = 302) -> Reply:
    return Reply(status=status, headers=(("Location", location),), body=b"moved")


async def test_redirects_are_followed_up_to_their_limit(server: ScriptedOrigin) -> None:
    origin = HttpOrigin(server.url, redirects_max=2, headers=[("X-Secret", "s")])
    server.script(to("/elsewhere?x=1"))
    server.script(to(f"{server.url}/film.mp4", 308))
    assert await read_all(await origin.read("old.mp4")) == b"film"
    server.script(to("/film.mp4"))
    assert (await origin.head("old.mp4")).version.size_bytes == 4
    assert [(seen.method, seen.path) for seen in server.requests] == [
        ("GET", "/old.mp4"),
        ("GET", "/elsewhere?x=1"),
        ("GET", "/film.mp4"),
        ("HEAD", "/old.mp4"),
        ("HEAD", "/film.mp4"),
    ]
    assert {seen.headers["x-secret"] for seen in server.requests} == {"s"}
    await origin.close()


async def test_redirect_loop_ends_at_the_limit(server: ScriptedOrigin) -> None:
    origin = HttpOrigin(server.url, redirects_max=3)
    server.script(to("/film.mp4"), times=8)
    with pytest.raises(OriginError) as caught:
        await origin.read("film.mp4")
    assert caught.value.failure is OriginFailure.UNAVAILABLE
    assert len(server.requests) == 4
    response = await origin.send(OriginRequest("GET", "film.mp4"))
    assert response.status == 302  # the redirect beyond the limit goes to the viewer
    response.close()
    assert len(server.requests) == 8
    await origin.close()


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
async def test_other_methods_do_not_follow_redirects(server: ScriptedOrigin, method: str) -> None:
    origin = HttpOrigin(server.url, redirects_max=3)
    server.script(to("/film.mp4", 307))
    response = await origin.send(OriginRequest(method, "film.mp4"))
    assert response.status == 307
    assert len(server.requests) == 1
    response.close()
    await origin.close()


async def test_redirects_are_not_followed_by_default(server: ScriptedOrigin) -> None:
    origin = HttpOrigin(server.url)
    server.script(to("/film.mp4"))
    response = await origin.send(OriginRequest("GET", "old.mp4"))
    assert (response.status, dict(response.fields)["Location"]) == (302, "/film.mp4")
    assert len(server.requests) == 1
    response.close()
    await origin.close()


# --- nothing leads to another server ----------------------------------------------------------

NAMES = [
    "//evil",
    "/evil",
    "http://evil/x",
    "@evil/x",
    "a?b@evil",
    "a#b",
    "%2f%2fevil",
    "user:p@evil",
]


@pytest.fixture
async def stranger() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as stranger:
        yield stranger


@pytest.mark.parametrize("name", NAMES)
async def test_object_name_cannot_change_the_endpoint(
    server: ScriptedOrigin, stranger: ScriptedOrigin, name: str
) -> None:
    name = name.replace("evil", f"127.0.0.1:{stranger.port}")
    origin = HttpOrigin(server.url, redirects_max=3)
    query = f"u=http://127.0.0.1:{stranger.port}/@127.0.0.1:{stranger.port}"
    response = await origin.send(OriginRequest("GET", name, query))
    assert response.status == 404
    response.close()
    (seen,) = server.requests
    assert seen.path.startswith("/")
    assert seen.headers["host"] == f"127.0.0.1:{server.port}"
    assert not stranger.requests
    await origin.close()


async def test_response_cannot_change_the_endpoint(
    server: ScriptedOrigin, stranger: ScriptedOrigin
) -> None:
    origin = HttpOrigin(server.url, redirects_max=3)
    place = f"127.0.0.1:{stranger.port}"
    leading = [f"//{place}/x", f"http://{place}/x", f"http://127.0.0.1@{place}/x"]
    for location in leading:
        fields = tuple((name, location) for name in ("Location", "Content-Location", "Refresh"))
        server.script(Reply(status=302, headers=(*fields, ("Alt-Svc", f'h2="{place}"'))))
        response = await origin.send(OriginRequest("GET", "film.mp4"))
        assert response.status == 302
        response.close()
    assert len(server.requests) == len(leading)
    assert not stranger.connections_accepted
    await origin.close()


async def test_origin_fields_cannot_change_the_endpoint(
    server: ScriptedOrigin, stranger: ScriptedOrigin
) -> None:
    place = f"127.0.0.1:{stranger.port}"
    for host, sent in (
        ("origin", f"127.0.0.1:{server.port}"),
        ("www.example.org", "www.example.org"),
        ("viewer", place),
    ):
        origin = HttpOrigin(server.url, host=host)
        fields = (("host", place), ("forwarded", f"host={place}"), ("x-forwarded-host", place))
        response = await origin.send(OriginRequest("GET", "film.mp4", fields=fields))
        assert response.status == 200
        response.close()
        assert server.requests[-1].headers["host"] == sent
        await origin.close()
    assert not stranger.connections_accepted


async def test_missing_viewer_host_is_replaced_by_the_origins(server: ScriptedOrigin) -> None:
    origin = HttpOrigin(server.url, host="viewer")
    assert await read_all(await origin.read("film.mp4")) == b"film"
    assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"
    await origin.close()


async def test_named_host_and_headers_are_sent_with_fills_too(server: ScriptedOrigin) -> None:
    origin = HttpOrigin(
        server.url,
        host="www.example.org:81",
        headers=[("X-Secret", "s"), ("user-agent", "edge"), ("x-who", "origin")],
    )
    await read_all(await origin.read("film.mp4"))
    await origin.head("film.mp4")
    fields = (("X-Who", "viewer"), ("User-Agent", "browser"))
    (await origin.send(OriginRequest("GET", "film.mp4", fields=fields))).close()
    field_values = [
        [seen.headers[name] for name in ("host", "x-secret", "user-agent", "x-who")]
        for seen in server.requests
    ]
    assert field_values == [["www.example.org:81", "s", "edge", "origin"]] * 3
    await origin.close()


async def test_total_timeout_includes_redirects(server: ScriptedOrigin) -> None:
    origin = HttpOrigin(server.url, total_timeout_s=0.2)
    server.script(Reply(silent=True))
    with pytest.raises(OriginError) as caught:
        await origin.read("film.mp4")
    assert caught.value.failure is OriginFailure.TIMEOUT
    await origin.close()
