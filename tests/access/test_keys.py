"""Public keys: accepted PEM files, and verified signatures."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from streamedge.access.keys import (
    PEM_LIMIT_BYTES,
    HashName,
    KeyFileError,
    PublicKey,
    load_public_key,
)
from tests.support.http.signers import Signer, ecdsa_signer, rsa_signer
from tests.support.patience import PATIENCE_S

MESSAGE = b"message"


def _pem(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
    form: serialization.PublicFormat = serialization.PublicFormat.SubjectPublicKeyInfo,
) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, form)


@pytest.mark.parametrize("hash_name", ["SHA1", "SHA256"])
@pytest.mark.parametrize("make", [rsa_signer, ecdsa_signer])
def test_signature_verifies_with_its_own_key_and_hash_only(
    make: Callable[..., Signer], hash_name: HashName
) -> None:
    signer = make("K1", hash_name=hash_name)
    other: HashName = "SHA256" if hash_name == "SHA1" else "SHA1"
    signature = signer.sign(MESSAGE)
    assert signer.public.verifies(signature, MESSAGE, hash_name)
    assert not signer.public.verifies(signature, MESSAGE, other)
    assert not signer.public.verifies(signature, MESSAGE + b"x", hash_name)
    assert not signer.public.verifies(signature[:-1], MESSAGE, hash_name)
    assert not signer.public.verifies(signature + b"\0", MESSAGE, hash_name)
    assert not make("K2", hash_name=hash_name).public.verifies(signature, MESSAGE, hash_name)


@pytest.mark.parametrize("signer", [rsa_signer(), ecdsa_signer()], ids=["RSA", "ECDSA"])
@given(signature=st.binary(max_size=300))
def test_random_bytes_do_not_verify(signer: Signer, signature: bytes) -> None:
    assert not signer.public.verifies(signature, MESSAGE, "SHA1")


def test_key_has_its_algorithm_in_words() -> None:
    assert rsa_signer().public.algorithm == "RSA-2048"
    assert ecdsa_signer().public.algorithm == "ECDSA P-256"


def test_fingerprint_equals_that_of_openssl() -> None:
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"],
        input=rsa_signer().public_pem,
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256"],
        input=der,
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout
    assert rsa_signer().public.fingerprint == digest.split()[-1].decode()


def test_pkcs_1_key_is_accepted() -> None:
    key = rsa_signer().private.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert load_public_key("K", _pem(key, serialization.PublicFormat.PKCS1)).verifies(
        rsa_signer().sign(MESSAGE), MESSAGE, "SHA1"
    )


def test_reloaded_key_is_equal() -> None:
    pem = rsa_signer().public_pem
    first, again = load_public_key("K", pem), load_public_key("K", pem)
    assert (first, hash(first)) == (again, hash(again))
    assert first != load_public_key("K2", pem)
    assert first != load_public_key("K", ecdsa_signer().public_pem)
    assert first != "K"


EXPECTED = 'expected a public key in PEM, beginning "-----BEGIN PUBLIC KEY-----"'
EXPECTED_KIND = "expected an RSA key of 2048 to 4096 bits or an ECDSA key on P-256"


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", EXPECTED),
        (b"ssh-rsa AAAAB3Nza", EXPECTED),
        (rsa_signer().public_pem[:200], EXPECTED),
        (rsa_signer().public_pem.replace(b"A", b"\xff"), EXPECTED),
        (rsa_signer().public_pem + b"\n" * PEM_LIMIT_BYTES, "in at most 16384 bytes of PEM"),
        (rsa_signer().private_pem, "this is a private key"),
        (_pem(rsa.generate_private_key(65537, 1024).public_key()), EXPECTED_KIND),
        (_pem(ec.generate_private_key(ec.SECP384R1()).public_key()), EXPECTED_KIND),
        (_pem(ec.generate_private_key(ec.SECP256K1()).public_key()), EXPECTED_KIND),
        (_pem(ed25519.Ed25519PrivateKey.generate().public_key()), EXPECTED_KIND),
    ],
    ids=["empty", "ssh", "cut", "bytes", "long", "private", "1024", "P-384", "K-256", "Ed25519"],
)
def test_invalid_pem_file_is_refused(pem: bytes, reason: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        load_public_key("K", pem)
    assert reason in str(caught.value)


@given(st.binary(max_size=300))
def test_any_file_is_a_key_or_refused(content: bytes) -> None:
    pem = b"-----BEGIN PUBLIC KEY-----\n" + content + b"\n-----END PUBLIC KEY-----\n"
    for each in (content, pem):
        with pytest.raises(KeyFileError):
            assert isinstance(load_public_key("K", each), PublicKey)
