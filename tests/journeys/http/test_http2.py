"""Journeys: a real edge over HTTP/2, with curl and httpx, and its end under load."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority
from tests.support.origins.scripted_origin import Pattern
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

FILM = Pattern(4_000_001, seed=11)
WHOLE = FILM.read(Span(0, FILM.size_bytes))
NAME = "one.example"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[EdgeProcess, int, CertificateAuthority]]:
    """An edge with two workers, its HTTPS port, and the authority of its certificate."""
    authority = CertificateAuthority(tmp_path)
    pair = authority.issue(NAME, "localhost")
    media = tmp_path / "media"
    media.mkdir()
    (media / "film.mp4").write_bytes(WHOLE)
    (port,) = free_ports(1)
    config = (
        f'[[certificates]]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
        f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
    )
    listen = f'https = ["127.0.0.1:{port}"]'
    with run_edge(tmp_path / "edge", config, workers=2, listen=listen) as edge:
        yield edge, port, authority


def client(authority: CertificateAuthority) -> httpx.AsyncClient:
    context: ssl.SSLContext = authority.client()
    return httpx.AsyncClient(http1=False, http2=True, verify=context, timeout=PATIENCE_S)


async def test_httpx_receives_every_byte(
    secure: tuple[EdgeProcess, int, CertificateAuthority],
) -> None:
    _edge, port, authority = secure
    async with client(authority) as viewer:
        url = f"https://localhost:{port}/film.mp4"
        for _miss_then_hit in range(2):
            responses = await asyncio.gather(*(viewer.get(url) for _ in range(8)))
            assert all(one.content == WHOLE for one in responses)
            assert {one.http_version for one in responses} == {"HTTP/2"}
        part = await viewer.get(url, headers={"range": "bytes=-10"})
        assert (part.status_code, part.content) == (206, WHOLE[-10:])


def curl(port: int, authority: CertificateAuthority, files: list[Path], *options: str) -> list[str]:
    """The command that gets the film in parallel, once into each of ``files``."""
    parts = [
        part for file in files for part in ("-o", str(file), f"https://{NAME}:{port}/film.mp4")
    ]
    return [
        *("curl", "--silent", "--show-error", "--fail", "--http2", "--parallel", *options),
        *("--noproxy", "*", "--cacert", str(authority.root)),
        *("--resolve", f"{NAME}:{port}:127.0.0.1", *parts),
    ]


def test_curl_gets_parallel_responses(
    secure: tuple[EdgeProcess, int, CertificateAuthority], tmp_path: Path
) -> None:
    _edge, port, authority = secure
    files = [tmp_path / f"{number}.out" for number in range(6)]
    subprocess.run(curl(port, authority, files), check=True, timeout=PATIENCE_S)
    assert all(file.read_bytes() == WHOLE for file in files)


def test_edge_that_ends_under_load_completes_what_it_has_accepted(
    secure: tuple[EdgeProcess, int, CertificateAuthority], tmp_path: Path
) -> None:
    edge, port, authority = secure
    files = [tmp_path / f"{number}.out" for number in range(8)]
    with subprocess.Popen(curl(port, authority, files, "--limit-rate", "2M")) as viewer:
        while not all(file.exists() and file.stat().st_size for file in files):
            pause()
        assert edge.stop() == 0
        assert viewer.wait(PATIENCE_S) == 0
    assert all(file.read_bytes() == WHOLE for file in files)
