"""CloudFront's policies: what a signer allows, as the JSON that was signed.

Checks the JSON's shape and limits, and builds the exact bytes of a canned policy. An unknown
condition is an error and never ignored, because it was meant to restrict access. ``wildcards``
matches a Resource and ``keys`` verifies signatures. Pure.

Source: CloudFront Developer Guide, "Creating a signed URL using a canned policy" and "… a custom
policy". Beyond it: IPv6 networks, and a list of networks as AWS:SourceIp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Never

from streamedge.errors import StreamEdgeError

Network = IPv4Network | IPv6Network

POLICY_LIMIT_BYTES = 8 << 10
DEPTH_LIMIT = 8  # a policy needs six levels
EPOCH_MAX_S = 253_402_300_799  # the last second of the year 9999; larger values are milliseconds
NETWORKS_LIMIT = 64
_DIGITS_LIMIT = 15
_STRUCTURE = re.compile(r'\\[\s\S]|["{}\[\]]')

_EPOCH = "AWS:EpochTime"
_SOURCE = "AWS:SourceIp"
# Signers write this network for any address, IPv6 included.
_ANY_IPV4 = ip_network("0.0.0.0/0")


class PolicyError(StreamEdgeError):
    """A policy cannot be used; the message is a few words for the log."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is allowed: ``resource`` ("" is everything), from ``from_s`` until before ``until_s``.

    Both are seconds of the epoch. ``networks``: allowed client networks; empty is any.
    """

    resource: str
    until_s: float
    from_s: float
    networks: tuple[Network, ...]


def parse_policy(content: bytes) -> Policy:
    """The policy in ``content``. Raises PolicyError, in time and memory linear in its size."""
    if len(content) > POLICY_LIMIT_BYTES:
        raise PolicyError(f"policy has more than {POLICY_LIMIT_BYTES} bytes")
    document = _members("policy", _read(content), required={"Statement"})
    statements = document["Statement"]
    if isinstance(statements, list):
        if len(statements) != 1:
            raise PolicyError("policy does not have exactly one statement")
        statements = statements[0]
    statement = _members("statement", statements, required={"Condition"}, optional={"Resource"})
    resource = statement.get("Resource", "")
    if not isinstance(resource, str):
        raise PolicyError("Resource is not a string")
    condition = _members(
        "Condition",
        statement["Condition"],
        required={"DateLessThan"},
        optional={"DateGreaterThan", "IpAddress"},
    )
    return Policy(
        resource=resource,
        until_s=_epoch_s("DateLessThan", condition["DateLessThan"]),
        from_s=_epoch_s("DateGreaterThan", condition.get("DateGreaterThan", {_EPOCH: 0})),
        networks=_networks(condition["IpAddress"]) if "IpAddress" in condition else (),
    )


def canned_policy(resource: str, expires_s: int) -> bytes:
    """The canned policy of one resource in botocore's form: without spaces, ASCII only."""
    return _CANNED % (json.dumps(resource).encode(), expires_s)


def canned_messages(resource: str, expires_s: int) -> tuple[bytes, ...]:
    """The forms in which signers write the canned policy: non-ASCII escaped, or as UTF-8."""
    escaped = canned_policy(resource, expires_s)
    if resource.isascii():
        return (escaped,)
    # A lone surrogate must not raise; its bytes are not UTF-8, so no signer has signed them.
    unescaped = json.dumps(resource, ensure_ascii=False).encode(errors="surrogatepass")
    return escaped, _CANNED % (unescaped, expires_s)


_CANNED = b'{"Statement":[{"Resource":%s,"Condition":{"DateLessThan":{"AWS:EpochTime":%d}}}]}'


def _read(content: bytes) -> object:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise PolicyError("policy is not UTF-8") from exc
    if _depth(text) > DEPTH_LIMIT:  # checked before the parser, which would exhaust the stack
        raise PolicyError("policy is nested too deeply")
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_members,
            parse_int=_integer,
            parse_float=_not_an_integer,
            parse_constant=_not_an_integer,
        )
    except json.JSONDecodeError as exc:
        raise PolicyError("policy is not JSON") from exc


def _depth(text: str) -> int:
    depth = deepest = 0
    is_quoted = False
    for mark in _STRUCTURE.findall(text):
        if mark == '"':
            is_quoted = not is_quoted
        elif is_quoted:
            continue
        elif mark in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "}]":
            depth -= 1
    return deepest


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise PolicyError("policy has a member twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_LIMIT:
        raise PolicyError("policy has a number that is too large")
    return int(digits)


def _not_an_integer(_text: str) -> Never:
    raise PolicyError("policy has a number that is not whole")


def _members(
    name: str,
    value: object,
    *,
    required: AbstractSet[str],
    optional: AbstractSet[str] = frozenset(),
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{name} is not a JSON object")
    if missing := required - value.keys():
        raise PolicyError(f"{name} has no {min(missing)}")
    if value.keys() - required - optional:
        # The member is not named: it is text of the viewer.
        raise PolicyError(f"{name} has an unknown member")
    return value


def _epoch_s(name: str, value: object) -> int:
    seconds = _members(name, value, required={_EPOCH})[_EPOCH]
    if type(seconds) is not int or not 0 <= seconds <= EPOCH_MAX_S:
        raise PolicyError(f"{name} is not a number of seconds since 1970")
    return seconds


def _networks(value: object) -> tuple[Network, ...]:
    source = _members("IpAddress", value, required={_SOURCE})[_SOURCE]
    texts = source if isinstance(source, list) else [source]
    if not 0 < len(texts) <= NETWORKS_LIMIT:
        raise PolicyError(f"IpAddress does not have 1 to {NETWORKS_LIMIT} networks")
    networks = tuple(_network(each) for each in texts)
    return () if _ANY_IPV4 in networks else networks


def _network(text: object) -> Network:
    if not isinstance(text, str):
        raise PolicyError("IpAddress is not a string")
    try:
        return ip_network(text, strict=False)
    except ValueError as exc:
        raise PolicyError("IpAddress is neither an address nor a network") from exc
