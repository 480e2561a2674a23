"""A request gets the same response cold, warm and on the fast path, error responses included.

Two edges with one config get the same requests. The responses of one origin are fresh, so that edge
uses the fast path; those of the other are stale, so each request takes the general path.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.cache.storage.store import prepare_folder
from streamedge.spans import Span
from tests.support.http_viewer import Response, open_viewer
from tests.support.scripted_origin import Pattern
from tests.support.signers import custom_policy, rsa_signer
from tests.support.web_edge import WebEdge, serve_web

FILM = Pattern(3000, seed=3).read(Span(0, 3000))
SIGNER = rsa_signer("K1")
UNTIL_S = 4_102_444_800
# The fields that may differ: the source of the response, its time, and the origins' own.
NOT_COMPARED = frozenset({"age", "cache-control", "cache-status", "date", "x-cache"})


def distribution(id_: str, alias: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "type": "web", "origin": "main", "aliases": [alias], **more}


SIGNED = {"trusted_key_groups": ["viewers"]}
TABLES: dict[str, Any] = {
    "public_keys": {"K1": {"pem": SIGNER.public_pem.decode()}},
    "key_groups": {"viewers": {"keys": ["K1"]}},
    "cache_policies": {"queries": {"query_strings": "all"}},
    "distributions": [
        distribution("EANY", "*", **SIGNED),
        distribution("EBELOW", "*.example.net", **SIGNED),
        distribution(
            "EOPEN",
            "open.example.org",
            cache_policy="queries",
            methods=["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
            behaviors=[
                {"path": "secret*", **SIGNED},
                {"path": "safe/*", "viewer_protocol": "https-only"},
                {"path": "moved/*", "viewer_protocol": "redirect-to-https"},
            ],
        ),
    ],
}
NAMES = ("free/a", "secret", "safe/a", "moved/a", "a b", "%66ree/a")


def signed(resource: str, url: str) -> str:
    """The query of ``url`` signed with a custom policy for ``resource``."""
    policy = custom_policy(resource, UNTIL_S)
    return SIGNER.url(url, policy=policy).partition("?")[2]


def canned(url: str) -> str:
    return SIGNER.url(url, expires_s=UNTIL_S).partition("?")[2]


_GOOD_HOSTS = ("edge.test", "a.example.net", "open.example.org", "OPEN.example.org:80")
_BAD_HOSTS = (
    *("edge.test/free", "a.example.net/free/.example.net", "open.example.org:x", "", "a b"),
    *("open.example.org:80/../", "open.example.org:<b>", "u@open.example.org", "[::1].evil"),
    *("open.example.org\r\nHost: edge.test", "\xe9.example.net", "open.example.org."),
)
_PATHS = (
    *("/free/a", "/secret", "/safe/a", "/moved/a", "/a%20b", "/%66ree/a", "/none", "/", "*"),
    *("/free%2Fa", "//free/a", "/free/../secret", "/free/%2e%2e/secret", "/a%0Ab", "/a\\b"),
    *("http://open.example.org/free/a", "http://edge.test/secret", "ftp://edge.test/free/a"),
    "/" + "a" * 8200,
)
_QUERIES = (
    *("", "v=1", "v=1&v=2", "#f"),
    *(canned(f"http://{host}/secret") for host in _GOOD_HOSTS[:3]),
    *(signed(f"http://{host}/free/*", f"http://{host}/free/a") for host in _GOOD_HOSTS[:3]),
    signed("http://*", "http://edge.test/free/a"),
    canned("http://edge.test/secret") + "x",
    canned("http://edge.test/secret") + "&Expires=1",
)
_FIELDS = (
    *("Range: bytes=0-3", "Range: bytes=5-", "Range: bytes=-5", "Range: bytes=9000-"),
    *("Range: chars=1-2", 'If-None-Match: "v1"', 'If-Match: "v2"'),
    *("CDN-Loop: streamedge-test", "TE: trailers", "Upgrade: h2c\r\nConnection: Upgrade"),
    *("Content-Length: 0", "X-Amz-Date: 1", "Origin: https://page.example", "Accept: a"),
    *("X-Forwarded-For: 192.0.2.1", "User-Agent: \xe9", "Cookie: a=1"),
)


class Case(NamedTuple):
    method: str
    host: str
    target: str
    fields: tuple[str, ...]
    version: str

    @property
    def raw(self) -> bytes:
        head = f"{self.method} {self.target} HTTP/{self.version}\r\nHost: {self.host}\r\n"
        lines = "".join(f"{field}\r\n" for field in self.fields)
        return f"{head}{lines}\r\n".encode("latin-1")


requests = st.builds(
    lambda method, host, path, query, fields, version: Case(
        method, host, f"{path}?{query}" if query else path, tuple(fields), version
    ),
    st.sampled_from(["GET"] * 6 + ["HEAD", "OPTIONS", "DELETE", "TRACE"]),
    st.sampled_from(_GOOD_HOSTS * 3 + _BAD_HOSTS),
    st.sampled_from(_PATHS),
    st.sampled_from(_QUERIES),
    st.lists(st.sampled_from(_FIELDS), max_size=2, unique=True),
    st.sampled_from(["1.1"] * 8 + ["1.0"]),
)


@asynccontextmanager
async def edges(root: Path) -> AsyncIterator[tuple[WebEdge, WebEdge]]:
    roots = root / "warm", root / "cold"
    for folder in roots:
        prepare_folder(folder)
    async with (
        serve_web(roots[0], tables=TABLES) as warm,
        serve_web(roots[1], tables=TABLES) as cold,
    ):
        for edge, cache_control in ((warm, "max-age=600"), (cold, "max-age=0")):
            for name in NAMES:
                fields = (("Cache-Control", cache_control),)
                edge.origin.put(name, FILM, etag='"v1"', headers=fields)
        yield warm, cold


def compared(response: Response) -> tuple[int, dict[str, str], bytes]:
    fields = {name: v for name, v in response.fields.items() if name not in NOT_COMPARED}
    if response.status == 416:  # the origin's own for an object that was not cached yet
        return response.status, {}, b""
    return response.status, fields, response.body


async def answer(edge: WebEdge, case: Case) -> tuple[int, dict[str, str], bytes]:
    async with open_viewer(edge.port) as viewer:
        await viewer.send(case.raw)
        return compared(await viewer.receive(case.method))


def test_responses_are_the_same_cold_warm_and_on_the_fast_path(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        both = edges(tmp_path)
        warm, cold = runner.run(both.__aenter__())

        @settings(
            max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(requests)
        def check(case: Case) -> None:
            expected = runner.run(answer(cold, case))
            for _first_then_remembered in range(3):
                assert runner.run(answer(warm, case)) == expected

        try:
            check()
            hits = [line for line in warm.lines() if line["cache"] == "Hit"]
            assert hits, "nothing was answered from the cache"
        finally:
            runner.run(both.__aexit__(None, None, None))
