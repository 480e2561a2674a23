"""Signing URLs and stream names at the command line, as a publisher's own code would.

The signatures have CloudFront's forms, so they are valid there too (except for IPv6 and several
networks). Input that the edge would refuse for its form is refused here. No edge is contacted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from streamedge.access.keys import (
    HASHES,
    HashName,
    KeyFileError,
    PublicKey,
    load_public_key,
)
from streamedge.access.policy import (
    EPOCH_MAX_S,
    POLICY_LIMIT_BYTES,
    PolicyError,
    canned_policy,
    parse_policy,
)
from streamedge.access.signed_request import COOKIE_PREFIX, encode, from_query
from streamedge.access.wildcards import resource_matches
from streamedge.config.schema.units import parse_duration_s
from streamedge.delivery.rtmp.stream_names import split_stream_name
from streamedge.errors import StreamEdgeError

_URL = re.compile(r"(https?|http\*|\*)://[^/?#\s]+/[!-~]*")
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WHEN_EXPECTED = 'expected seconds of the epoch, a date such as "2030-01-31T18:00:00Z", or "2h"'


class SigningError(StreamEdgeError):
    """The input cannot be signed, or the key cannot sign; the message is for the user."""


class Terms(NamedTuple):
    """The access that is granted: its end and start in seconds of the epoch, and networks."""

    expires_s: int
    from_s: int | None = None
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, and the public key with its id at the edge."""

    public: PublicKey
    hash_name: HashName
    _key: RSAPrivateKey | EllipticCurvePrivateKey

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message`` in CloudFront's form."""
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(message, PKCS1v15(), HASHES[self.hash_name])
        return self._key.sign(message, ECDSA(HASHES[self.hash_name]))


class Signature(NamedTuple):
    """A signed policy; ``parameters`` are for the query, in CloudFront's order."""

    policy: bytes
    parameters: Mapping[str, str]

    @property
    def query(self) -> str:
        """The parameters as a query string."""
        return "&".join(f"{name}={value}" for name, value in self.parameters.items())

    @property
    def cookies(self) -> dict[str, str]:
        """The parameters as cookies, by name."""
        return {COOKIE_PREFIX + name: value for name, value in self.parameters.items()}


def load_signer(path: Path, key_id: str, hash_name: HashName) -> Signer:
    """The private key in a PEM file. Raises SigningError."""
    if not _KEY_ID.fullmatch(key_id):
        raise SigningError('a key\'s id is 1 to 64 letters, digits, "_" or "-"')
    try:
        pem = path.read_bytes()
        key = load_pem_private_key(pem, None)
    except OSError as exc:
        raise SigningError(f"{path}: {exc.strerror}") from exc
    except TypeError as exc:
        raise SigningError(f"{path} needs a password: openssl pkey writes one without") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SigningError(f"{path} is not a private key in PEM; a public key cannot sign") from exc
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise SigningError(f"{path}: expected an RSA key, or an ECDSA key on P-256")
    public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        return Signer(load_public_key(key_id, public_pem), hash_name, key)
    except KeyFileError as exc:
        raise SigningError(f"{path}: {exc}") from exc


def parse_when(text: str, now_s: float) -> int:
    """Parses seconds of the epoch, an ISO date (UTC by default) or a duration from now.

    Returns seconds of the epoch. Raises SigningError.
    """
    try:
        if text.isascii() and text.isdigit():
            when_s = int(text) if len(text) <= 15 else EPOCH_MAX_S + 1
        elif re.fullmatch(r"[0-9.]+ ?[a-z]+", text):
            when_s = int(now_s + parse_duration_s(text))
        else:
            date = datetime.fromisoformat(text)
            when_s = int(date.replace(tzinfo=date.tzinfo or UTC).timestamp())
    except ValueError as exc:
        raise SigningError(f"{_WHEN_EXPECTED}, found {text!r}") from exc
    if not 0 <= when_s <= EPOCH_MAX_S:
        raise SigningError(f"{_WHEN_EXPECTED}, found {text!r}, which is out of range")
    return when_s


def read_policy(path: Path) -> bytes:
    """The content of a policy file. Raises SigningError."""
    try:
        with path.open("rb") as file:
            content = file.read(POLICY_LIMIT_BYTES + 1).strip()
        parse_policy(content)
    except OSError as exc:
        raise SigningError(f"{path}: {exc.strerror}") from exc
    except PolicyError as exc:
        raise SigningError(f"{path}: {exc}") from exc
    return content


def sign_terms(signer: Signer, name: str, terms: Terms, now_s: float) -> Signature:
    """Signs ``name``, a URL or a stream name, with a canned policy if one is sufficient.

    A URL with ``*`` is a pattern, for cookies. Raises SigningError.
    """
    resource = _resource(name)
    _check_time(terms.expires_s, terms.from_s or 0, now_s)
    is_pattern = "*" in resource and "://" in resource
    if terms.from_s is None and not terms.networks and not is_pattern:
        policy = canned_policy(resource, terms.expires_s)
        return _signature(signer, policy, {"Expires": str(terms.expires_s)})
    pattern = resource if is_pattern else resource.replace("?", r"\?")
    return _sign_custom(signer, _custom_policy(pattern, terms))


def sign_policy(signer: Signer, name: str, policy: bytes, now_s: float) -> Signature:
    """Signs a publisher's own policy, which must cover ``name``. Raises SigningError."""
    resource = _resource(name)
    try:
        parsed = parse_policy(policy)
    except PolicyError as exc:
        raise SigningError(str(exc)) from exc
    _check_time(parsed.until_s, parsed.from_s, now_s)
    if parsed.resource != resource and not resource_matches(parsed.resource, resource):
        raise SigningError(f"the policy is for {parsed.resource}, which does not cover {resource}")
    return _sign_custom(signer, policy)


def signed_name(name: str, signature: Signature) -> str:
    """The URL or stream name with its signature. Raises SigningError."""
    if "*" in name:
        raise SigningError(
            'a name with "*" is a pattern: use --cookies, or sign one name with --policy'
        )
    return f"{name}{'&' if '?' in name else '?'}{signature.query}"


def cookie_field(signature: Signature) -> str:
    """The value of the Cookie header, for ``curl --cookie``."""
    return "; ".join(f"{name}={value}" for name, value in signature.cookies.items())


def signature_json(signer: Signer, signature: Signature, signed: str | None) -> dict[str, Any]:
    """The result as a JSON object; ``signed`` is None if cookies were requested."""
    return {
        "signed": signed,
        "cookies": signature.cookies if signed is None else None,
        "policy": signature.policy.decode(),
        "key_id": signer.public.key_id,
        "fingerprint": signer.public.fingerprint,
        "hash": signer.hash_name,
    }


def _resource(name: str) -> str:
    """The resource of a policy for ``name``: a URL unchanged; a stream without prefix and slash."""
    scheme, is_url, _ = name.partition("://")
    if is_url and "?" not in scheme:
        if scheme.lower().startswith("rtmp"):
            raise SigningError(
                "for an rtmp URL, sign only the stream name after the application: mp4:dir/film.mp4"
            )
        if not _URL.fullmatch(name) or "#" in name:
            raise SigningError(f"expected a percent-encoded URL with a path, found {name!r}")
        resource, query = name, name.partition("?")[2]
    else:
        parsed = split_stream_name(name)
        query, path = parsed.query, parsed.path.lstrip("/")
        if not path:
            raise SigningError("expected a URL or a stream name such as mp4:dir/film.mp4")
        if "?" not in name and query:
            raise SigningError('write "?", "=" and "&" of the stream name unencoded')
        resource = f"{path}?{query}" if query else path
    if from_query(query)[0] is not None:
        raise SigningError("the name is signed already")
    return resource


def _check_time(expires_s: float, from_s: float, now_s: float) -> None:
    if expires_s <= now_s:
        raise SigningError("the expiry time is in the past")
    if from_s >= expires_s:
        raise SigningError("the expiry time is before the start time")


def _custom_policy(pattern: str, terms: Terms) -> bytes:
    condition: dict[str, Any] = {"DateLessThan": {"AWS:EpochTime": terms.expires_s}}
    if terms.networks:
        networks = _networks(terms.networks)
        # CloudFront accepts one network, as a string.
        condition["IpAddress"] = {"AWS:SourceIp": networks[0] if len(networks) == 1 else networks}
    if terms.from_s is not None:
        condition["DateGreaterThan"] = {"AWS:EpochTime": terms.from_s}
    document = {"Statement": [{"Resource": pattern, "Condition": condition}]}
    return json.dumps(document, separators=(",", ":")).encode()


def _networks(texts: Sequence[str]) -> list[str]:
    try:
        return [str(ip_network(each, strict=False)) for each in texts]
    except ValueError as exc:
        raise SigningError(
            f'expected an address or a network such as "192.0.2.0/24": {exc}'
        ) from exc


def _sign_custom(signer: Signer, policy: bytes) -> Signature:
    return _signature(signer, policy, {"Policy": encode(policy)})


def _signature(signer: Signer, policy: bytes, first: dict[str, str]) -> Signature:
    parameters = {
        **first,
        "Signature": encode(signer.sign(policy)),
        "Key-Pair-Id": signer.public.key_id,
    }
    if signer.hash_name != "SHA1":  # the default of a signature without this parameter
        parameters["Hash-Algorithm"] = signer.hash_name
    return Signature(policy, parameters)
