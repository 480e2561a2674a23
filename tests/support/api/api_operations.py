"""The operations that an edge offers, and example or generated values of their shapes."""

from __future__ import annotations

import datetime
from typing import Any

from botocore.model import ListShape, Shape, StringShape, StructureShape
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

OFFERED_OPERATIONS = (
    *("CreateDistribution", "CreateDistributionWithTags", "GetDistribution"),
    *("GetDistributionConfig", "UpdateDistribution", "ListDistributions", "DeleteDistribution"),
    *("CreateStreamingDistribution", "CreateStreamingDistributionWithTags"),
    *("GetStreamingDistribution", "GetStreamingDistributionConfig"),
    *("UpdateStreamingDistribution", "ListStreamingDistributions", "DeleteStreamingDistribution"),
    *("TagResource", "UntagResource", "ListTagsForResource"),
    *(
        f"{verb}{kind}"
        for kind in (
            *("OriginAccessControl", "CloudFrontOriginAccessIdentity"),
            *("CachePolicy", "OriginRequestPolicy"),
            *("ResponseHeadersPolicy", "PublicKey", "KeyGroup"),
        )
        for verb in ("Create", "Get", "Update", "Delete")
    ),
    *("GetOriginAccessControlConfig", "GetCachePolicyConfig", "GetOriginRequestPolicyConfig"),
    *("GetResponseHeadersPolicyConfig", "GetPublicKeyConfig", "GetKeyGroupConfig"),
    *("ListOriginAccessControls", "ListCachePolicies", "ListOriginRequestPolicies"),
    *("ListResponseHeadersPolicies", "ListPublicKeys", "ListKeyGroups"),
    *("GetCloudFrontOriginAccessIdentityConfig", "ListCloudFrontOriginAccessIdentities"),
    *(
        f"ListDistributionsBy{what}"
        for what in (
            *("CachePolicyId", "OriginRequestPolicyId", "ResponseHeadersPolicyId", "KeyGroup"),
            *("WebACLId", "RealtimeLogConfig", "VpcOriginId", "ConnectionMode"),
            "AnycastIpListId",
        )
    ),
    *("CreateInvalidation", "GetInvalidation", "ListInvalidations"),
)

_NOON = datetime.datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=datetime.UTC)
_CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), include_characters="\n")
_TEXT = _CHARACTERS.filter(lambda character: character not in "\ufffe\uffff")
_OPTIONAL_DEPTH = 3  # below it only what is required: documents stay small
_INTEGER_MAX = {"integer": (1 << 31) - 1, "long": (1 << 63) - 1}


def example(shape: Shape | None) -> Any:
    """A value with every member, and one item in each list (or as few as allowed)."""
    if shape is None:
        return {}
    if isinstance(shape, StructureShape):
        value = {name: example(member) for name, member in shape.members.items()}
        return _counted(value)
    if isinstance(shape, ListShape):
        return [example(shape.member)] * max(1, shape.metadata.get("min", 0))
    if isinstance(shape, StringShape):
        return shape.enum[-1] if shape.enum else f"/{shape.name} <&> 'é'"[: _longest(shape)]
    values = {"boolean": True, "integer": 7, "long": 1 << 40, "double": 2.5, "timestamp": _NOON}
    return values[shape.type_name]


def values(shape: Shape | None) -> SearchStrategy[Any]:
    """Any value that the shape allows; the member that is the body is always present."""
    if shape is None:
        return st.just({})
    payload = shape.serialization.get("payload")
    if payload is None or not isinstance(shape, StructureShape):
        return _values(shape, 0)
    body = _values(shape.members[payload], 1)
    return st.builds(lambda value, body: value | {payload: body}, _values(shape, 0, payload), body)


def _values(shape: Shape, depth: int, but: str = "") -> SearchStrategy[Any]:
    if isinstance(shape, StructureShape):
        must, may = {}, {}
        for name, member in shape.members.items():
            if name in shape.required_members and name != but:
                must[name] = _values(member, depth + 1)
            elif depth < _OPTIONAL_DEPTH and name != but:
                may[name] = _values(member, depth + 1)
        return st.fixed_dictionaries(must, optional=may).map(_counted)
    least = shape.metadata.get("min", 0)
    if isinstance(shape, ListShape):
        return st.lists(_values(shape.member, depth), min_size=least, max_size=max(least, 2))
    if isinstance(shape, StringShape):
        if shape.enum:
            return st.sampled_from(shape.enum)
        return st.text(_TEXT, min_size=max(least, 1), max_size=min(12, _longest(shape)))
    if shape.type_name == "timestamp":
        times = st.datetimes(
            datetime.datetime(1970, 1, 1), timezones=st.just(datetime.UTC), allow_imaginary=False
        )
        return times.map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000))
    if shape.type_name == "boolean":
        return st.booleans()
    if shape.type_name == "double":
        return st.floats(0, 100, allow_subnormal=False).map(lambda number: round(number, 4))
    largest = _INTEGER_MAX[shape.type_name]
    return st.integers(-largest - 1, largest)


def _counted(value: dict[str, Any]) -> dict[str, Any]:
    if "Quantity" in value:
        value["Quantity"] = len(value.get("Items", ()))
    return value


def _longest(shape: Shape) -> int:
    longest: int = shape.metadata.get("max", 100)
    return longest
