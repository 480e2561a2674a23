"""Signs test requests: with botocore for URLs and stream names, by the manual for cookies."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.signers import CloudFrontSigner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from streamedge.access.keys import HashName, PublicKey, load_public_key

HASHES: Mapping[str, SHA1 | SHA256] = {"SHA1": SHA1(), "SHA256": SHA256()}


@dataclass(frozen=True)
class Signer:
    """A private key that signs as CloudFront's publishers do."""

    key_id: str
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    hash_name: HashName = "SHA1"

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(message, padding.PKCS1v15(), HASHES[self.hash_name])
        return self.private.sign(message, ec.ECDSA(HASHES[self.hash_name]))

    @property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def private_pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public(self) -> PublicKey:
        return load_public_key(self.key_id, self.public_pem)

    @property
    def keys(self) -> dict[str, PublicKey]:
        return {self.key_id: self.public}

    def url(self, url: str, *, expires_s: int | None = None, policy: str | None = None) -> str:
        """Signs ``url`` or a stream's name with botocore; a canned or a custom policy."""
        until = None if expires_s is None else datetime.fromtimestamp(expires_s, UTC)
        signer = CloudFrontSigner(self.key_id, self.sign)
        signed: str = signer.generate_presigned_url(url, date_less_than=until, policy=policy)
        return signed if self.hash_name == "SHA1" else f"{signed}&Hash-Algorithm={self.hash_name}"

    def cookies(self, *, policy: str, expires_s: int | None = None) -> str:
        """The Cookie field for a policy; with ``expires_s`` for a canned policy."""
        first = (
            f"Policy={url_safe(policy.encode())}" if expires_s is None else f"Expires={expires_s}"
        )
        pairs = [
            first,
            f"Signature={url_safe(self.sign(policy.encode()))}",
            f"Key-Pair-Id={self.key_id}",
        ]
        if self.hash_name != "SHA1":
            pairs.append(f"Hash-Algorithm={self.hash_name}")
        return "; ".join(f"CloudFront-{pair}" for pair in pairs)


@cache
def rsa_signer(key_id: str = "K2JCJMDEHXQW5F", hash_name: HashName = "SHA1") -> Signer:
    """The signer with an RSA key of 2048 bits; cached."""
    return Signer(key_id, _rsa_key(key_id), hash_name)


@cache
def ecdsa_signer(key_id: str = "KECDSA", hash_name: HashName = "SHA1") -> Signer:
    """The signer with an ECDSA key on P-256; cached."""
    return Signer(key_id, _ecdsa_key(key_id), hash_name)


@cache
def _rsa_key(_key_id: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def _ecdsa_key(_key_id: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def url_safe(content: bytes) -> str:
    """Base64 with the Developer Guide's replacements of invalid characters."""
    text = b64encode(content).decode()
    return text.replace("+", "-").replace("=", "_").replace("/", "~")


def custom_policy(
    resource: str | None,
    until_s: object,
    *,
    from_s: object = None,
    networks: object = None,
    as_list: bool = True,
) -> str:
    """A policy with one statement, as an object or in a list."""
    condition: dict[str, Any] = {"DateLessThan": {"AWS:EpochTime": until_s}}
    if from_s is not None:
        condition["DateGreaterThan"] = {"AWS:EpochTime": from_s}
    if networks is not None:
        condition["IpAddress"] = {"AWS:SourceIp": networks}
    statement: dict[str, Any] = {"Condition": condition}
    if resource is not None:
        statement = {"Resource": resource, **statement}
    document = {"Statement": [statement] if as_list else statement}
    return json.dumps(document, separators=(",", ":"))
