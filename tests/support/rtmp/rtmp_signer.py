"""A signer of stream names: botocore's CloudFrontSigner with test keys."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from botocore.signers import CloudFrontSigner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from streamedge.access.keys import PublicKey, load_public_key

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~"


class StreamSigner:
    """Signs as ``key_id``; ``sign`` returns the raw signature of a policy."""

    def __init__(self, key_id: str, pem: str, sign: Callable[[bytes], bytes]) -> None:
        self.key_id = key_id
        self.pem = pem
        self._signer = CloudFrontSigner(key_id, sign)

    @property
    def public_key(self) -> PublicKey:
        return load_public_key(self.key_id, self.pem.encode())

    def canned(self, resource: str, until_s: float) -> str:
        """Signs ``resource`` with a canned policy."""
        return str(self._signer.generate_presigned_url(resource, date_less_than=_moment(until_s)))

    def custom(
        self, resource: str, until_s: float, *, covering: str, from_s: float = 0, network: str = ""
    ) -> str:
        """Signs ``resource`` with a custom policy for ``covering``."""
        more: dict[str, Any] = {}
        if from_s:
            more["date_greater_than"] = _moment(from_s)
        if network:
            more["ip_address"] = network
        policy = self._signer.build_policy(covering, _moment(until_s), **more)
        return str(self._signer.generate_presigned_url(resource, policy=policy))


@functools.cache
def rsa_signer(key_id: str = "K2JCJMDEHXQW5F") -> StreamSigner:
    """A signer with an RSA key; cached."""
    key = rsa.generate_private_key(65537, 2048)
    return StreamSigner(
        key_id, _pem(key.public_key()), lambda message: key.sign(message, PKCS1v15(), SHA1())
    )


@functools.cache
def ecdsa_signer(key_id: str = "K36X4X2EO997HM") -> StreamSigner:
    """A signer with an ECDSA key on P-256; cached."""
    key = ec.generate_private_key(ec.SECP256R1())
    return StreamSigner(
        key_id, _pem(key.public_key()), lambda message: key.sign(message, ec.ECDSA(SHA1()))
    )


def changed(signed: str, at: int) -> str:
    """``signed`` with a different character at ``at``."""
    other = next(one for one in _ALPHABET if one != signed[at])
    return f"{signed[:at]}{other}{signed[at + 1 :]}"


def _moment(time_s: float) -> datetime:
    return datetime.fromtimestamp(int(time_s), UTC)


def _pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
