"""Selection of certificates by host name, and renewal without a restart."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from streamedge.config.schema.config import Config
from streamedge.delivery.net.tls import NamedTls
from streamedge.process.certificates import (
    CertificateChange,
    CertificateError,
    CertificateFiles,
    Certificates,
    http2_hosts,
    load_pairs,
)
from tests.support.certificate_authority import CertificateAuthority, Pair, replace


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def certificates_of(*pairs: Pair) -> Certificates:
    return Certificates([CertificateFiles(pair.certificate, pair.key) for pair in pairs])


def handshake(
    certificates: Certificates,
    client: ssl.SSLContext,
    name: str | None = None,
    session: ssl.SSLSession | None = None,
    servers: list[ssl.SSLObject] | None = None,
) -> ssl.SSLObject:
    """The client's end after a handshake in memory; ``servers`` gets the other. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificates.front.wrap_bio(to_server, to_client, server_side=True)
    if servers is not None:
        servers.append(server)
    ours = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    ends = [ours, server]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    server.write(b"!")
    assert ours.read(10) == b"!"  # and with it the tickets
    return ours


def unverifying_client() -> ssl.SSLContext:
    """A client that does not verify certificates."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return client


def shown_certificate(certificates: Certificates, name: str | None) -> bytes:
    """The certificate that a client receives, as DER."""
    certificate = handshake(certificates, unverifying_client(), name).getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())


def reload_twice(certificates: Certificates) -> list[CertificateChange]:
    """The changes of two reloads: the first sees changed files, the second loads them."""
    assert asyncio.run(certificates.reload_changed()) == []
    return asyncio.run(certificates.reload_changed())


def test_certificate_is_selected_by_name_and_defaults_to_the_first(
    authority: CertificateAuthority,
) -> None:
    first = authority.issue("one.example")
    second = authority.issue("two.example", "*.Two.example")
    exact = authority.issue("exact.two.example", "one.example")
    certificates = certificates_of(first, second, exact)
    expected = {
        "one.example": first,  # of two that have it, the one declared first
        "two.example": second,
        "TWO.example": second,
        "a.two.example": second,
        "exact.two.example": exact,  # an exact name precedes a wildcard, in any order
        "a.b.two.example": first,  # a wildcard is one label
        "example": first,
        "else.example": first,
        None: first,
    }
    for name, pair in expected.items():
        assert shown_certificate(certificates, name) == der(pair), name


def test_verifying_client_accepts_matching_names_only(authority: CertificateAuthority) -> None:
    certificates = certificates_of(authority.issue("one.example"), authority.issue("*.two.example"))
    handshake(certificates, authority.client(), "one.example")
    handshake(certificates, authority.client(), "a.two.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(certificates, authority.client(), "three.example")


def test_certificate_without_names_is_the_default_only(
    authority: CertificateAuthority,
) -> None:
    nameless, named = authority.issue(), authority.issue("two.example")
    certificates = certificates_of(nameless, named)
    assert shown_certificate(certificates, "two.example") == der(named)
    assert shown_certificate(certificates, "one.example") == der(nameless)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_resume_sessions_and_negotiate_http_2(
    authority: CertificateAuthority, version: ssl.TLSVersion
) -> None:
    certificates = certificates_of(authority.issue("one.example"))
    client = authority.client()
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    first = handshake(certificates, client, "one.example")
    assert first.version() == version.name.replace("_", ".")
    assert first.selected_alpn_protocol() == "h2"
    assert not first.session_reused
    assert handshake(certificates, client, "one.example", first.session).session_reused


def protocol_for(certificates: Certificates, name: str | None) -> str | None:
    """The protocol that a client gets that prefers HTTP/2."""
    client = unverifying_client()
    client.set_alpn_protocols(["h2", "http/1.1"])
    return handshake(certificates, client, name).selected_alpn_protocol()


def test_http2_is_offered_for_the_hosts_of_its_distributions(
    authority: CertificateAuthority,
) -> None:
    pair = authority.issue("*.example", "one.example.net")
    old = {"id": "EOLD", "type": "web", "origin": "main", "aliases": ["old.example", "*.net"]}
    config = Config.model_validate(
        {
            "origins": {"main": {"type": "http", "url": "http://127.0.0.1"}},
            "distributions": [
                {"id": "EWEB", "type": "web", "origin": "main", "aliases": ["*"]},
                {**old, "http2": False},
            ],
        }
    )
    files = [CertificateFiles(pair.certificate, pair.key)]
    certificates = Certificates(files, http2_hosts(config))
    for name, protocol in (
        ("new.example", "h2"),
        (None, "h2"),
        ("old.example", "http/1.1"),
        ("one.example.net", "http/1.1"),
    ):
        assert protocol_for(certificates, name) == protocol
    without = config.model_copy(
        update={"listen": config.listen.model_copy(update={"http2": False})}
    )
    certificates.use(load_pairs(files), http2_hosts(without))
    assert protocol_for(certificates, "new.example") == "http/1.1"


def test_full_handshake_sends_one_ticket(authority: CertificateAuthority) -> None:
    pair = authority.issue("a.example")
    front = Certificates([CertificateFiles(pair.certificate, pair.key)]).front
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = front.wrap_bio(to_server, to_client, server_side=True)
    client = unverifying_client().wrap_bio(to_client, to_server)
    for end in (client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    client.do_handshake()
    assert to_client.pending == 0
    server.do_handshake()
    assert client.version() == "TLSv1.3"
    rest, records = to_client.read(), 0
    while rest:  # each ticket is one record
        rest = rest[5 + int.from_bytes(rest[3:5]) :]
        records += 1
    assert records == 1


def test_session_is_resumed_after_a_reload(authority: CertificateAuthority) -> None:
    pair = authority.issue("one.example")
    certificates = certificates_of(pair)
    client = authority.client()
    session = handshake(certificates, client, "one.example").session
    authority.issue("one.example", into=pair)
    assert len(reload_twice(certificates)) == 1
    assert handshake(certificates, client, "one.example", session).session_reused


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the version is old: that is the point
def test_tls_1_1_is_refused(authority: CertificateAuthority) -> None:
    certificates = certificates_of(authority.issue("one.example"))
    client = unverifying_client()
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        handshake(certificates, client, "one.example")


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "ECDHE+AES128+SHA256:!AESGCM"])
def test_cipher_without_forward_secrecy_or_authenticated_encryption_is_refused(
    authority: CertificateAuthority, ciphers: str
) -> None:
    certificates = certificates_of(authority.issue("one.example"))
    client = unverifying_client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(ciphers)
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        handshake(certificates, client, "one.example")


def host_check(certificates: Certificates, name: str | None) -> Callable[[str], bool] | None:
    """The host check of a connection with this name (SNI)."""
    servers: list[ssl.SSLObject] = []
    handshake(certificates, unverifying_client(), name, servers=servers)
    (server,) = servers
    assert isinstance(server, NamedTls)
    return server.serves


def test_connection_serves_only_the_hosts_of_its_certificate(
    authority: CertificateAuthority,
) -> None:
    """RFC 9110 §7.4. Other hosts get the first certificate, under any of its names."""
    first, second = authority.issue("one.example"), authority.issue("two.example", "*.two.example")
    both = authority.issue("three.example", "one.example")
    certificates = certificates_of(first, second, both)
    hosts = {"one.example", "two.example:443", "A.two.example", "three.example", "10.0.0.1", "x"}
    expected = {
        "one.example": {"one.example", "10.0.0.1", "x"},
        "unknown.example": {"one.example", "10.0.0.1", "x"},
        "two.example": {"two.example:443", "A.two.example"},
        "b.two.example": {"two.example:443", "A.two.example"},
        "three.example": {"three.example", "one.example"},
    }
    for name, expected_hosts in expected.items():
        serves = host_check(certificates, name)
        assert serves is not None
        assert {host for host in hosts if serves(host)} == expected_hosts, name


def test_connection_without_sni_serves_every_host(authority: CertificateAuthority) -> None:
    certificates = certificates_of(authority.issue("one.example"), authority.issue("two.example"))
    assert host_check(certificates, None) is None


def test_connection_serves_its_hosts_after_a_renewal(authority: CertificateAuthority) -> None:
    first, second = authority.issue("one.example"), authority.issue("two.example")
    certificates = certificates_of(first, second)
    serves = host_check(certificates, "two.example")
    assert serves is not None
    hosts = ("two.example", "new.example", "one.example")
    assert [serves(host) for host in hosts] == [True, False, False]
    authority.issue("new.example", into=second)
    assert len(reload_twice(certificates)) == 1
    assert [serves(host) for host in hosts] == [True, True, False]
    long_host = f"{'x' * 1000}.example"
    assert not serves(long_host)


def test_changed_files_are_reloaded(authority: CertificateAuthority) -> None:
    first, second = authority.issue("one.example"), authority.issue("two.example")
    certificates = certificates_of(first, second)
    assert reload_twice(certificates) == []
    authority.issue("two.example", "new.example", into=second)
    (change,) = reload_twice(certificates)
    assert change.certificate == second.certificate
    assert change.names == ("two.example", "new.example")
    assert change.expires is not None
    assert change.error is None
    assert shown_certificate(certificates, "new.example") == der(second)
    assert shown_certificate(certificates, "two.example") == der(second)
    assert shown_certificate(certificates, None) == der(first)
    authority.issue("other.example", into=first)
    assert len(reload_twice(certificates)) == 1
    assert shown_certificate(certificates, "one.example") == der(first)
    assert reload_twice(certificates) == []


def test_files_that_are_still_changing_are_not_reloaded(authority: CertificateAuthority) -> None:
    pair = authority.issue("one.example")
    certificates = certificates_of(pair)
    old = der(pair)
    for _round in range(3):
        authority.issue("one.example", into=pair)
        assert asyncio.run(certificates.reload_changed()) == []
        assert shown_certificate(certificates, "one.example") == old
    assert len(asyncio.run(certificates.reload_changed())) == 1
    assert shown_certificate(certificates, "one.example") == der(pair)


def spoil_with_nonsense(pair: Pair) -> None:
    replace(pair.certificate, b"no certificate")


def spoil_with_anothers_key(pair: Pair) -> None:
    replace(pair.key, pair.key.with_name("other.key").read_bytes())


def spoil_by_removal(pair: Pair) -> None:
    pair.key.unlink()


@pytest.mark.parametrize("spoil", [spoil_with_nonsense, spoil_with_anothers_key, spoil_by_removal])
def test_unusable_files_change_nothing_and_are_reported_once(tmp_path: Path, spoil: object) -> None:
    authority = CertificateAuthority(tmp_path)
    authority.issue("x", into=Pair(tmp_path / "other.pem", tmp_path / "other.key"))
    pair = authority.issue("one.example")
    certificates = certificates_of(pair)
    old = der(pair)
    assert callable(spoil)
    spoil(pair)
    (change,) = reload_twice(certificates)
    assert change.error is not None
    assert str(pair.certificate) in change.error
    assert shown_certificate(certificates, "one.example") == old
    assert reload_twice(certificates) == []
    authority.issue("one.example", into=pair)
    (change,) = reload_twice(certificates)
    assert change.error is None
    assert shown_certificate(certificates, "one.example") == der(pair)


@pytest.mark.parametrize("spoil", [spoil_with_nonsense, spoil_with_anothers_key, spoil_by_removal])
def test_unusable_files_at_start_raise_with_their_name(tmp_path: Path, spoil: object) -> None:
    authority = CertificateAuthority(tmp_path)
    authority.issue("x", into=Pair(tmp_path / "other.pem", tmp_path / "other.key"))
    pair = authority.issue("one.example")
    assert callable(spoil)
    spoil(pair)
    with pytest.raises(CertificateError, match=str(pair.certificate)):
        certificates_of(pair)


def test_encrypted_key_is_refused_without_a_prompt(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = authority.issue("one.example")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateError, match=str(locked)):
        certificates_of(Pair(pair.certificate, locked))


def test_certificate_that_cannot_be_parsed_is_refused_and_the_next_one_is_loaded(
    authority: CertificateAuthority,
) -> None:
    pair = authority.issue("one.example")
    certificates = certificates_of(pair)
    # [2] "odd.test", [5] an ediPartyName "x" (RFC 5280 §4.2.1.6)
    names = bytes.fromhex("301182086f64642e74657374a505a1030c0178")
    san = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, names)
    authority.issue(into=pair, extension=san)
    (change,) = reload_twice(certificates)
    assert change.error is not None
    authority.issue("two.example", into=pair)
    (change,) = reload_twice(certificates)
    assert (change.error, change.names) == (None, ("two.example",))
    assert shown_certificate(certificates, None) == der(pair)
