"""Journey: the recipe of docs/guides/http3.md, with a real Caddy in front of a real edge."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.http.http3_client import open_http3
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "http3.md"
NAME = "www.example.org"
BODY = bytes(range(256)) * 2000


def block(language: str) -> str:
    """The first code block of the guide in a language."""
    match = re.search(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


@contextmanager
def run_caddy(folder: Path, pair: Pair, port: int, edge_port: int) -> Iterator[None]:
    caddyfile = block("").replace(":443", f":{port}").replace(":8080", f":{edge_port}")
    caddyfile = caddyfile.replace("/etc/streamedge/certs/site.pem", str(pair.certificate))
    caddyfile = caddyfile.replace("/etc/streamedge/certs/site.key", str(pair.key))
    (folder / "Caddyfile").write_text(caddyfile)
    command = ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    log_file = folder / "caddy.log"
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while b"serving initial configuration" not in log_file.read_bytes():
            assert process.poll() is None, log_file.read_text()
            assert time.monotonic() < deadline_s, log_file.read_text()
            pause()
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[EdgeProcess, int, CertificateAuthority]]:
    """An edge behind Caddy, Caddy's UDP port, and the authority of its certificate."""
    media = tmp_path / "media"
    media.mkdir()
    (media / "film.bin").write_bytes(BODY)
    authority = CertificateAuthority(tmp_path)
    pair = authority.issue(NAME)
    (port,) = free_ports(1)
    proxies, alt_svc = (
        re.search(rf"^{key} = .*$", block("toml"), re.MULTILINE) for key in ("proxies", "alt_svc")
    )
    assert proxies is not None
    assert alt_svc is not None
    listen = f"{proxies[0]}\n{alt_svc[0]}\n"
    origin = f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
    with (
        run_edge(tmp_path / "edge", origin, listen=listen) as edge,
        run_caddy(tmp_path, pair, port, edge.http_port),
    ):
        yield edge, port, authority


async def test_viewers_over_http3_get_objects_and_ranges_through_the_recipe(
    served: tuple[EdgeProcess, int, CertificateAuthority],
) -> None:
    edge, port, authority = served
    async with open_http3(port, NAME, authority.root) as client:
        for expected in ("Miss", "Hit"):
            response = await client.get(NAME, "/film.bin")
            assert (response.status, response.body) == (200, BODY)
            assert response.fields["x-cache"] == f"{expected} from streamedge"
        part = await client.get(NAME, "/film.bin", (b"range", b"bytes=100-199"))
        assert (part.status, part.body) == (206, BODY[100:200])
        assert (await client.get(NAME, "/none")).status == 404
    lines = edge.await_log("response", 4)
    assert {line["viewer"] for line in lines} == {"127.0.0.1"}


def test_edge_announces_the_server_in_front_to_viewers_over_tls(
    served: tuple[EdgeProcess, int, CertificateAuthority],
) -> None:
    edge, _port, _authority = served
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"}
    secure = urllib.request.Request(edge.http("film.bin"), headers=forwarded)
    with urllib.request.urlopen(secure, timeout=PATIENCE_S) as response:
        assert response.headers["Alt-Svc"] == 'h3=":443"; ma=86400'
    with urllib.request.urlopen(edge.http("film.bin"), timeout=PATIENCE_S) as response:
        assert response.headers["Alt-Svc"] is None
