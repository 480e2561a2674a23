"""Origins over TLS: real handshakes with servers whose certificates a throwaway authority signs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginRequest
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.http_client.tls import TlsRules, system_tls
from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.origins.scripted_origin import ScriptedOrigin, read_all


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return make_authority(tmp_path, "one")


def make_authority(folder: Path, name: str) -> CertificateAuthority:
    (folder / name).mkdir()
    return CertificateAuthority(folder / name)


@asynccontextmanager
async def serving(
    pair: Pair, clients: CertificateAuthority | None = None, version: str = "TLSv1_3"
) -> AsyncIterator[ScriptedOrigin]:
    """A server with the certificate ``pair``, which accepts client certificates of ``clients``
    only.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.maximum_version = ssl.TLSVersion[version]
    if clients is not None:
        context.load_verify_locations(clients.root)
        context.verify_mode = ssl.CERT_REQUIRED
    async with ScriptedOrigin(tls=context) as server:
        server.put("film.mp4", b"film")
        yield server


async def read_film(url: str, rules: TlsRules) -> bytes:
    origin = HttpOrigin(url, tls=rules.context)
    try:
        return await read_all(await origin.read("film.mp4"))
    finally:
        await origin.close()


async def failure_of(server: ScriptedOrigin, rules: TlsRules) -> OriginFailure:
    """The failure of a read whose request must not reach the server."""
    with pytest.raises(OriginError) as caught:
        await read_film(server.url, rules)
    assert not server.requests
    return caught.value.failure


async def test_configured_authority_is_trusted(authority: CertificateAuthority) -> None:
    async with serving(authority.issue("localhost")) as server:
        assert await read_film(server.url, TlsRules(ca=authority.root)) == b"film"


async def test_certificate_of_another_authority_is_refused(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    other = make_authority(tmp_path, "two")
    async with serving(authority.issue("localhost")) as server:
        assert await failure_of(server, TlsRules(ca=other.root)) is OriginFailure.REFUSED
        assert await failure_of(server, TlsRules()) is OriginFailure.REFUSED  # the system's


async def test_certificate_for_another_name_is_refused(authority: CertificateAuthority) -> None:
    async with serving(authority.issue("www.example.org")) as server:
        rules = TlsRules(ca=authority.root)
        assert await failure_of(server, rules) is OriginFailure.REFUSED
        # The verified name is that of the URL, with any Host.
        origin = HttpOrigin(server.url, tls=rules.context, host="www.example.org")
        with pytest.raises(OriginError, match="CERTIFICATE_VERIFY_FAILED"):
            await origin.send(OriginRequest("GET", "film.mp4"))
        await origin.close()


async def test_verification_is_off_only_if_configured(authority: CertificateAuthority) -> None:
    async with serving(authority.issue("www.example.org")) as server:
        assert await read_film(server.url, TlsRules(verify=False)) == b"film"


@pytest.mark.parametrize(
    ("version", "failure"),
    [
        ("TLSv1_2", OriginFailure.REFUSED),
        (
            "TLSv1_3",
            OriginFailure.BROKEN,
        ),  # rejected after the handshake
    ],
)
async def test_client_certificate_is_sent(
    authority: CertificateAuthority, tmp_path: Path, version: str, failure: OriginFailure
) -> None:
    clients = make_authority(tmp_path, "two")
    pair, foreign = clients.issue("edge"), authority.issue("edge")
    async with serving(authority.issue("localhost"), clients, version) as server:
        alone = TlsRules(ca=authority.root)
        assert await failure_of(server, alone) is failure
        rules = TlsRules(True, authority.root, foreign.certificate, foreign.key)
        assert await failure_of(server, rules) is failure
        rules = TlsRules(True, authority.root, pair.certificate, pair.key)
        assert await read_film(server.url, rules) == b"film"


async def test_context_is_made_once_when_first_needed(authority: CertificateAuthority) -> None:
    contexts = []

    def make() -> ssl.SSLContext:
        contexts.append(TlsRules(ca=authority.root).context())
        return contexts[-1]

    async with serving(authority.issue("localhost")) as server:
        origin = HttpOrigin(server.url, tls=make)
        assert not contexts
        server.hold("film.mp4")
        reads = await asyncio.gather(*(origin.read("film.mp4") for _at_once in range(3)))
        assert len(contexts) == 1
        assert server.connections_accepted == 3
        server.release("film.mp4")
        assert [await read_all(read) for read in reads] == [b"film"] * 3
        await origin.close()


async def test_unusable_certificate_files_are_a_connection_failure(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    pair = authority.issue("edge")
    async with serving(authority.issue("localhost")) as server:
        for rules in (
            TlsRules(ca=tmp_path / "missing.pem"),
            TlsRules(ca=pair.key),
            TlsRules(True, authority.root, pair.certificate, tmp_path / "missing.key"),
            TlsRules(True, authority.root, pair.certificate, authority.root),
        ):
            assert await failure_of(server, rules) is OriginFailure.REFUSED


async def test_context_is_made_again_after_a_failure(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    late = tmp_path / "late.pem"
    async with serving(authority.issue("localhost")) as server:
        origin = HttpOrigin(server.url, tls=TlsRules(ca=late).context)
        with pytest.raises(OriginError, match="No such file"):
            await origin.read("film.mp4")
        late.write_bytes(authority.root.read_bytes())
        assert await read_all(await origin.read("film.mp4")) == b"film"
        await origin.close()


def test_system_tls_makes_one_context() -> None:
    assert system_tls() is system_tls()
    assert system_tls().verify_mode is ssl.CERT_REQUIRED
    assert system_tls().check_hostname
