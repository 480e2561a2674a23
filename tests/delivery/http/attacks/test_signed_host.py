"""An invalid Host must not make a signature valid for another path: the host is part of the signed
URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.http.http_viewer import fetch
from tests.support.http.signers import custom_policy, rsa_signer
from tests.support.http.web_edge import serve_web

SIGNER = rsa_signer("K1")
UNTIL_S = 4_102_444_800
TABLES = {
    "public_keys": {"K1": {"pem": SIGNER.public_pem.decode()}},
    "key_groups": {"viewers": {"keys": ["K1"]}},
}
POLICY = custom_policy("http://cdn/free/*", UNTIL_S)
QUERY = SIGNER.url("http://cdn/free/a", policy=POLICY).partition("?")[2]


@pytest.mark.parametrize(
    "host", ["cdn/free", "cdn/free/", "x@cdn/free", "cdn/free?", "cdn/free#", "cdn/free:80"]
)
async def test_path_in_the_host_gives_no_access_to_another_path(
    cache_root: Path, host: str
) -> None:
    rules = {"trusted_key_groups": ["viewers"]}
    async with serve_web(cache_root, rules=rules, tables=TABLES) as edge:
        edge.origin.put("free/a", b"free")
        edge.origin.put("paid/a", b"paid")
        assert (await fetch(edge.port, f"/free/a?{QUERY}", host="cdn")).status == 200
        assert (await fetch(edge.port, f"/paid/a?{QUERY}", host="cdn")).status == 403
        refused = await fetch(edge.port, f"/paid/a?{QUERY}", host=host)
        assert refused.status in {400, 403}
        assert len(edge.origin.requests) == 1
