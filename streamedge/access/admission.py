"""Who may have what: the one decision for HTTP and RTMP.

Owns the order of the questions and what an answer is worth: a grant, which holds for its time and
its networks without the signature being looked at again, or a refusal with the reason for the log.
A signed URL outranks cookies, and nothing of a policy is read before its signature has proved
right. Pure: the caller says what time it is, who asks, and for what.
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

RESOURCES_LIMIT = 24  # verifications of one canned policy: one for each spelling, two past ASCII
NO_MATCH = "signature does not match"


@dataclass(frozen=True, slots=True)
class CountryRule:
    """Which countries may have it; codes are ISO 3166-1 alpha-2 in upper case."""

    listed: frozenset[str]
    is_allow_list: bool
    unknown_allowed: bool

    def allows(self, country: str) -> bool:
        """Whether a viewer in ``country`` may have it; "" is an address nobody knows."""
        if not country:
            return self.unknown_allowed
        return (country in self.listed) is self.is_allow_list


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What a distribution or behavior asks of its viewers.

    ``keys`` by id: None opens it to all, an empty mapping to nobody. ``countries``: None is all.
    """

    keys: Mapping[str, PublicKey] | None = None
    countries: CountryRule | None = None


OPEN_TO_ALL = AccessRules()


class Authorized(NamedTuple):
    """What a signature allows, and of which of the ``resources`` that were asked for."""

    grant: Grant
    resources: tuple[str, ...]


def verify(
    keys: Mapping[str, PublicKey] | None,
    query: str,
    cookies: str,
    resources: Sequence[str],
    address: IpAddress,
    now_s: float,
    remembered: SignatureCache,
    limit_bytes: int = SIGNATURE_LIMIT_BYTES,
) -> Grant | Denied:
    """Whether query or cookies of a request hold a signature by one of ``keys`` that allows it.

    The arguments are those of ``authorize``; any of ``resources`` will do.
    """
    if keys is None:
        return OPEN
    found = authorize(keys, query, cookies, resources, address, now_s, remembered, limit_bytes)
    return found.grant if isinstance(found, Authorized) else found


def authorize(
    keys: Mapping[str, PublicKey],
    query: str,
    cookies: str,
    resources: Sequence[str],
    address: IpAddress,
    now_s: float,
    remembered: SignatureCache,
    limit_bytes: int = SIGNATURE_LIMIT_BYTES,
) -> Authorized | Denied:
    """Which of ``resources`` a signature by one of ``keys`` allows now; Denied when none.

    ``query`` is the request's own, signature included. ``resources``: the spellings of what is
    asked for that a signer may have signed, likeliest first, without the signature's parameters;
    URLs (their host one that was checked) or stream names. Over all of them no more than
    RESOURCES_LIMIT verifications are made; a canned policy is found for one resource at most.
    """
    signed, _rest = from_query(query, limit_bytes)
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
        found = _custom(key, signed, resources, remembered)
    else:
        found = _canned(key, signed, resources[:RESOURCES_LIMIT], now_s, remembered)
    if isinstance(found, Denied) or found.grant.holds(address, now_s):
        return found
    return Denied(found.grant.why_not(now_s))


def _canned(
    key: PublicKey,
    signed: Signed,
    resources: Sequence[str],
    now_s: float,
    remembered: SignatureCache,
) -> Authorized | Denied:
    for resource in resources:
        known = remembered.find(key, signed, resource)
        if known is not None:
            return Authorized(known.grant, (resource,))
    if now_s >= signed.expires_s:  # cheaper than to find out whether it was right once
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
            remembered.keep(key, signed, resource, VerifiedSignature(grant, None))
            return Authorized(grant, (resource,))
    return Denied(NO_MATCH)


def _custom(
    key: PublicKey, signed: Signed, resources: Sequence[str], remembered: SignatureCache
) -> Authorized | Denied:
    known = remembered.find(key, signed, "")
    if known is None:
        verified = _verified(key, signed)
        if isinstance(verified, Denied):
            return verified
        known = verified
        remembered.keep(key, signed, "", known)
    assert known.pattern is not None
    matching = tuple(filter(known.pattern.match, resources))
    return (
        Authorized(known.grant, matching) if matching else Denied("policy is for another resource")
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
