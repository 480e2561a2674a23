"""The access decision for HTTP and RTMP.

A request gets a grant, which is valid for a time and for networks and needs no second signature
check, or a refusal with a reason for the log. A signed URL takes precedence over cookies. A policy
is parsed only after its signature is verified. Pure: the caller passes the time, the client's
address and the resources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from streamedge.access.grants import EXPIRED, OPEN, Denied, Grant, IpAddress
from streamedge.access.keys import PublicKey
from streamedge.access.policy import PolicyError, canned_messages, parse_policy
from streamedge.access.signature_cache import SignatureCache, VerifiedSignature
from streamedge.access.signed_request import (
    SIGNATURE_LIMIT_BYTES,
    SignatureError,
    Signed,
    decode,
    from_cookies,
    from_query,
)
from streamedge.access.wildcards import compile_pattern

__all__ = [
    "NO_MATCH",
    "OPEN",
    "OPEN_TO_ALL",
    "AccessRules",
    "Authorized",
    "CountryRule",
    "Denied",
    "Grant",
    "IpAddress",
    "SignatureCache",
    "authorize",
    "verify",
]

RESOURCES_LIMIT = 24  # verifications of a canned policy: one for each form, two if not ASCII
NO_MATCH = "signature does not match"


@dataclass(frozen=True, slots=True)
class CountryRule:
    """Which countries are allowed; codes are ISO 3166-1 alpha-2 in upper case."""

    listed: frozenset[str]
    is_allow_list: bool
    unknown_allowed: bool

    def allows(self, country: str) -> bool:
        """Whether viewers in ``country`` are allowed; "" is an unknown country."""
        if not country:
            return self.unknown_allowed
        return (country in self.listed) is self.is_allow_list


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The access rules of a distribution or behavior.

    ``keys`` by id: None allows all viewers, an empty mapping none. ``countries``: None is all.
    """

    keys: Mapping[str, PublicKey] | None = None
    countries: CountryRule | None = None


OPEN_TO_ALL = AccessRules()


class Authorized(NamedTuple):
    """The grant of a signature, and the requested ``resources`` that it is valid for."""

    grant: Grant
    resources: tuple[str, ...]


def verify(
    keys: Mapping[str, PublicKey] | None,
    query: str,
    cookies: str,
    resources: Sequence[str],
    address: IpAddress,
    now_s: float,
    signatures: SignatureCache,
    limit_bytes: int = SIGNATURE_LIMIT_BYTES,
) -> Grant | Denied:
    """Whether the query or cookies of a request hold a signature by one of ``keys`` that allows it.

    The arguments are those of ``authorize``; a signature for any one of ``resources`` is enough.
    """
    if keys is None:
        return OPEN
    result = authorize(keys, query, cookies, resources, address, now_s, signatures, limit_bytes)
    return result.grant if isinstance(result, Authorized) else result


def authorize(
    keys: Mapping[str, PublicKey],
    query: str,
    cookies: str,
    resources: Sequence[str],
    address: IpAddress,
    now_s: float,
    signatures: SignatureCache,
    limit_bytes: int = SIGNATURE_LIMIT_BYTES,
) -> Authorized | Denied:
    """Which of ``resources`` a signature by one of ``keys`` allows now; Denied when none.

    ``query`` is the query of the request, including the signature. ``resources``: the forms of the
    resource that a signer may have signed, most likely first, without the signature parameters:
    URLs (with a host that was checked) or stream names. At most RESOURCES_LIMIT verifications are
    made in total; a canned policy is valid for one resource at most.
    """
    signed, _query = from_query(query, limit_bytes)
    if signed is None:
        signed = from_cookies(cookies, limit_bytes)
    if signed is None:
        return Denied("not signed")
    if isinstance(signed, SignatureError):
        return Denied(signed.reason)
    key = keys.get(signed.key_id)
    if key is None:
        return Denied("key is not trusted")
    if signed.policy_text:
        result = _custom(key, signed, resources, signatures)
    else:
        result = _canned(key, signed, resources[:RESOURCES_LIMIT], now_s, signatures)
    if isinstance(result, Denied) or result.grant.holds(address, now_s):
        return result
    return Denied(result.grant.denial_reason(now_s))


def _canned(
    key: PublicKey,
    signed: Signed,
    resources: Sequence[str],
    now_s: float,
    signatures: SignatureCache,
) -> Authorized | Denied:
    for resource in resources:
        cached = signatures.find(key, signed, resource)
        if cached is not None:
            return Authorized(cached.grant, (resource,))
    if now_s >= signed.expires_s:  # cheaper than a verification
        return Denied(EXPIRED)
    signature = decode(signed.signature_text)
    if signature is None:
        return Denied(_MALFORMED)
    messages = (
        (resource, message)
        for resource in resources
        for message in canned_messages(resource, signed.expires_s)
    )
    for resource, message in islice(messages, RESOURCES_LIMIT):
        if key.verifies(signature, message, signed.hash_name):
            grant = Grant(signed.expires_s, 0, (), key.key_id)
            signatures.store(key, signed, resource, VerifiedSignature(grant, None))
            return Authorized(grant, (resource,))
    return Denied(NO_MATCH)


def _custom(
    key: PublicKey, signed: Signed, resources: Sequence[str], signatures: SignatureCache
) -> Authorized | Denied:
    cached = signatures.find(key, signed, "")
    if cached is None:
        verified = _verified(key, signed)
        if isinstance(verified, Denied):
            return verified
        cached = verified
        signatures.store(key, signed, "", cached)
    pattern = cached.pattern
    matching = () if pattern is None else tuple(filter(pattern.match, resources))
    return (
        Authorized(cached.grant, matching) if matching else Denied("policy is for another resource")
    )


def _verified(key: PublicKey, signed: Signed) -> VerifiedSignature | Denied:
    content, signature = decode(signed.policy_text), decode(signed.signature_text)
    if content is None or signature is None:
        return Denied(_MALFORMED)
    if not key.verifies(signature, content, signed.hash_name):
        return Denied(NO_MATCH)
    try:
        policy = parse_policy(content)
    except PolicyError as exc:
        return Denied(str(exc))
    grant = Grant(policy.until_s, policy.from_s, policy.networks, key.key_id)
    return VerifiedSignature(grant, compile_pattern(policy.resource))


_MALFORMED = "signature is malformed"
