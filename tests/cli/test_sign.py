"""Signing at the command line: equal to botocore's signatures, and valid at the edge."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from streamedge.access.admission import Denied, Grant, SignatureCache, verify
from streamedge.access.keys import HashName
from streamedge.access.policy import parse_policy
from streamedge.cli.sign import (
    Signature,
    Signer,
    SigningError,
    Terms,
    cookie_field,
    load_signer,
    parse_when,
    read_policy,
    sign_policy,
    sign_terms,
    signature_json,
    signed_name,
)
from tests.support.http.signers import Signer as Publisher
from tests.support.http.signers import custom_policy, ecdsa_signer, rsa_signer

NOW_S = 1_700_000_000
UNTIL_S = NOW_S + 3_600
URL = "https://cdn.example.com/videos/film.mp4"
NAMES = [URL, f"{URL}?size=large", "dir/film", "dir/film.mp4?color=red"]
PUBLISHER = rsa_signer("K1")


@pytest.fixture(name="signer")
def _signer(tmp_path: Path) -> Signer:
    return signer_of(PUBLISHER, tmp_path)


def signer_of(publisher: Publisher, folder: Path) -> Signer:
    path = folder / "key.pem"
    path.write_bytes(publisher.private_pem)
    return load_signer(path, publisher.key_id, publisher.hash_name)


def verified(
    signature: Signature, resource: str, *, as_cookies: bool, address: str = "192.0.2.7"
) -> Grant | Denied:
    """The decision of an edge that trusts the publisher."""
    query, cookies = ("", cookie_field(signature)) if as_cookies else (signature.query, "")
    where = ip_address(address)
    return verify(PUBLISHER.keys, query, cookies, [resource], where, NOW_S, SignatureCache())


@pytest.mark.parametrize("name", NAMES)
def test_canned_signature_equals_that_of_botocore(signer: Signer, name: str) -> None:
    signature = sign_terms(signer, name, Terms(UNTIL_S), NOW_S)
    assert signed_name(name, signature) == PUBLISHER.url(name, expires_s=UNTIL_S)


@pytest.mark.parametrize("name", NAMES)
def test_custom_policy_signature_equals_that_of_botocore(signer: Signer, name: str) -> None:
    policy = custom_policy(name, UNTIL_S, from_s=5, networks="192.0.2.0/24")
    signature = sign_policy(signer, name, policy.encode(), NOW_S)
    assert signed_name(name, signature) == PUBLISHER.url(name, policy=policy)


@pytest.mark.parametrize("hash_name", ["SHA1", "SHA256"])
def test_signature_of_each_key_type_and_hash_is_valid_at_the_edge(
    tmp_path: Path, hash_name: HashName
) -> None:
    for publisher in (rsa_signer("K1", hash_name), ecdsa_signer("K1", hash_name)):
        signature = sign_terms(signer_of(publisher, tmp_path), URL, Terms(UNTIL_S), NOW_S)
        assert ("Hash-Algorithm" in signature.parameters) is (hash_name == "SHA256")
        where = ip_address("::1")
        grant = verify(publisher.keys, signature.query, "", [URL], where, NOW_S, SignatureCache())
        assert grant == Grant(UNTIL_S, 0, (), "K1")


@pytest.mark.parametrize("as_cookies", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_edge_accepts_the_signature_for_its_resource_and_network_only(
    signer: Signer, name: str, as_cookies: bool
) -> None:
    for terms in (Terms(UNTIL_S), Terms(UNTIL_S, NOW_S, ("192.0.2.7", "2001:db8::/32"))):
        signature = sign_terms(signer, name, terms, NOW_S)
        assert isinstance(verified(signature, name, as_cookies=as_cookies), Grant)
        assert isinstance(verified(signature, f"{name}x", as_cookies=as_cookies), Denied)
        elsewhere = verified(signature, name, as_cookies=as_cookies, address="192.0.2.8")
        assert isinstance(elsewhere, Denied) is bool(terms.networks)


def test_question_mark_of_a_query_is_not_a_wildcard(signer: Signer) -> None:
    signature = sign_terms(signer, f"{URL}?a=b", Terms(UNTIL_S, NOW_S), NOW_S)
    assert parse_policy(signature.policy).resource == rf"{URL}\?a=b"
    assert isinstance(verified(signature, f"{URL}_a=b", as_cookies=False), Denied)


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (("192.0.2.7",), "192.0.2.7/32"),
        (("192.0.2.7/24",), "192.0.2.0/24"),
        (("192.0.2.0/24", "::1"), ["192.0.2.0/24", "::1/128"]),
    ],
)
def test_single_network_is_a_string_as_cloudfront_requires(
    signer: Signer, networks: tuple[str, ...], expected: object
) -> None:
    signature = sign_terms(signer, URL, Terms(UNTIL_S, None, networks), NOW_S)
    condition = json.loads(signature.policy)["Statement"][0]["Condition"]
    assert condition["IpAddress"] == {"AWS:SourceIp": expected}


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("mp4:dir/film.mp4", "dir/film.mp4"),
        ("mp3:song?a=b", "song?a=b"),
        ("/dir/film", "dir/film"),
        ("dir/film?ref=http://x/", "dir/film?ref=http://x/"),
    ],
)
def test_stream_is_signed_without_its_prefix(signer: Signer, name: str, resource: str) -> None:
    signature = sign_terms(signer, name, Terms(UNTIL_S), NOW_S)
    assert signed_name(name, signature).startswith(name)
    assert isinstance(verified(signature, resource, as_cookies=False), Grant)


@pytest.mark.parametrize("pattern", ["https://cdn.example.com/*", "http*://*/videos/*"])
def test_cookies_of_a_pattern_cover_matching_urls(signer: Signer, pattern: str) -> None:
    signature = sign_terms(signer, pattern, Terms(UNTIL_S), NOW_S)
    assert isinstance(verified(signature, URL, as_cookies=True), Grant)
    assert isinstance(verified(signature, f"{URL}?a=b", as_cookies=True), Grant)
    assert list(signature.cookies) == [
        "CloudFront-Policy",
        "CloudFront-Signature",
        "CloudFront-Key-Pair-Id",
    ]
    with pytest.raises(SigningError, match="--cookies"):
        signed_name(pattern, signature)


def test_signature_json_describes_the_signature(signer: Signer) -> None:
    signature = sign_terms(signer, URL, Terms(UNTIL_S), NOW_S)
    common = {
        "policy": signature.policy.decode(),
        "key_id": "K1",
        "fingerprint": PUBLISHER.public.fingerprint,
        "hash": "SHA1",
    }
    signed = signed_name(URL, signature)
    assert signature_json(signer, signature, signed) == {
        "signed": signed,
        "cookies": None,
        **common,
    }
    assert signature_json(signer, signature, None) == {
        "signed": None,
        "cookies": signature.cookies,
        **common,
    }


@pytest.mark.parametrize(
    ("text", "when_s"),
    [
        ("0", 0),
        ("1700003600", 1_700_003_600),
        ("2h", NOW_S + 7_200),
        ("90m", NOW_S + 5_400),
        ("1.5 d", NOW_S + 129_600),
        ("2030-01-31", 1_896_048_000),
        ("2030-01-31T18:00", 1_896_112_800),
        ("2030-01-31T18:00:00Z", 1_896_112_800),
        ("2030-01-31T18:00:00+02:00", 1_896_105_600),
    ],
)
def test_parse_when_accepts_epochs_dates_and_durations(text: str, when_s: int) -> None:
    assert parse_when(text, NOW_S) == when_s


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2x",
        "2 hours",
        "-1",
        "1e9",
        "2030-13-01",
        "1960-01-01",
        "9" * 20,
        "٣",
        "200000d",
    ],
)
def test_parse_when_refuses_other_texts(text: str) -> None:
    with pytest.raises(SigningError, match="expected seconds of the epoch, a date such as"):
        parse_when(text, NOW_S)


@pytest.mark.parametrize(
    ("name", "terms", "reason"),
    [
        ("rtmp://h/cfx/st/film", Terms(UNTIL_S), "sign only the stream name"),
        ("ftp://h/film", Terms(UNTIL_S), "expected a percent-encoded URL"),
        ("https://h", Terms(UNTIL_S), "expected a percent-encoded URL"),
        ("https://h/a b", Terms(UNTIL_S), "expected a percent-encoded URL"),
        ("https://h/é", Terms(UNTIL_S), "expected a percent-encoded URL"),
        ("https://h/a#b", Terms(UNTIL_S), "expected a percent-encoded URL"),
        ("", Terms(UNTIL_S), "expected a URL or a stream name"),
        ("mp4:", Terms(UNTIL_S), "expected a URL or a stream name"),
        ("film%3Fa%3Db", Terms(UNTIL_S), 'write "\\?"'),
        (f"{URL}?Signature=x", Terms(UNTIL_S), "the name is signed already"),
        ("film?Key-Pair-Id=x", Terms(UNTIL_S), "the name is signed already"),
        (URL, Terms(NOW_S), "the expiry time is in the past"),
        (URL, Terms(UNTIL_S, UNTIL_S), "the expiry time is before the start time"),
        (URL, Terms(UNTIL_S, None, ("everywhere",)), "expected an address or a network"),
    ],
)
def test_invalid_name_or_terms_are_refused(
    signer: Signer, name: str, terms: Terms, reason: str
) -> None:
    with pytest.raises(SigningError, match=reason):
        sign_terms(signer, name, terms, NOW_S)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("{", "policy is not JSON"),
        (custom_policy(f"{URL}x", UNTIL_S), "which does not cover"),
        (custom_policy(URL, NOW_S), "the expiry time is in the past"),
    ],
)
def test_policy_that_the_edge_would_refuse_is_refused(
    signer: Signer, policy: str, reason: str
) -> None:
    with pytest.raises(SigningError, match=reason):
        sign_policy(signer, URL, policy.encode(), NOW_S)


def test_policy_file_is_read_or_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(custom_policy(URL, UNTIL_S) + "\n")
    assert read_policy(path) == custom_policy(URL, UNTIL_S).encode()
    path.write_text("{}")
    with pytest.raises(SigningError, match="policy has no Statement"):
        read_policy(path)
    with pytest.raises(SigningError, match="No such file"):
        read_policy(tmp_path / "none.json")


def _pem(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b""
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", "is not a private key in PEM"),
        (PUBLISHER.public_pem, "is not a private key in PEM; a public key cannot sign"),
        (_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"), "needs a password"),
        (_pem(ec.generate_private_key(ec.SECP384R1())), "or an ECDSA key on P-256"),
        (_pem(ed25519.Ed25519PrivateKey.generate()), "or an ECDSA key on P-256"),
    ],
    ids=["empty", "public", "password", "P-384", "Ed25519"],
)
def test_unsuitable_private_key_is_refused(tmp_path: Path, pem: bytes, reason: str) -> None:
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(SigningError, match=reason):
        load_signer(tmp_path / "key.pem", "K1", "SHA1")


def test_missing_key_and_invalid_key_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="No such file"):
        load_signer(tmp_path / "key.pem", "K1", "SHA1")
    with pytest.raises(SigningError, match="a key's id is"):
        load_signer(tmp_path / "key.pem", "K1&x=y", "SHA1")
