"""Signatures of ``aws cloudfront sign`` are granted, and denied with a byte changed."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from streamedge.access.admission import Denied, Grant, SignatureCache, verify
from tests.support.http.signers import rsa_signer
from tests.support.patience import PATIENCE_S

SIGNER = rsa_signer("K1")
NOW_S = 1_700_000_000


@pytest.mark.parametrize(
    "conditions",
    [(), ("--date-greater-than", "2020-01-01", "--ip-address", "192.0.2.0/24")],
    ids=["canned", "custom"],
)
@pytest.mark.parametrize("name", ["https://cdn.example.com/film.mp4?size=large", "dir/film"])
def test_signature_of_awscli_is_granted_and_denied_with_a_byte_changed(
    tmp_path: Path, name: str, conditions: tuple[str, ...]
) -> None:
    key = tmp_path / "key.pem"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    no_password = serialization.NoEncryption()
    key.write_bytes(SIGNER.private.private_bytes(serialization.Encoding.PEM, form, no_password))
    command = ["cloudfront", "sign", "--url", name, "--key-pair-id", "K1", "--private-key"]
    command += [f"file://{key}", "--date-less-than", "2100-01-01", *conditions]
    signed = subprocess.run(
        [sys.executable, "-m", "awscli", *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
        env={"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"},
    ).stdout
    assert signed.startswith(name)
    query = signed.removeprefix(name)[1:]
    address, signatures = ip_address("192.0.2.7"), SignatureCache()
    grant = verify(SIGNER.keys, query, "", [name], address, NOW_S, signatures)
    assert isinstance(grant, Grant)
    assert grant.until_s == 4_102_444_800
    for index, character in enumerate(query):
        changed = f"{query[:index]}{chr(ord(character) ^ 1)}{query[index + 1 :]}"
        result = verify(SIGNER.keys, changed, "", [name], address, NOW_S, signatures)
        assert isinstance(result, Denied), changed
